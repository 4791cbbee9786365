r"""Test runners, builds, linters: which of them a command is, and what its own words say of how it ended.

A command is understood before its output is read: `RUNNERS` says by name and subcommand what a program is.
Of the output only the runner's own totals are read (`3 passed, 1 failed in 0.12s`), never lines that a test may
have printed. A run passed when its totals say so and nothing contradicts; where a filter hid part of the output
only totals that say everything in one place count, and an exit code only where it is the runner's own.
What a script or target of a name like `test` runs (`npm test`, `make check`, `tox`) is told by the totals alone.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import re2

from agent_rollouts.distill.shell import Command


class Runner(NamedTuple):
    """A program, and the words in which it sums up.

    Attributes:
        commands: its name, or its name and a subcommand.
        totals: the lines with which it sums up; None when only its exit code tells.
        bad, good: what totals hold when it failed, and when it passed.
        needs: what must be shown of the output for `good` to count: a `line`, the `end`, or `all` of it.
        select: options by which it runs a part of what it is pointed at.
        valued: further options that take a value.
    """

    name: str
    kind: str
    commands: tuple[str, ...]
    totals: str | None = None
    bad: str = ""
    good: str = ""
    needs: str = "line"
    select: tuple[str, ...] = ()
    valued: tuple[str, ...] = ()


_SOME = r"[1-9]\d*"

RUNNERS = (
    Runner(
        "pytest", "tests", ("pytest", "py.test"),
        r"^(?:=+ )?(?:\d+ (?:failed|passed|skipped|deselected|xfailed|xpassed|warnings?|errors?|rerun"
        r"|subtests (?:passed|failed))(?:, )?)+ in [0-9.]+ ?s.*$",
        rf"\b{_SOME} (?:failed|errors?|subtests failed)\b", rf"\b{_SOME} passed",
        select=("-k", "-m", "--lf", "--last-failed", "--deselect", "--ignore"),
        valued=("-n", "-p", "-c", "-o", "-W", "-r", "--maxfail", "--timeout", "--rootdir", "--tb", "--durations"),
    ),
    Runner(
        "unittest", "tests", ("unittest", "manage.py test"),
        r"^Ran \d+ tests? in [0-9.]+s\n+(?:OK|FAILED|NO TESTS RAN)\b.*$", "FAILED", rf"^Ran {_SOME} .*\n+OK",
        select=("-k", "--tag"), valued=("-s", "-p", "-t"),
    ),
    Runner(
        "jest", "tests", ("jest", "react-scripts test"),
        r"^(?:Test Suites: .* total\n)?Tests: .* total$", rf"\b{_SOME} failed",
        rf"^Test Suites: .*\n.*\b{_SOME} passed",
        select=("-t", "--testNamePattern", "--testPathPattern", "--testPathPatterns", "-o", "--onlyChanged"),
        valued=("-c", "--config", "--maxWorkers"),
    ),
    Runner(
        "vitest", "tests", ("vitest",),
        r"^ *Test Files  .*\n *Tests  .*(?:\n *(?:Type )?Errors  .*)*$|^ *Tests  [1-9]\d* failed.*$",
        rf"\b{_SOME} (?:failed|errors?)\b", rf"\bTests  .*\b{_SOME} passed",
        select=("-t", "--testNamePattern", "--changed"), valued=("-c", "--config", "--project", "--reporter"),
    ),
    Runner(
        "mocha", "tests", ("mocha",),
        r"^ +\d+ passing \(.*\)$(?:\n +\d+ pending$)?(?:\n +\d+ failing$)?|^ +\d+ failing$",
        rf"{_SOME} failing", rf"^ +{_SOME} passing", "end", select=("-g", "-f", "--grep"), valued=("-r", "--require"),
    ),
    Runner(
        "go test", "tests", ("go test",),
        r"^(?:ok[ \t]+\S+[ \t]+(?:\(cached\)|[0-9.]+s).*|FAIL(?:\t.*)?|--- FAIL: .*)$",
        r"^(?:FAIL|--- FAIL)", r"^ok[ \t]+\S+[ \t]+\S+(?:[ \t]+coverage: .*)?$", "end",
        select=("-run", "-skip", "-bench", "-short"), valued=("-count", "-timeout", "-coverprofile", "-p", "-tags"),
    ),
    Runner(
        "cargo test", "tests", ("cargo test", "cargo nextest", "cargo t"),
        r"^test result: (?:ok|FAILED)\. .*$|^error: could not compile.*$|^ *Summary \[.*\] .*tests? run: .*$",
        rf"FAILED|could not compile|\b{_SOME} (?:failed|timed out)", rf"\b{_SOME} passed", "end",
        select=("--test", "--lib", "--bin", "--doc", "-E"), valued=("-p", "--package", "--features", "-F"),
    ),
    Runner(
        "rspec", "tests", ("rspec",), r"^\d+ examples?, \d+ failures?.*$",
        rf", {_SOME} failures?|, {_SOME} errors? occurred", rf"^{_SOME} ", select=("-e", "-t"), valued=("-f", "-r"),
    ),
    Runner(
        "minitest", "tests", ("rails test", "rake test"),
        r"^\d+ (?:runs|tests), \d+ assertions, \d+ failures, \d+ errors.*$",
        rf"\b{_SOME} (?:failures|errors)", rf"^{_SOME} ", select=("-n",),
    ),
    Runner(
        "ctest", "tests", ("ctest",), r"^\d+% tests passed, \d+ tests failed out of \d+$",
        rf", {_SOME} tests failed", rf"^100% .* out of {_SOME}", select=("-R", "-E", "-L"), valued=("--test-dir", "-j"),
    ),
    Runner(
        "maven", "tests", ("mvn test", "mvn verify", "mvn package", "mvn install"),
        r"^(?:\[[A-Z]+\] )?(?:Tests run: \d+, Failures: \d+, Errors: \d+, Skipped: \d+|BUILD SUCCESS|BUILD FAILURE)$",
        rf"BUILD FAILURE|(?:Failures|Errors): {_SOME}", rf"Tests run: {_SOME}", "end", valued=("-pl", "-P", "-f"),
    ),
    Runner(
        "gradle", "tests", ("gradle test", "gradle check", "gradle build"), r"^BUILD (?:SUCCESSFUL|FAILED) in .*$",
        "FAILED", "SUCCESSFUL", select=("--tests",), valued=("-p", "-x"),
    ),
    Runner(
        "phpunit", "tests", ("phpunit",),
        r"^(?:OK \(\d+ tests?, .*\)|OK, but .*|Tests: \d+, Assertions: \d+.*)$",
        rf"(?:Failures|Errors): {_SOME}", rf"^OK \({_SOME}", select=("--filter", "--group"), valued=("-c",),
    ),
    Runner(
        "node", "tests", ("node --test",), r"^(?:#|ℹ) pass \d+\n(?:#|ℹ) fail \d+\n(?:#|ℹ) cancelled \d+$",  # noqa: RUF001
        rf"(?:fail|cancelled) {_SOME}", rf"pass {_SOME}", select=("--test-name-pattern",),
    ),
    Runner(
        "bun test", "tests", ("bun test",),
        r"^ *\d+ pass\n(?: *\d+ (?:skip|todo|filtered out)\n)* *\d+ fail(?:\n *\d+ errors?)?$",
        rf"\b{_SOME} (?:fail|errors?)\b", rf"^ *{_SOME} pass", select=("-t",),
    ),
    Runner(
        "deno test", "tests", ("deno test",), r"^(?:ok|FAILED) \| \d+ passed.* \| \d+ failed.*$", "^FAILED",
        rf"^ok \| {_SOME}", select=("--filter",),
    ),
    Runner(
        "dotnet test", "tests", ("dotnet test",), r"^(?:Passed|Failed)! +- Failed: +\d+, Passed: +\d+.*$", "^Failed",
        rf"^Passed.*, Passed: +{_SOME}", "all", select=("--filter",), valued=("-c", "-f", "-v"),
    ),
    Runner(
        "swift test", "tests", ("swift test",), r"^\s*Executed \d+ tests?, with .*\d+ failures?.*$",
        rf"\b{_SOME} failures?", rf"Executed {_SOME}", select=("--filter", "--skip"),
    ),
    Runner(
        "playwright", "tests", ("playwright test",),
        r"^ +\d+ (?:failed|flaky|interrupted|did not run|skipped|passed)(?: \(.*\))?$",
        rf"{_SOME} (?:failed|interrupted|did not run)", rf"{_SOME} passed", "all",
        select=("-g", "--grep", "--last-failed"), valued=("-c", "--project", "--reporter", "--workers"),
    ),
    Runner("cargo build", "build", ("cargo build", "cargo check", "cargo b", "cargo c"),
           r"^error: could not compile.*$|^ +Finished .*$", "^error", "Finished"),
    Runner("tsc", "build", ("tsc", "tsgo", "vue-tsc"), r"^.*\berror TS\d+: .*$", "error TS"),
    Runner("go build", "build", ("go build", "go install")),
    Runner("bundler", "build", ("vite build", "next build", "webpack", "rollup", "esbuild", "astro build")),
    Runner("make", "build", ("make", "ninja", "cmake --build", "bazel build")),
    Runner("maven", "build", ("mvn compile",), r"^(?:\[[A-Z]+\] )?BUILD (?:SUCCESS|FAILURE)$", "FAILURE", "SUCCESS"),
    Runner("gradle", "build", ("gradle assemble", "gradle compileJava"), r"^BUILD (?:SUCCESSFUL|FAILED) in .*$",
           "FAILED", "SUCCESSFUL"),
    Runner("dotnet build", "build", ("dotnet build",), r"^Build (?:succeeded\.|FAILED\.)$", "FAILED", "succeeded"),
    Runner("swift build", "build", ("swift build",)),
    Runner("mypy", "lint", ("mypy", "dmypy run"), r"^(?:Success: no issues found|Found \d+ errors? in).*$", "Found",
           "Success"),
    Runner("pyright", "lint", ("pyright", "basedpyright"), r"^\d+ errors?, \d+ warnings?.*$", rf"^{_SOME} ", "^0 "),
    Runner("ruff", "lint", ("ruff check",), r"^(?:All checks passed!|Found \d+ errors?(?:\.| \().*)$",
           rf"^Found {_SOME} errors?(?:\.$|.* {_SOME} remaining)", r"^All|\b0 remaining"),
    Runner("ty", "lint", ("ty check",), r"^(?:All checks passed!|Found \d+ diagnostics?)$", rf"{_SOME}", "All"),
    Runner("eslint", "lint", ("eslint",), r"^✖ \d+ problems? .*$", rf"\({_SOME} errors?"),
    Runner("biome", "lint", ("biome check", "biome lint", "biome ci"), r"^Found \d+ errors?\.$", rf"{_SOME}"),
    Runner("clippy", "lint", ("cargo clippy",), r"^error: could not compile.*$|^ +Finished .*$", "^error", "Finished"),
    Runner("linter", "lint", (
        "flake8", "pylint", "golangci-lint run", "go vet", "rubocop", "shellcheck", "stylelint", "prettier --check",
        "black --check", "ruff format --check", "rustfmt --check", "isort --check", "cargo fmt --check",
    )),
)  # fmt: skip
"""What is understood of runs. `needs` and `select` are explained by `Runner`."""

_COMMANDS = {tuple(command.split()): runner for runner in RUNNERS for command in runner.commands}
_TOTALS = {runner: re2.compile(f"(?m){runner.totals}") for runner in RUNNERS if runner.totals}
_ABOUT = {runner: (re2.compile(runner.bad), re2.compile(runner.good)) for runner in _TOTALS}
_ALIASES = {"mvnw": "mvn", "gradlew": "gradle", "gmake": "make", "cross": "cargo", "dmypy": "dmypy"}
# What runs something by a name that its project chose.
_SCRIPTS = frozenset(
    {"npm", "pnpm", "yarn", "bun", "make", "just", "task", "rake", "composer", "deno", "invoke", "poe"}
)
_PACKAGES = frozenset({"npm", "pnpm", "yarn", "bun"})
_MATRICES = frozenset({"tox", "nox"})
_TEST_NAME = re.compile(r"(?:^|[:_.-])(?:tests?|specs?|check|verify|ci|e2e|unit|integration)(?:$|[:_.-])")
_CHECK_NAME = re.compile(r" (?:check|verify|ci)(?:$|[:_.-])")
_LINT_NAME = re.compile(r"^(?:lint|type-?check|check-types|types|tsc)(?:$|[:_.-])")
_BUILD_NAME = re.compile(r"^(?:build|compile)(?:$|[:_.-])")
_IDLE = frozenset({"--collect-only", "--co", "--version", "--help", "-h", "--list", "--listTests", "-list", "--watch",
                   "--dry-run", "--no-run", "--fixtures", "--init", "--clean"})  # fmt: skip
_ESCAPE = re2.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# That it could not begin, was killed, or ran out of time tells nothing of what it looked at.
_NOT_ITS_OWN = frozenset({124, 126, 127, 130, 137, 143, -1})
# What agents put where they cut an output.
_CUT_OUT = re2.compile(r"<persisted-output>|(?:characters|chars|lines|tokens|bytes) truncated|Output truncated")
_NOT_BEGUN = re2.compile(
    r"command not found|[Mm]issing script|No rule to make target|No such file or directory|ENOENT|[Nn]o module named"
)

MENTIONS = re2.compile(
    r"\b(?:" + "|".join(sorted({re2.escape(w[0]) for w in _COMMANDS} | set(_ALIASES) | _SCRIPTS | _MATRICES)) + r")\b"
)
"""Finds the scripts that are worth reading."""


class Run(NamedTuple):
    """A run of tests, a build or a linter, and how it ended (`passed` is None when nothing tells).

    `runner`, `directory`, `targets` and `selection` say what was run: a target is a path under the directory.
    """

    kind: str
    runner: str
    directory: str
    targets: frozenset[str]
    selection: frozenset[str]
    passed: bool | None

    @property
    def label(self) -> str:
        """The runner, and what it was pointed at."""
        folder = self.directory.rstrip("/") + "/"
        rest = sorted(target.removeprefix(folder) for target in self.targets)
        return " ".join((self.runner, *rest, *(word.removeprefix("--script=") for word in sorted(self.selection))))

    def covers(self, other: Run) -> bool:
        """Whether this ran at least what the other one ran."""
        if (self.kind, self.runner) != (other.kind, other.runner):
            return False
        if self.selection and self.selection != other.selection:
            return False
        if not self.targets:
            return _under(other.directory, self.directory) and (not self.selection or self.targets == other.targets)
        return bool(other.targets) and all(any(_under(o, own) for own in self.targets) for o in other.targets)


# Kind, name, runner and further words of a command.
Known: TypeAlias = tuple[str, str, Runner | None, Sequence[str]]


def runs(commands: Sequence[Command], output: str, exit_code: int | None) -> list[Run]:
    """The runs among the commands of one call, each with how its totals, or its exit code, say that it ended."""
    found = [(command, known) for command in commands if (known := _recognise(command.words))]
    if not found:
        return []
    printed = _Printed(plain(output))
    result = []
    for place, (command, (kind, name, runner, rest)) in enumerate(found):
        targets, selection = _pointed_at(rest, runner, command.directory, name)
        summed = _summed(place, [known for _, known in found], printed)
        if summed and runner is None and kind == "tests":
            name = ", ".join(other.name for other, _ in summed)
        elif not summed and runner is None and kind == "tests" and _CHECK_NAME.search(name):
            kind = "lint"
        if summed is None:
            passed = None
        elif summed:
            passed = _judged(summed, printed.text, command, exit_code)
            # Of what a project's own script runs, one part may be well; all of it is when it ends with 0.
            if runner is None and kind != "tests" and passed:
                passed = _by_exit_code(command, exit_code, printed.text)
        elif kind != "tests" or (runner and _CUT_OUT.search(printed.text)):
            passed = _by_exit_code(command, exit_code, printed.text)
        else:
            passed = None
        # A linter counts a file that is not there among its findings.
        if kind == "lint" and passed is False and "No such file or directory" in printed.text:
            passed = None
        result.append(Run(kind, name, command.directory, targets, selection, passed))
    return result


class Ledger:
    """Runs with a place each, in order, from which the ones that another run covers are found without a search."""

    def __init__(self) -> None:
        self.entries: dict[int, tuple[Run, int]] = {}
        self._at: dict[tuple[str, ...], set[int]] = {}
        self._next = 0

    def add(self, run: Run, place: int) -> None:
        """Enter a run."""
        self.entries[self._next] = run, place
        for anchor in self._anchors(run):
            self._at.setdefault(anchor, set()).add(self._next)
        self._next += 1

    def covered(self, run: Run) -> list[int]:
        """The keys of entries that a run covers, in order."""
        paths = [("under", target) for target in run.targets] or [("in", run.directory)]
        keys = {key for what, path in paths for key in self._at.get((run.kind, run.runner, what, *_parts(path)), ())}
        return sorted(key for key in keys if run.covers(self.entries[key][0]))

    def drop(self, key: int) -> None:
        """Take an entry out."""
        run, _ = self.entries.pop(key)
        for anchor in self._anchors(run):
            self._at[anchor].discard(key)

    @staticmethod
    def _anchors(run: Run) -> Iterator[tuple[str, ...]]:
        for what, path in (("in", run.directory), ("under", min(run.targets, default=None))):
            if path is not None:
                parts = _parts(path)
                for end in range(len(parts) + 1):
                    yield (run.kind, run.runner, what, *parts[:end])


def _parts(path: str) -> list[str]:
    # No project is deeper, and the rest is compared anyway.
    return [part for part in path.split("/", 40)[:40] if part not in ("", ".")]


def plain(text: str) -> str:
    """Text without colours, carriage returns and what is no Unicode; tests of a terminal print all three."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    if "\x1b" in text:
        text = _ESCAPE.sub("", text)
    return text.replace("\r\n", "\n") if "\r" in text else text


def _recognise(words: Sequence[str]) -> Known | None:
    """What a command is; no runner where a project's own script stands between."""
    if not words or not _IDLE.isdisjoint(words[1:]):
        return None
    program = _ALIASES.get(words[0], words[0])
    if program in _MATRICES:
        return "tests", program, None, words[1:]
    plain_words = _without_options(words[1:]) if program in _SCRIPTS else list(words[1:])
    if program in ("deno", "bun") and plain_words[:1] == ["test"]:
        return "tests", f"{program} test", _COMMANDS[program, "test"], plain_words[1:]
    if program in _SCRIPTS:
        return _of_script(program, plain_words)
    for word in words[1:]:
        if runner := _COMMANDS.get((program, word)):
            at = list(words).index(word)
            # `mvn clean test`, `gradle :app:test`: goals stand in any order; elsewhere only options come before.
            if program in ("mvn", "gradle") or all(w.startswith("-") for w in words[1:at]) or word.startswith("-"):
                return runner.kind, runner.name, runner, [w for i, w in enumerate(words[1:], 1) if i != at]
    if runner := _COMMANDS.get((program,)):
        return runner.kind, runner.name, runner, words[1:]
    return None


def _of_script(program: str, words: list[str]) -> Known | None:
    if program in _PACKAGES:
        if words[:1] in (["run"], ["run-script"]):
            words = words[1:]
        elif program in ("npm", "bun") and words[:1] not in (["test"], ["t"]):
            return None
        if words[:1] == ["t"]:
            words = ["test", *words[1:]]
        direct = _recognise_direct(words) if program in ("pnpm", "yarn") else None
        if direct:
            return direct
    if not words:
        return ("build", "make", None, ()) if program == "make" else None
    name, rest = words[0], words[1:]
    full = f"{program} {name}"
    if _LINT_NAME.search(name):
        return "lint", full, None, rest
    if _BUILD_NAME.search(name) or (program == "make" and name in ("all", "install")):
        return "build", full, None, rest
    if _TEST_NAME.search(name):
        return "tests", full, None, ([] if name in ("test", "t", "tests", "check") else [f"--script={name}"]) + rest
    return None


def _recognise_direct(words: Sequence[str]) -> Known | None:
    """`pnpm vitest`, `yarn jest`: a program of the project in the place of a script."""
    if words and words[0] not in _SCRIPTS and ((words[0],) in _COMMANDS or tuple(words[:2]) in _COMMANDS):
        return _recognise(words)
    return None


def _without_options(words: Iterable[str]) -> list[str]:
    found: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("-C", "--filter", "-F", "--prefix", "-w", "--workspace", "--cwd", "--dir", "-f"):
            skip = True
        elif not word.startswith("-") and "=" not in word:
            found.append(word)
    return found


def _pointed_at(
    words: Iterable[str], runner: Runner | None, directory: str, name: str
) -> tuple[frozenset[str], frozenset[str]]:
    targets: list[str] = []
    selection: list[str] = []
    select, valued = (runner.select, runner.valued) if runner else ((), ())
    words = iter(words)
    for word in words:
        option, has_value, _ = word.partition("=")
        if option in select or option == "--script":
            selection.append(word)
            if not has_value and option in select and not option.startswith("--l"):
                selection.append(next(words, ""))
        elif option in valued:
            if not has_value:
                next(words, "")
        elif not word.startswith("-") and word not in ("run", "discover", "test", "nextest", "clean"):
            path = word.replace("::", "/").removesuffix("...")
            targets.append(posixpath.normpath(posixpath.join(directory, path)))
    if name in ("maven", "gradle"):
        return frozenset(), frozenset([*selection, *targets])
    whole = posixpath.normpath(directory) if directory else "."
    return frozenset(() if whole in targets else targets), frozenset(selection)


def _under(path: str, folder: str) -> bool:
    return path == folder or folder in ("", ".") or path.startswith(folder.rstrip("/") + "/")


class _Printed:
    """An output, and the totals that were looked for in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.found: dict[str, list[str]] = {}

    def totals(self, runner: Runner) -> list[str]:
        key = f"{runner.kind} {runner.name}"
        if key not in self.found:
            lines = _TOTALS[runner].finditer(self.text) if runner.totals else ()
            self.found[key] = [match.group() for match in lines]
        return self.found[key]


def _summed(place: int, found: Sequence[Known], printed: _Printed) -> list[tuple[Runner, list[str]]] | None:
    """The totals of the run at a place among those of a script; None when it is not clear whose they are."""
    kind, _, runner, _ = found[place]
    named = list(dict.fromkeys(known for _, _, known, _ in found if known))
    if runner is None:
        kinds = ("tests",) if kind == "tests" else ("build", "lint")
        others = (other for other in _TOTALS if other.kind in kinds and other not in named)
        summed = [(other, lines) for other in others if (lines := printed.totals(other))]
        is_clear = sum(known is None for _, _, known, _ in found) == 1
    elif lines := printed.totals(runner):
        same = [other for other, known in enumerate(found) if known[2] is runner]
        is_clear = not any(set(lines) & set(printed.totals(known)) for known in named if known is not runner)
        if is_clear and runner.needs == "line" and len(same) in (1, len(lines)):
            # A test may print what looks like totals before the runner does, which has the last word.
            return [(runner, [lines[-1] if len(same) == 1 else lines[same.index(place)]])]
        summed, is_clear = [(runner, lines)], is_clear and len(same) == 1
    else:
        return []
    is_bad = any(_ABOUT[other][0].search(line) for other, lines in summed for line in lines)
    return None if is_bad and not is_clear else summed


def _judged(
    found: Sequence[tuple[Runner, list[str]]], output: str, command: Command, exit_code: int | None
) -> bool | None:
    """What totals say, when the exit code does not say otherwise."""
    has_good = False
    verdict: bool | None = None
    for runner, summed in found:
        bad, good = _ABOUT[runner]
        if any(bad.search(line) for line in summed):
            verdict = False
            break
        has_good = has_good or (bool(runner.good) and any(good.search(line) for line in summed))
        if not _is_enough(runner, summed, output, command, exit_code):
            return None
    if verdict is None and has_good:
        verdict = True
    if command.shown == "none":
        return None
    is_zero = exit_code == 0
    if exit_code is not None and verdict is not None:
        if is_zero and command.zero_tells and not verdict:
            return None
        if not is_zero and command.other_tells and verdict:
            return None
    return verdict


def _is_enough(runner: Runner, summed: list[str], output: str, command: Command, exit_code: int | None) -> bool:
    if runner.needs == "line" or (exit_code == 0 and command.zero_tells):
        return True
    if command.shown == "part" or (command.shown == "tail" and runner.needs == "all"):
        return False
    # The rest may have been cut off behind it.
    return bool(summed) and summed[-1][:200] in output[-2000:]


def _by_exit_code(command: Command, exit_code: int | None, output: str) -> bool | None:
    if exit_code is None or exit_code in _NOT_ITS_OWN:
        return None
    if exit_code == 0:
        return True if command.zero_tells else None
    return False if command.other_tells and not _NOT_BEGUN.search(output) else None
