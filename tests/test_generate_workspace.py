"""The workspace, as an attacker would try it: every way out that a path, a link or a race may be."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.errors import AgentRolloutsError, ToolError
from agent_rollouts.generate.workspace import MAX_FILE, Workspace, create, remove

WORD = b"nobody inside may read this"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace beside a file and a folder that it must not reach."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "word").write_bytes(WORD)
    (tmp_path / "word").write_bytes(WORD)
    root = tmp_path / "inside"
    create(root)
    (root / "sub").mkdir()
    (root / "sub" / "a.txt").write_text("a\n")
    workspace = Workspace(root, shown="/workspace")
    yield workspace
    workspace.close()
    assert (tmp_path / "word").read_bytes() == WORD
    assert sorted(os.listdir(tmp_path / "outside")) == ["word"]
    assert (tmp_path / "outside" / "word").read_bytes() == WORD
    assert sorted(os.listdir(tmp_path)) == ["inside", "outside", "word"]


def outwards(root: Path) -> list[str]:
    """Paths that lead outside, by what is made for them in the workspace."""
    beside = str(root.parent)
    (root / "up").symlink_to("..")
    (root / "abs").symlink_to(beside)
    (root / "word_abs").symlink_to(f"{beside}/word")
    (root / "word_rel").symlink_to("../word")
    (root / "deep").symlink_to("sub/../../word")
    (root / "chain1").symlink_to("chain2")
    (root / "chain2").symlink_to("up")
    (root / "sub" / "back").symlink_to("../../outside")
    (root / "proc").symlink_to(f"/proc/{os.getpid()}/cwd")
    (root / "self").symlink_to("/proc/self/root")
    (root / "almost").symlink_to("/workspace/../word")
    (root / "nowhere").symlink_to("../new")
    return [
        "../word", "sub/../../word", "./../word", "..", "sub/../..", "../inside/../word", f"{beside}/word",
        "/etc/passwd", "//etc/passwd", "/", "/workspace/../word", "/workspace/sub/../../word", "/workspacex",
        f"{root}x/word", f"{root}/../word", "up/word", "abs/word", "word_abs", "word_rel", "deep", "chain1/word",
        "sub/back/word", "up",
        "proc", "proc/word", "self/etc/passwd", "almost", "nowhere", "up/new", "abs/new", "sub/back/new",
        "up/outside/new",
    ]  # fmt: skip


def test_no_path_leads_outside(place: Workspace) -> None:
    paths = outwards(place.root)
    for path in paths:
        for attempt in (place.read, place.entries, lambda p: list(place.files(p)), lambda p: place.write(p, b"x")):
            with pytest.raises(ToolError, match="outside the workspace") as caught:
                attempt(path)
            # The model learns nothing of the folders above.
            assert str(place.root.parent) not in str(caught.value).replace(path, "")
    assert all(WORD not in data for _, data in place.files())


@pytest.mark.parametrize(
    "path", ["a\0b", "", ".", "x" * 300, "/".join("d" * 2000), "\ud800", "~/.ssh", "~root", "$HOME/x", "C:\\x", "..\\x"]
)
def test_odd_names_stay_inside(place: Workspace, path: str) -> None:
    for attempt in (lambda: place.write(path, b"x"), lambda: place.read(path), lambda: place.entries(path)):
        try:
            attempt()
        except ToolError:
            continue


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["..", ".", "", "sub", "up", "abs", "in", "loop", "/", "/workspace", "new"]), max_size=8)
)
def test_no_path_at_all_leads_outside(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    root = tmp_path_factory.getbasetemp() / "law" / "inside"
    if not root.exists():
        root.parent.mkdir(parents=True)
        create(root)
        (root / "sub").mkdir()
        for name, target in {"up": "..", "abs": str(root.parent), "in": "sub", "loop": "loop"}.items():
            (root / name).symlink_to(target)
    before = set(root.parent.iterdir())
    workspace = Workspace(root, shown="/workspace")
    try:
        workspace.write("/".join(parts), b"x")
    except ToolError:
        pass
    finally:
        workspace.close()
    assert set(root.parent.iterdir()) == before


def test_links_within_are_followed(place: Workspace) -> None:
    (place.root / "link").symlink_to("sub/a.txt")
    (place.root / "folder").symlink_to("/workspace/sub")
    (place.root / "sub" / "round").symlink_to("../folder/../sub/a.txt")
    (place.root / "dangling").symlink_to("sub/made.txt")
    assert place.read("link") == place.read("folder/a.txt") == place.read("sub/round") == b"a\n"
    assert place.read("/workspace/sub/a.txt") == place.read(f"{place.root}/sub/a.txt") == b"a\n"
    place.write("link", b"b")
    assert (place.root / "sub" / "a.txt").read_bytes() == b"b"
    assert (place.root / "link").is_symlink()
    place.write("dangling", b"c")
    assert place.read("sub/made.txt") == b"c"
    assert [entry.kind for entry in place.entries() if entry.name == "folder"] == ["link"]
    (place.root / "a").symlink_to("b")
    (place.root / "b").symlink_to("a")
    with pytest.raises(ToolError, match="too many links"):
        place.read("a")


def test_only_ordinary_files_are_read(place: Workspace) -> None:
    os.mkfifo(place.root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place.root / "sub" / "s")[-100:]) if len(str(place.root)) < 90 else None
    with (place.root / "sparse").open("wb") as file:
        file.truncate(MAX_FILE + 1)
    began = time.monotonic()
    for path in ("pipe", "sub", "sparse", "sub/s", "gone", "sub/a.txt/x"):
        with pytest.raises(ToolError):
            place.read(path)
    for path in ("pipe", "sub", ".", "sub/a.txt/x"):
        with pytest.raises(ToolError):
            place.write(path, b"x")
    with pytest.raises(ToolError, match="larger"):
        place.write("large", b"x" * (MAX_FILE + 1))
    assert [path for path, _ in place.files()] == ["sub/a.txt"]
    assert time.monotonic() - began < 60  # a pipe would have hung for ever


def test_a_hard_link_keeps_its_content(place: Workspace) -> None:
    os.link(place.root.parent / "word", place.root / "linked")
    place.write("linked", b"mine")
    assert place.read("linked") == b"mine"


def test_what_is_written_keeps_its_mode_and_is_whole(place: Workspace) -> None:
    place.write("run.sh", b"1")
    (place.root / "run.sh").chmod(0o755)
    assert place.write("run.sh", b"2") is False
    assert (place.root / "run.sh").stat().st_mode & 0o7777 == 0o755
    assert place.write("x/y/z.txt", b"3") is True
    assert [entry.name for entry in place.entries()] == ["run.sh", "sub", "x"]


@pytest.mark.parametrize("what", ["flip", "flip/word"])
@pytest.mark.parametrize("call", ["stat", "open"])
def test_no_race_leads_outside(place: Workspace, monkeypatch: pytest.MonkeyPatch, call: str, what: str) -> None:
    """A folder or file becomes a link outside at the very moment after it was looked at, at each such moment."""
    root, real, got = place.root, getattr(os, call), set()

    def attempts() -> None:
        for attempt in (
            lambda: got.add(place.read("flip/word")),
            lambda: place.write("flip/word", b"x"),
            lambda: place.write("flip/new", b"x"),
            lambda: got.update(data for _, data in place.files("flip")),
            lambda: got.update(data for _, data in place.files(".")),
        ):
            with suppress(ToolError):
                attempt()

    for moment in range(1, 30):
        shutil.rmtree(root / "flip", ignore_errors=True)
        (root / "flip").unlink(missing_ok=True)
        shutil.rmtree(root / "held", ignore_errors=True)
        (root / "flip").mkdir()
        (root / "flip" / "word").write_bytes(b"inside")
        looks = 0

        def look(*given: Any, moment: int = moment, **more: Any) -> Any:
            nonlocal looks
            found = real(*given, **more)
            looks += 1
            if looks == moment:
                (root / what).rename(root / "held")
                (root / what).symlink_to(root.parent / "outside" / ("" if what == "flip" else "word"))
            return found

        with monkeypatch.context() as patch:
            patch.setattr(os, call, look)
            attempts()
        (root / "held").unlink(missing_ok=True) if what == "flip/word" else None
    assert got <= {b"inside", b"x", b"a\n"}


def test_folders_of_any_depth_are_searched_and_removed(place: Workspace) -> None:
    """As a command may make them; Python's own walk and removal are recursive."""
    command = "i=0; while [ $i -lt 1500 ]; do mkdir d; cd -P d; i=$((i+1)); done; echo deep > f"
    subprocess.run(["/bin/sh", "-c", command], cwd=place.root, check=True)
    assert [path for path, _ in place.files()] == ["sub/a.txt"]
    with pytest.raises(ToolError, match="more than 100 folders deep"):
        place.read("/".join("d" * 1500) + "/f")
    with pytest.raises(ToolError, match="more than 100 folders deep"):
        place.write("/".join("e" * 1500) + "/f", b"")
    assert remove(place.root / "d")


def test_starting_folders_are_copied(tmp_path: Path) -> None:
    start = tmp_path / "start"
    (start / "src").mkdir(parents=True)
    (start / "src" / "a.py").write_text("a = 1\n")
    (start / "out").symlink_to("/etc")
    root = tmp_path / "w"
    create(root, folder=str(start))
    workspace = Workspace(root)
    workspace.write("src/a.py", b"a = 2\n")
    with pytest.raises(ToolError, match="outside"):
        workspace.entries("out")
    workspace.close()
    assert (start / "src" / "a.py").read_text() == "a = 1\n"
    create(root)
    assert os.listdir(root) == []
    with pytest.raises(AgentRolloutsError, match="gone is not there"):
        create(root, folder=str(tmp_path / "gone"))
    with pytest.raises(AgentRolloutsError, match="not from both"):
        create(root, folder=str(start), git_bundle="x")


def test_git_bundles_are_cloned(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*words: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *who, *words], cwd=repo, env=env, check=True, capture_output=True)

    git("init", "-b", "main")
    for text in ("one", "two"):
        (repo / "f").write_text(text)
        git("add", "f")
        git("commit", "-m", text)
    git("tag", "first", "HEAD~1")
    git("bundle", "create", "../b.bundle", "--all")
    create(tmp_path / "w", git_bundle=str(tmp_path / "b.bundle"))
    assert (tmp_path / "w" / "f").read_text() == "two"
    create(tmp_path / "w", git_bundle=str(tmp_path / "b.bundle"), git_ref="first")
    assert (tmp_path / "w" / "f").read_text() == "one"
    assert "bundle" not in (tmp_path / "w" / ".git" / "config").read_text()
    for wrong in ({"git_ref": "nope"}, {"git_ref": "--orphan"}, {"git_bundle": "gone"}, {"git_bundle": __file__}):
        with pytest.raises(AgentRolloutsError):
            create(tmp_path / "w", **{"git_bundle": str(tmp_path / "b.bundle")} | wrong)


def test_folders_without_permissions_are_removed(open_folder: Path) -> None:
    root = open_folder / "w"
    create(root)
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "f").write_text("x")
    (root / "out").symlink_to("/etc")
    for path in ("a/b", "a", "."):
        (root / path).chmod(0)
    assert remove(root)
    assert not root.exists()
    assert remove(root)
    (open_folder / "file").write_text("mine")
    with pytest.raises(AgentRolloutsError, match="no folder"):
        remove(open_folder / "file")
