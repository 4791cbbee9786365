"""Redaction: what must go, what must stay, and that what was written is stable, escaped as before, and consistent."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_rollouts.distill import redact
from agent_rollouts.distill.redact import (
    Numbers,
    Place,
    Redactor,
    audit_files,
    audit_rows,
    final_numbers,
    find,
    redact_text,
    report,
)
from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.features import FEATURES
from benchmarks.redaction import FORMS, covered, escaped, look_alikes, secrets

SECRETS = secrets(random.Random(1))
LOOK_ALIKES = look_alikes(random.Random(1))
TOKEN = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0hL3nR6"
PASSWORD = "tr0ub4" + "dor&3x"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_go(kind: str, form: str) -> None:
    text, secret = SECRETS[kind]
    for _ in range(list(FORMS).index(form)):
        secret = escaped(secret)
    assert covered(FORMS[form](text), secret) >= 0.8


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", LOOK_ALIKES)
def test_look_alikes_stay(kind: str, form: str) -> None:
    text = FORMS[form](LOOK_ALIKES[kind])
    assert redact_text(text) == (text, {})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"a {TOKEN} b {TOKEN}", "a [GITHUB_TOKEN_1] b [GITHUB_TOKEN_1]"),
        (f"PASSWORD={PASSWORD}\nmysql x {PASSWORD}", "PASSWORD=[PASSWORD_1]\nmysql x [PASSWORD_1]"),
        (f'{{"password": "{PASSWORD}"}}', '{"password": "[PASSWORD_1]"}'),
        (f"postgres://u:{PASSWORD}@db.acme.dev/x", "postgres://u:[URL_PASSWORD_1]@db.acme.dev/x"),
        ("cd /home/marta/a; ls /home/jo/b /home/marta", "cd /home/user/a; ls /home/user2/b /home/user"),
        (r"C:\\Users\\Marta Meier\\x", r"C:\\Users\\user\\x"),
        ("~/.claude/projects/-Users-marta-x", "~/.claude/projects/-Users-user-x"),
        ("marta.meier@gmail.com, MARTA.meier@gmail.com", "[EMAIL_1], [EMAIL_1]"),
        ("ssh 185.77.31.9 via 10.0.0.1", "ssh [IP_1] via 10.0.0.1"),
        (rf"line\n{TOKEN}\nline", r"line\n[GITHUB_TOKEN_1]\nline"),
        (r"\nmarta.meier@gmail.com\n185.77.31.9\n", r"\n[EMAIL_1]\n[IP_1]\n"),
        (f"grün {TOKEN} → ü", "grün [GITHUB_TOKEN_1] → ü"),
        (f"\ud800 {TOKEN}", "\ud800 [GITHUB_TOKEN_1]"),
        (f"<Password>{PASSWORD}!</Password>", "<Password>[PASSWORD_1]</Password>"),
        (f"MYSQL_ROOT_PASSWORD={PASSWORD}", "MYSQL_ROOT_PASSWORD=[PASSWORD_1]"),
        (f"ENCRYPTION_KEY={'0a1b2c3d' * 4}", "ENCRYPTION_KEY=[SECRET_1]"),
        (rf"\npm_{TOKEN[4:]}", rf"\npm_{TOKEN[4:]}"),  # a new line and pm_
    ],
)
def test_text(before: str, after: str) -> None:
    assert redact_text(before)[0] == after


@pytest.mark.parametrize(
    "text",
    [
        "--- PASS: TestLogin_WrongPassword",
        "restore-keys: linux-turbo-.github/abc-2024-12a",
        "organizationUrlKey = environment?.organizationUrlKey",
        '"secret": "…"',
        "sessionId=123e4567-e89b-12d3-a456-426614174000",
        "POSTGRES_PASSWORD_FILE=/run/secrets/db_password",
        'key: "user-profile-settings", sortKey="createdAt"',
        "password = data.aws_secretsmanager_secret_version.db.secret_string",
        "Authorization: Bearer YOUR_ACCESS_TOKEN",
        "docker run -p 8080:80 x; ssh -p 2222 deploy@host; mkdir -p src/a",
        "OID 1.3.6.1.4.1.311, Chrome/120.0.0.0, v25.3.1.2, std::vector<int> 2001:db8::1",
    ],
)
def test_stays(text: str) -> None:
    for form in FORMS.values():
        assert redact_text(form(text)) == (form(text), {})


def test_pii_is_an_option() -> None:
    text = "marta.meier@gmail.com 185.77.31.9 /home/marta"
    assert redact_text(text, pii=False) == (text, {})
    assert find(text, pii=False) == []
    assert redact_text(text)[1] == {"EMAIL": 1, "IP": 1, "USER": 1}


def test_find_counts_characters() -> None:
    text = f"äöü→ {TOKEN} ."
    (found,) = find(text)
    assert found.kind == "GITHUB_TOKEN"
    assert text[found.start : found.end] == TOKEN


def test_hosts_and_deny_list() -> None:
    redactor = Redactor(hosts=True, deny=["Project Falcon", "Äther"])
    text = r"db1.acme.internal: project falcon, \nÄTHER, Ätherisch, falcon"
    assert redactor.text(text)[0] == r"[HOST_1]: [DENIED_1], \n[DENIED_2], Ätherisch, falcon"
    assert redact_text(text) == (text, {})


PIECES = st.one_of(
    st.sampled_from([text for text, _ in SECRETS.values()]),
    st.sampled_from(list(LOOK_ALIKES.values())),
    st.sampled_from(
        ["password: ", "token=", '"api_key": "', "\\n", "\\", '"', "'", " ", "\n", "[PASSWORD_1]", "=", ":"]
    ),
    st.text(max_size=12),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=6).map("".join), st.integers(0, 40), st.sampled_from(list(FORMS.values())))
def test_stable_and_still_json(text: str, cut: int, form: Callable[[str], str]) -> None:
    text = form(text[cut:])
    once = redact_text(text)[0]
    assert redact_text(once) == (once, {})
    assert find(once) == []
    if form is not FORMS["raw"]:
        inner = json.loads(once)
        if form is FORMS["twice"]:
            json.loads(inner)


def row(**columns: Any) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(FEATURES)
    return {**empty, "messages": [], "media": [], "skipped": {}, "source_meta": {}, **columns}


def full_row() -> dict[str, Any]:
    call = {"command": ["deploy", "--password", PASSWORD], "env": {"API_TOKEN": TOKEN}, "password": PASSWORD, TOKEN: 1}
    return row(
        source_kind="claude_code",
        source_path="/home/marta17/.claude/projects/-home-marta17-x/a.jsonl",
        cwd="/home/marta17/x",
        git_branch="marta17/fix",
        agent_id="marta17@acme",
        final_assistant_message=f"done: {TOKEN}",
        messages=[
            {"role": "system", "content": "cwd is /home/marta17/x", "origin": "environment"},
            {"role": "user", "content": f"DB_PASSWORD={PASSWORD}", "id": "u1"},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": f"use {PASSWORD}",
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "run", "arguments": call}},
                    {"id": "c2", "type": "function", "function": {"name": "raw", "arguments": json.dumps(call)}},
                ],
            },
            {"role": "tool", "content": json.dumps({"out": f"{TOKEN}\n"}), "tool_call_id": "call_1", "name": "run"},
        ],
        tools=[{"type": "function", "function": {"name": "run", "description": f"key {TOKEN}", "parameters": {}}}],
        media=[{"type": "document", "media_type": "text/x", "bytes": TOKEN.encode(), "path": "/home/marta17/n.txt"}],
        source_meta={"env": [{"name": "DB_PASSWORD", "value": "hunter" + "42!"}], "headers": {"Cookie": f"s={TOKEN}"}},
    )


def test_row() -> None:
    given_row = full_row()
    before = copy.deepcopy(given_row)
    found = Redactor().row(given_row)
    assert given_row == before
    text = json.dumps(found, default=bytes.decode)
    for secret in (TOKEN, PASSWORD, "marta17", "hunter" + "42!"):
        assert secret not in text
    function = found["messages"][2]["tool_calls"][0]["function"]
    assert function["arguments"] == {
        "command": ["deploy", "--password", "[PASSWORD_1]"],
        "env": {"API_TOKEN": "[GITHUB_TOKEN_1]"},
        "password": "[PASSWORD_1]",
        "[GITHUB_TOKEN_1]": 1,
    }
    assert json.loads(found["messages"][2]["tool_calls"][1]["function"]["arguments"]) == function["arguments"]
    assert found["messages"][2]["reasoning_content"] == "use [PASSWORD_1]"
    assert [m.get("id") for m in found["messages"]] == [None, "u1", None, None]
    assert found["cwd"] == "/home/user/x"
    assert found["git_branch"] == "user/fix"
    assert found["redactions"]["GITHUB_TOKEN"] >= 6
    assert found["redaction_policy"] == redact.policy()
    assert list(audit_rows([found])) == []
    again = Redactor().row(found)
    assert {**again, "redactions": None} == {**found, "redactions": None}


def test_stored_text_is_redacted_as_what_it_stands_for() -> None:
    given_row = full_row()
    stored = {**given_row, "messages": [json.dumps(message) for message in given_row["messages"]]}
    stored["source_meta"] = json.dumps(given_row["source_meta"])
    found, expected = Redactor().row(stored), Redactor().row(given_row)
    assert [json.loads(message) for message in found["messages"]] == expected["messages"]
    assert json.loads(found["source_meta"]) == expected["source_meta"]
    clean = row(messages=[json.dumps({"role": "user", "content": "hi"})])
    assert Redactor().row(clean)["messages"] == clean["messages"]


def test_placeholders_agree_in_all_rows_and_runs(tmp_path: Path) -> None:
    state = tmp_path / "redaction.json"
    redactor = Redactor.load(state)
    one = redactor.row(row(cwd="/home/marta17/x", final_assistant_message=TOKEN))
    two = redactor.row(row(cwd="/home/jo/x", final_assistant_message=f"{TOKEN[:-1]}9 {TOKEN}"))
    assert (one["cwd"], two["cwd"]) == ("/home/user/x", "/home/user2/x")
    assert two["final_assistant_message"] == "[GITHUB_TOKEN_2] [GITHUB_TOKEN_1]"
    redactor.save(state)
    assert stat.S_IMODE(os.stat(state).st_mode) == 0o600
    assert "marta17" not in state.read_text()
    assert TOKEN not in state.read_text()
    later = Redactor.load(state).row(row(cwd="/home/jo/x", final_assistant_message=f"{TOKEN[:-1]}8 {TOKEN}"))
    assert later["cwd"] == "/home/user2/x"
    assert later["final_assistant_message"] == "[GITHUB_TOKEN_3] [GITHUB_TOKEN_1]"
    state.write_text("[]")
    with pytest.raises(AgentRolloutsError, match="no state"):
        Redactor.load(state)


MARKED = st.one_of(
    PIECES,
    st.sampled_from(["\ufdd0", "\ufdd07\ufdd0", "/home/marta17/x", "-home-marta17-x", "/home/jo", "a.b17@gmail.com"]),
    st.sampled_from(
        [f" {TOKEN} ", f" {TOKEN[:-1]}8 ", f"password={PASSWORD}\n", f'api_key="{PASSWORD}"', "A.B17@gmail.com"]
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.lists(MARKED, max_size=4).map("".join), max_size=3), max_size=4), st.booleans())
def test_parts_get_the_numbers_of_the_whole(parts: list[list[str]], later: bool) -> None:
    rows = [[row(final_assistant_message=text, git_branch=text[:20]) for text in part] for part in parts]
    state = Numbers().state
    if later:
        earlier = Redactor(state=state)
        earlier.row(row(cwd="/home/jo", final_assistant_message=TOKEN))
        state = earlier.state
    whole = Redactor(state=state)
    expected = [whole.row(row) for part in rows for row in part]
    numbers = Numbers(state)
    found = []
    for part in rows:
        redactor = Redactor(part=numbers.salt)
        texts = [orjson.dumps(redactor.row(row)) for row in part]
        final = numbers.add(pickle.loads(pickle.dumps(redactor.found)))
        found += [final_numbers(text, final) for text in texts]
        assert [final_numbers(text.decode(), final).encode() for text in texts] == found[len(found) - len(texts) :]
    assert found == [orjson.dumps(row) for row in expected]
    assert numbers.state == whole.state


def test_a_part_tells_no_value(tmp_path: Path) -> None:
    numbers = Numbers()
    redactor = Redactor(part=numbers.salt)
    found = redactor.row(full_row())
    final = numbers.add(redactor.found)
    numbers.save(tmp_path / "numbers")
    text = repr((redactor.found, final, found)) + (tmp_path / "numbers").read_text()
    for secret in (TOKEN, PASSWORD, "marta17", "hunter42"):
        assert secret not in text
        assert secret.encode().hex() not in text
    assert Numbers.load(tmp_path / "numbers").state == numbers.state
    assert final_numbers("nothing here", final) == "nothing here"


def test_audit_of_files(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    messages = [
        [json.dumps({"role": "user", "content": f"key {TOKEN}"})],
        [json.dumps({"role": "user", "content": "x"})],
    ]
    table = pa.table({"messages": messages, "cwd": ["/x", "/home/marta/x"]})
    pq.write_table(table, path, row_group_size=1)
    places = list(audit_files([path]))
    assert [(place.row, place.column, place.kind) for place in places] == [
        (0, "messages", "GITHUB_TOKEN"),
        (1, "cwd", "USER"),
    ]
    assert all(TOKEN not in place.masked for place in places)
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in table.to_pylist()))
    assert [place._replace(file="") for place in audit_files([lines])] == [place._replace(file="") for place in places]
    clean = [Redactor().row(row) for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist([{**r, "redactions": json.dumps(r["redactions"])} for r in clean]), path)
    assert list(audit_files([path])) == []


def test_report_masks() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "user", "content": f"key {TOKEN}"}]
    given_row = row(source_path="a.jsonl", trace_id="t1", final_assistant_message=f"key {TOKEN}", messages=messages)
    places = list(report([given_row]))
    assert places == [
        Place("a.jsonl", 0, "messages", "GITHUB_TOKEN", "gh…R6 (40)", 1, "t1"),
        Place("a.jsonl", 0, "final_assistant_message", "GITHUB_TOKEN", "gh…R6 (40)", None, "t1"),
    ]
    assert list(report([row(prompt=[{"role": "tool", "tool_call_id": TOKEN, "content": "x"}])])) == []


def test_policy_names_rules_and_options() -> None:
    assert redact.policy() == redact.policy(deny=[])
    assert len({redact.policy(), redact.policy(pii=False), redact.policy(hosts=True), redact.policy(deny=["x"])}) == 4


def test_map_over_a_dataset() -> None:
    rows = [full_row(), row(messages=[{"role": "user", "content": "hi"}], cwd="/home/jo")]
    data = Dataset.from_list(rows, features=FEATURES)
    found = data.map(redact.redact, features=redact.features(data.features))
    assert found[0]["redactions"]["GITHUB_TOKEN"] >= 6
    assert found[1]["redactions"] == {"USER": 1}
    assert found[1]["cwd"] == "/home/user"


def test_compressed_keys_are_lines_of_one_kind() -> None:
    body = "\n".join("q9Zx" * 16 for _ in range(4))
    for text in (f"-----BEGIN RSA PRIVATE KEY-----\n{body}", f"{body}\n-----END RSA PRIVATE KEY-----"):
        assert redact_text(f"x\n{text}\nend of it")[0] == "x\n[PRIVATE_KEY_1]\nend of it"
