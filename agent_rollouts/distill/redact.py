"""Redaction: secrets and personal data out of every text of a row, the same value always by the same placeholder.

    text, counts = redact_text(text)              # one text
    rows = rows.map(redact)                       # rows, each by itself
    redactor = Redactor(deny=["Project Falcon"])  # rows of one dataset: placeholders agree in all of them
    rows = map(redactor.row, rows)

`[AWS_ACCESS_KEY_1]` stands for a secret, `[EMAIL_1]` and `[IP_1]` for an address, `/home/user` and `/home/user2` for
home folders. What is looked for is data: `secret_rules.toml`. Three scans by google-re2, linear in the bytes, find
where something may begin: tokens of known vendors, `NAME = VALUE`, personal data; only there is anything looked at
more closely. Patterns alone would touch code, so a value is judged: one that consists of words, names something
(`process.env.X`, `getKey()`, `${TOKEN}`), or is an example stays. Escaped text (JSON within JSON) is read as it
lies: a value ends at the quote that is as deep as the one that opened it, and no escape is torn apart.

Redacted text is stable: `redact_text(redact_text(x)[0])[0] == redact_text(x)[0]`, and `find` finds nothing in it.
A value that was found once is replaced wherever else it stands in the row. Uses no columns of other stages.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import secrets
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from math import log2
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import orjson
import pyarrow.parquet as pq
import re2
from datasets import Features, Json, Value

from agent_rollouts.errors import AgentRolloutsError
from agent_rollouts.events import JSON
from agent_rollouts.jsontext import exact_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Row: TypeAlias = Mapping[str, Any]
_Key: TypeAlias = "tuple[str, str | None]"

COLUMNS = {"redactions": Json(), "redaction_policy": Value("string")}
"""The columns that a redacted row has more."""

RULES = Path(__file__).with_name("secret_rules.toml")

_VERSION = "1"  # of the code beside the rules
_PASSES = 8
_SHORT = 500  # bytes of a text for which one scan before the others pays
_LONGEST = 4096  # bytes of a quoted value
_KEY_BLOCK = 32768  # bytes of a private key with its header
_UNREAD = frozenset({"source_kind", "model", "started_at", "ended_at", "redactions", "redaction_policy"})
_UNREAD_KEYS = frozenset(
    {"role", "id", "name", "type", "timestamp", "origin", "phase", "tool_call_id", "weight_reason"}
)
_PERSONAL = frozenset({"USER", "EMAIL", "IP", "HOST"})
_QUOTES = b"\"'`"
_WORD = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
_NAME = _WORD + b".-"
_ALNUM = frozenset(_WORD[:-1])
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
_FILE_ENDS = (
    b".ts",
    b".tsx",
    b".js",
    b".jsx",
    b".html",
    b".htm",
    b".php",
    b".py",
    b".css",
    b".md",
    b".vue",
    b".json",
    b".aspx",
    b".cs",
)


class Finding(NamedTuple):
    """A place in a text: characters `start` to `end` hold a secret of this kind."""

    kind: str
    start: int
    end: int


class Place(NamedTuple):
    """Where a secret stands in a dataset, with a value that shows its two first and last letters at most."""

    file: str
    row: int
    column: str
    kind: str
    masked: str


class _Span(NamedTuple):
    start: int
    end: int
    kind: str
    rank: int  # a vendor's token before a header before an assignment before personal data


def redact_text(text: str, *, pii: bool = True) -> tuple[str, dict[str, int]]:
    """The text with placeholders for its secrets, and how many of each kind were replaced.

    Equal values have equal placeholders within the text; nothing is remembered from call to call.

    Args:
        pii: whether home folders, e-mail and public IP addresses are replaced, too.
    """
    spans = _spans(_encoded(text), pii, False, None)
    if not spans:
        return text, {}
    pass_ = _Pass(Redactor(pii=pii))
    pass_.found[text, None] = spans
    pass_.learn()
    return pass_.replace(text, None), dict(pass_.counts)


def redact(row: Row) -> dict[str, Any]:
    """The row redacted by itself, with `redactions` and `redaction_policy`; for `rows.map(redact)`."""
    return Redactor().row(row)


def find(text: str, *, pii: bool = True, hosts: bool = False, deny: Sequence[str] = ()) -> list[Finding]:
    """The secrets of a text in order, as positions in it."""
    data = _encoded(text)
    spans = _spans(data, pii, hosts, _denied(tuple(deny)))
    if len(data) == len(text):
        return [Finding(span.kind, span.start, span.end) for span in spans]
    return [Finding(span.kind, len(_decoded(data[: span.start])), len(_decoded(data[: span.end]))) for span in spans]


def features(of: Features) -> Features:
    """Features of rows when they are redacted: `rows.map(redact, features=features(rows.features))`."""
    return Features({**of, **COLUMNS})


class Redactor:
    """Redacts rows so that a value has one placeholder in all rows that it sees.

    Args:
        pii: home folders, e-mail and public IP addresses.
        hosts: names of machines in private domains (`db1.corp`, `x.internal`).
        deny: the user's own words, replaced wherever they stand as whole words, in any case.
        state: what an earlier run saved (`Redactor.state`); numbers go on from there.
    """

    def __init__(
        self,
        *,
        pii: bool = True,
        hosts: bool = False,
        deny: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.pii, self.hosts, self.deny = pii, hosts, _denied(tuple(deny))
        self._words = tuple(deny)
        if state is None:
            state = {"salt": secrets.token_hex(16), "numbers": {}, "values": {}}
        try:
            self._salt = bytes.fromhex(state["salt"])
            self._numbers: Counter[str] = Counter(state["numbers"])
            self._values: dict[str, str] = dict(state["values"])
        except (KeyError, TypeError, ValueError):
            raise AgentRolloutsError("this is no state of a redactor; remove it to begin with new numbers") from None

    @property
    def policy(self) -> str:
        """Version of rules, code and options."""
        return policy(pii=self.pii, hosts=self.hosts, deny=self._words)

    @property
    def state(self) -> dict[str, Any]:
        """What a later run needs to go on: salted hashes and their placeholders, no value in clear.

        Short values (a user name, an address) could be guessed by whoever has it: keep it as private as the logs.
        """
        return {"salt": self._salt.hex(), "numbers": dict(self._numbers), "values": dict(self._values)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file that only its owner may read."""
        new = f"{os.fspath(path)}.new"
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(orjson.dumps(self.state, option=orjson.OPT_INDENT_2))
        os.replace(new, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> Redactor:
        """A redactor that goes on from a saved state, or begins anew where there is no file.

        Raises:
            AgentRolloutsError: the file holds something else.
        """
        try:
            state = orjson.loads(Path(path).read_bytes())
        except FileNotFoundError:
            state = None
        except ValueError:
            raise AgentRolloutsError(f"{path} is no state of a redactor; remove it to begin with new numbers") from None
        return cls(**options, state=state)

    def text(self, text: str) -> tuple[str, dict[str, int]]:
        """The text redacted, and how many of each kind were replaced."""
        pass_ = _Pass(self)
        pass_.note(text, None)
        pass_.scan()
        return pass_.replace(text, None), dict(pass_.counts)

    def row(self, row: Row) -> dict[str, Any]:
        """The row with every text redacted; messages, tools and the like may be objects or their JSON text."""
        pass_ = _Pass(self)
        _walk_row(row, pass_.note)
        pass_.scan()
        found = _walk_row(row, pass_.replace)
        return {**found, "redactions": dict(sorted(pass_.counts.items())), "redaction_policy": self.policy}

    def placeholder(self, kind: str, value: bytes) -> str:
        """What stands for a value: the one that it has, or a new one of this kind."""
        if kind in ("EMAIL", "HOST", "DENIED"):
            value = value.lower()
        name = hashlib.blake2b(
            value, key=self._salt, digest_size=12, person=kind[:16].encode() if kind in _PERSONAL else b""
        ).hexdigest()
        if name not in self._values:
            self._numbers[kind] += 1
            number = self._numbers[kind]
            if kind == "USER":
                self._values[name] = "user" if number == 1 else f"user{number}"
            else:
                self._values[name] = f"[{kind}_{number}]"
        return self._values[name]


def policy(*, pii: bool = True, hosts: bool = False, deny: Sequence[str] = ()) -> str:
    """Version of rules, code and options; rows of another version may be redacted anew.

    Of the deny list only its length is in it: a hash of few words could be guessed.
    """
    options = [name for name, on in (("pii", pii), ("hosts", hosts), (f"deny={len(deny)}", bool(deny))) if on]
    return "+".join([f"{_VERSION}.{_digest()}", *options])


@lru_cache(1)
def _digest() -> str:
    return hashlib.sha256(RULES.read_bytes()).hexdigest()[:12]


class _Pass:
    """One text or row: what was found in it, so that it is replaced wherever else it stands."""

    def __init__(self, redactor: Redactor) -> None:
        self.redactor = redactor
        self.counts: Counter[str] = Counter()
        self.known: dict[bytes, str] = {}
        self.texts: dict[_Key, None] = {}
        self.found: dict[_Key, list[_Span]] = {}

    def note(self, text: str, context: str | None) -> str:
        self.texts[text, context] = None
        return text

    def scan(self) -> None:
        """Look through all that was noted."""
        redactor = self.redactor
        texts = _Texts(self.texts)
        self.found = texts.spans(redactor.pii, redactor.hosts, redactor.deny)
        self.learn()
        for value in self.known:
            for key in texts.holding(value):
                self.found.setdefault(key, [])

    def learn(self) -> None:
        """Remember the values that were found."""
        for (text, _), spans in self.found.items():
            self._learn(_encoded(text), spans)

    def replace(self, text: str, context: str | None) -> str:
        spans = self.found.get((text, context))
        if spans is None:
            return text
        data = before = _encoded(text)
        for number in range(_PASSES):
            if number:
                redactor = self.redactor
                spans = _in_context(data, context, redactor.pii, redactor.hosts, redactor.deny)
            spans = _settled([*spans, *self._again(data)])
            if not spans:
                break
            self._learn(data, spans)
            data = self._put(data, spans)
        return text if data == before else _decoded(data)

    def _learn(self, data: bytes, spans: list[_Span]) -> None:
        for span in spans:
            value = data[span.start : span.end]
            if span.kind == "USER":
                if _is_distinctive(value):
                    self.known.setdefault(value, span.kind)
                    # As Claude Code names a project's folder.
                    self.known.setdefault(value.replace(b".", b"-").replace(b"_", b"-"), span.kind)
            elif span.kind not in _PERSONAL and len(value) >= 8 and not _is_wordy(value):
                self.known.setdefault(value, span.kind)

    def _again(self, data: bytes) -> list[_Span]:
        spans = []
        for value, kind in self.known.items():
            at = data.find(value)
            while at >= 0:
                end = at + len(value)
                if _starts_word(data, at) and (end == len(data) or data[end] not in _ALNUM):
                    spans.append(_Span(at, end, kind, 9))
                at = data.find(value, end)
        return spans

    def _put(self, data: bytes, spans: list[_Span]) -> bytes:
        parts = []
        at = 0
        for span in spans:
            value = data[span.start : span.end]
            if span.kind == "USER" and b"-" in value:  # a folder's name says the same of someone known
                value = next((name for name in self.known if _folder_name(name) == value and name != value), value)
            parts += [data[at : span.start], self.redactor.placeholder(span.kind, value).encode()]
            self.counts[span.kind] += 1
            at = span.end
        return b"".join([*parts, data[at:]])


class _Texts:
    """Texts (each with what names it), one behind the other, so that one scan tells which need a closer look."""

    def __init__(self, keys: Iterable[_Key]) -> None:
        self.keys = list(keys)
        parts = [_encoded(text) for text, _ in self.keys]
        self.data = b"\0".join(parts)
        self.starts = list(accumulate((len(part) + 1 for part in parts), initial=0))

    def spans(self, pii: bool, hosts: bool, deny: Any) -> dict[_Key, list[_Span]]:
        """What is found, by text; only those with something."""
        gated = deny is None and not hosts
        wanted = self._hits(_rules().any.search) if gated else range(len(self.keys))
        named = (index for index, (_, context) in enumerate(self.keys) if context is not None)
        found = {}
        for index in sorted({*wanted, *named}):
            data = self.data[self.starts[index] : self.starts[index + 1] - 1]
            if spans := _in_context(data, self.keys[index][1], pii, hosts, deny):
                found[self.keys[index]] = spans
        return found

    def holding(self, value: bytes) -> Iterator[_Key]:
        """Texts that hold a value."""
        at = self.data.find(value)
        while at >= 0:
            index = bisect_right(self.starts, at) - 1
            yield self.keys[index]
            at = self.data.find(value, self.starts[index + 1])

    def _hits(self, search: Callable[[bytes, int], Any]) -> Iterator[int]:
        match = search(self.data, 0)
        while match is not None:
            index = bisect_right(self.starts, match.start()) - 1
            yield index
            match = search(self.data, self.starts[index + 1]) if index + 1 < len(self.keys) else None


def _folder_name(name: bytes) -> bytes:
    return name.replace(b".", b"-").replace(b"_", b"-")


def audit_rows(
    rows: Iterable[Row], *, pii: bool = True, hosts: bool = False, deny: Sequence[str] = (), file: str = ""
) -> Iterator[Place]:
    """What redaction would still replace in rows: nothing, where it has been done with the same options."""
    words = _denied(tuple(deny))
    for number, row in enumerate(rows):
        for column, value in row.items():
            noted: dict[_Key, None] = {}

            def note(text: str, context: str | None, noted: dict[_Key, None] = noted) -> str:
                noted[text, context] = None
                return text

            _walk_column(column, value, note)
            for (text, _), spans in _Texts(noted).spans(pii, hosts, words).items():
                data = _encoded(text)
                for span in spans:
                    yield Place(file, number, column, span.kind, masked(_decoded(data[span.start : span.end])))


def audit_files(paths: Iterable[str | os.PathLike[str]], **options: Any) -> Iterator[Place]:
    """`audit_rows` over Parquet files, a row group at a time; rows are numbered in each file from 0."""
    for path in paths:
        first = 0
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                columns = [column.to_pylist() for column in table.columns]
                rows = (dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True))
                for place in audit_rows(rows, **options, file=str(path)):
                    yield place._replace(row=first + place.row)
                first += len(table)


def report(rows: Iterable[Row], **options: Any) -> Iterator[Place]:
    """Kinds and places of what redaction would replace, with masked values; `file` is the row's source_path."""
    for number, row in enumerate(rows):
        for place in audit_rows([row], **options, file=str(row.get("source_path") or "")):
            yield place._replace(row=number)


def masked(value: str) -> str:
    """Of a long value the first and last two letters, of a short one none."""
    value = value.replace("\n", " ")
    return f"{value[:2]}…{value[-2:]} ({len(value)})" if len(value) >= 16 else f"… ({len(value)})"


# Rows


Visit: TypeAlias = Callable[[str, "str | None"], str]


def _walk_row(row: Row, visit: Visit) -> dict[str, Any]:
    return {column: _walk_column(column, value, visit) for column, value in row.items()}


def _walk_column(column: str, value: Any, visit: Visit) -> Any:
    if column in _UNREAD or value is None:
        return value
    if column == "messages":
        return [_stored(message, lambda found: _walk_message(found, visit)) for message in value]
    if column == "media":
        return [_walk_media(medium, visit) for medium in value]
    if isinstance(value, str) and value[:1] in ("{", "["):
        return _stored(value, lambda found: _walk(found, visit, None))
    if isinstance(value, list):
        return [_stored(item, lambda found: _walk(found, visit, None)) for item in value]
    return _walk(value, visit, None)


def _stored(value: Any, walk: Callable[[Any], Any]) -> Any:
    """An object, or one that is stored as JSON text (the same text again when nothing is changed)."""
    if not isinstance(value, str | bytes):
        return walk(value)
    try:
        parsed = orjson.loads(value)
    except ValueError:
        parsed = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        changed = walk(parsed)
        return value if changed == parsed else changed
    changed = walk(parsed)
    if changed == parsed:
        return value
    try:
        text = orjson.dumps(changed)
    except TypeError:
        text = exact_text(changed).encode()
    return text if isinstance(value, bytes) else text.decode()


def _walk_message(message: Any, visit: Visit) -> Any:
    if not isinstance(message, dict):
        return _walk(message, visit, None)
    found = {}
    for key, value in message.items():
        if key == "tool_calls" and isinstance(value, list):
            found[key] = [_walk_call(call, visit) for call in value]
        elif key in _UNREAD_KEYS:
            found[key] = value
        else:
            found[key] = _walk(value, visit, None)
    return found


def _walk_call(call: Any, visit: Visit) -> Any:
    if not isinstance(call, dict) or not isinstance(function := call.get("function"), dict):
        return call
    arguments = _walk(function.get("arguments"), visit, None)
    return {**call, "function": {**function, "arguments": arguments} if arguments is not None else function}


def _walk_media(medium: Any, visit: Visit) -> Any:
    if not isinstance(medium, dict):
        return medium
    found = {**medium, "path": visit(medium["path"], None)} if medium.get("path") else dict(medium)
    kind, data = medium.get("media_type") or "", medium.get("bytes")
    if data and (kind.startswith("text/") or kind.endswith(("json", "xml", "yaml", "toml", "x-sh", "javascript"))):
        with suppress(UnicodeDecodeError):
            found["bytes"] = visit(data.decode(), None).encode()
    return found


def _walk(value: JSON, visit: Visit, context: str | None) -> JSON:
    """The value with `visit(text, context)` for each text in it, keys included; context is what names it."""
    if isinstance(value, str):
        return visit(value, context)
    if isinstance(value, dict):
        # {"name": "DB_PASSWORD", "value": …}, as in tasks of ECS and of Kubernetes
        named = next((value[key] for key in ("name", "key", "Name", "Key") if isinstance(value.get(key), str)), None)
        return {
            visit(key, None): _walk(item, visit, _context(named if named and key in ("value", "Value") else key))
            for key, item in value.items()
        }
    if isinstance(value, list):
        found = []
        for index, item in enumerate(value):
            before = value[index - 1] if index else None
            flag = isinstance(before, str) and before.startswith("-") and isinstance(item, str)
            found.append(_walk(item, visit, _context(str(before)) if flag else context))
        return found
    return value


# Texts


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


@lru_cache(4096)
def _context(key: str) -> str | None:
    """The key where it says something of its value."""
    name = _encoded(key)
    if len(name) > 100:
        return None
    return key if _rules().names.search(name + b"=") or _rules().headers.search(name) else None


def _in_context(data: bytes, context: str | None, pii: bool, hosts: bool, deny: Any) -> list[_Span]:
    if context is None:
        return _spans(data, pii, hosts, deny)
    before = b'"' + _encoded(context).lstrip(b"-") + b'": "'
    spans = _spans(before + data + b'"', pii, hosts, deny)
    shift = len(before)
    return [
        span._replace(start=max(span.start - shift, 0), end=min(span.end - shift, len(data)))
        for span in spans
        if span.end > shift and span.start - shift < len(data)
    ]


def _spans(data: bytes, pii: bool, hosts: bool, deny: Any) -> list[_Span]:
    """What is to be replaced, in order and apart."""
    if len(data) < 6 and deny is None:
        return []
    if len(data) < _SHORT and deny is None and not hosts and _is_clean(data):
        return []
    rules = _rules()
    spans: list[_Span] = []
    for match in rules.tokens.finditer(data):
        spans += _tokens(data, match.start(), rules)
    for match in rules.odd.finditer(data):
        spans += _odd(data, match.start(), match.end(), rules)
    for match in rules.assignments.finditer(data):
        spans += _assignment(data, match.start(), match.end(), rules)
    if pii:
        for match in rules.personal.finditer(data):
            spans += _personal(data, match.start(), match.end(), rules)
    if hosts:
        for match in rules.host.finditer(data):
            if b"." in match.group():
                spans.append(_Span(_after_escape(data, match.start()), match.end(), "HOST", 4))
    if deny is not None:
        for match in deny.finditer(data):
            start, end = match.span()
            if _starts_word(data, start) and (end == len(data) or data[end] not in _ALNUM):
                spans.append(_Span(start, end, "DENIED", 0))
    return _settled([span for span in spans if not rules.placeholder.fullmatch(data[span.start : span.end])])


@lru_cache(65536)
def _is_clean(data: bytes) -> bool:
    """Whether nothing begins in a short text: one scan in place of four, none when it is seen again."""
    return _rules().any.search(data) is None


def _settled(spans: list[_Span]) -> list[_Span]:
    """Spans in order; of those that overlap the one of the lower rank, then the longer, and what it leaves of others.

    What is left over is found by the next pass where it tells itself.
    """
    if len(spans) < 2:
        return spans
    kept: list[_Span] = []
    for span in sorted(spans, key=lambda span: (span.rank, span.start - span.end)):
        # A longer one of a higher rank takes over what lies in it: a token in the password of an address does not.
        if all(span.end <= other.start or span.start >= other.end for other in kept):
            kept.append(span)
    return sorted(kept)


def _tokens(data: bytes, at: int, rules: _Rules) -> Iterator[_Span]:
    first = data[at]
    starts = [at]
    if first == 92:
        starts = [at + 6] if data[at + 1] == 117 else [at + 2]
    elif first == 37:
        starts = [at + 3]
    elif first == 95:
        starts = [at, at + 1]
    for start in starts:
        for rule in rules.buckets.get(data[start : start + 3].lower(), ()):
            yield from _checked(data, start, rule)


def _odd(data: bytes, at: int, end: int, rules: _Rules) -> Iterator[_Span]:
    for rule in rules.odd_rules:
        start = (at + 2 if data[at] == 92 and data[at + 1] in b"nrt" else at) - rule.back
        if rule.run:
            window = data[max(0, at - 200) : at]
            start = at - len(window) + len(window.rstrip(rule.run))
            start = _after_escape(data, start)
        if start >= 0:
            yield from _checked(data, start, rule)


def _checked(data: bytes, at: int, rule: _Rule) -> Iterator[_Span]:
    match = rule.pattern.match(data, at)
    if match is None:
        return
    start, end = match.span(rule.group)
    if rule.check == "pem":
        yield from _key_block(data, start, end)
        return
    if _after_escape(data, start) > start:
        return
    value = data[start:end]
    if rule.check == "token":
        if end < len(data) and data[end] in _ALNUM:
            return
        body = data[start + rule.head(data, start) : end]
        if not _is_token(value, body):
            return
    elif rule.check == "cookie":
        yield from _cookies(start, value)
        return
    elif rule.check == "jwt":
        if not _is_jwt(value):
            return
    elif not _CHECKS[rule.check](value):
        return
    yield _Span(start, end, rule.kind, rule.rank)


def _is_token(value: bytes, body: bytes) -> bool:
    rules = _rules()
    if len(set(body)) < 6 or value in rules.examples or rules.token_parts.search(value):
        return False
    return sum(48 <= byte <= 57 for byte in body) >= 2 or body.isupper() or not _is_wordy(body)


def _is_jwt(value: bytes) -> bool:
    rules = _rules()
    parts = value.split(b".")
    if any(part in rules.examples for part in parts) or (rules.parts.search(value) and b"..." in value):
        return False
    if parts[1].startswith(b"eyJ"):
        return True
    try:
        return b'"alg"' in base64.urlsafe_b64decode(parts[0] + b"=" * (-len(parts[0]) % 4))
    except ValueError:
        return False


def _cookies(start: int, value: bytes) -> Iterator[_Span]:
    at = start
    for pair in value.split(b";"):
        name, _, content = pair.partition(b"=")
        if len(content) >= 8 and not _is_placeholder(content) and not _is_wordy(content):
            begin = at + len(name) + 1
            yield _Span(begin, begin + len(content.rstrip()), "COOKIE", 2)
        at += len(pair) + 1


def _key_block(data: bytes, start: int, end: int) -> Iterator[_Span]:
    """A private key from its first to its last line, or as far as there are lines of it, where it was cut."""
    rules = _rules()
    if data.startswith(b"-----END", start):
        # What is left of one that lost its beginning; a whole one is found by its beginning.
        low = max(0, start - _KEY_BLOCK)
        body = rules.key_lines_before.search(data[low:start])
        begun = data.rfind(b"PRIVATE KEY", low, start)
        if body and not (begun >= 0 and begun >= low + body.start() - 80):
            yield _Span(_after_escape(data, low + body.start()), end, "PRIVATE_KEY", 0)
        return
    block = data[end : end + _KEY_BLOCK]
    close = rules.key_end.search(block)
    again = block.find(b"-----BEGIN")
    if close and not 0 <= again < close.start():
        inside = block[: close.start()]
        if sum(byte in _BASE64 for byte in inside) >= 40 and rules.key_line.search(inside):
            yield _Span(start, end + close.end(), "PRIVATE_KEY", 0)
        return
    lines = rules.key_lines.match(block)
    if lines and rules.key_line.search(lines.group()):
        yield _Span(start, end + lines.end(), "PRIVATE_KEY", 0)


def _assignment(data: bytes, at: int, end: int, rules: _Rules) -> Iterator[_Span]:
    """NAME = VALUE: what names it, how it stands there, and whether it is a literal."""
    if end == len(data) or data[end] in b"=~(){}[]<>,;$|":
        return
    before = data[max(0, at - 60) : at]
    head = len(before) - len(before.rstrip(_NAME))
    begin = _after_escape(data, at - head) if head < 60 else at
    name = data[begin:end]
    name = name[: len(name) - len(name.lstrip(_NAME))].strip(b".-_")
    between = data[begin + len(name) : end]
    if (begin and data[begin - 1] in b"[$") and rules.placeholder.match(data, begin - 1):
        return
    if data[end - 1] in _QUOTES and b"," in between:
        end -= 1
        while data[end - 1] == 92:
            end -= 1
    style = "bare"
    separator = between.strip()
    if b">" in separator and b"=" not in separator:
        if not begin or data[begin - 1] != 60:
            return
        style = "element"
    elif separator.endswith((b"is", b"is:")):
        style = "prose"
    elif begin >= 2 and data[begin - 2 : begin] == b"--" and not separator:
        style = "flag"
    elif begin and data[begin - 1] in b"?&;":
        style = "query"
    elif separator.endswith(b"=") and between == b"=":
        style = "env"
    elif separator.endswith(b":"):
        style = "yaml"
    start, stop, quoted = _value(data, end, style)
    if start >= stop:
        return
    value = data[start:stop]
    after = data[stop : stop + 1]
    if style == "element" and data[stop : stop + 2] != b"</":
        return
    if not quoted and separator[:1] in (b'"', b"\\") and value.isdigit():
        return  # a number in JSON must stay one
    kind = _judged(data[max(at, begin) : end], name, value, "quoted" if quoted else style, after)
    if kind is not None:
        yield _Span(start, stop, kind, 3)


@lru_cache(65536)
def _judged(found: bytes, name: bytes, value: bytes, style: str, after: bytes) -> str | None:
    """The kind of secret that NAME = VALUE holds, if any. Code repeats itself, and so do logs."""
    rules = _rules()
    if (
        len(value) < 5
        or (style in ("bare", "yaml") and value.isalpha() and len(value) < 16)
        or rules.stays.search(rules.hump.sub(rb"\1_\2", name))
    ):
        return None
    kind = rules.kind_of(found)
    return kind if kind and _is_literal(kind, name, value, style, after) else None


def _value(data: bytes, at: int, style: str) -> tuple[int, int, bool]:
    """Where the value that begins at `at` starts and stops, and whether it is in quotes."""
    length = len(data)
    if data[at : at + 1] in (b"b", b"r", b"u", b"@") and data[at + 1 : at + 2] in (b'"', b"'"):
        at += 1
    open_ = at
    while open_ < length and data[open_] == 92:
        open_ += 1
    depth = open_ - at
    if open_ < length and data[open_] in _QUOTES:
        quote, start = data[open_ : open_ + 1], open_ + 1
        at_quote = data.find(quote, start, start + _LONGEST)
        while at_quote >= 0:
            slashes = at_quote
            while slashes > start and data[slashes - 1] == 92:
                slashes -= 1
            deep = at_quote - slashes
            if depth and deep <= depth:
                return start, slashes, True
            if not depth and deep % 2 == 0:
                return start, at_quote, True
            at_quote = data.find(quote, at_quote + 1, start + _LONGEST)
        at, depth = start, 0
    if depth:
        return at, at, False
    match = _rules().bare.match(data, at)
    if match is None:
        return at, at, False
    stop = match.end()
    if style == "query":
        cut = data.find(b"&", at, stop)
        stop = cut if cut >= 0 else stop
    while (
        style != "element"
        and stop > at
        and data[stop - 1] in b".,:)]}!?"
        and not (data[stop - 1] in b"!?" and style == "env")
    ):
        stop -= 1
    return at, stop, False


def _is_literal(kind: str, name: bytes, value: bytes, style: str, after: bytes) -> bool:
    """Whether a value is a secret as such, and not code, a word, an example or the name of one."""
    rules = _rules()
    if len(value) < 5 or _is_placeholder(value) or rules.code.search(value):
        return False
    if any(byte <= 32 for byte in value):
        return False
    if style != "quoted" and (
        (value[0] in b"$%{[(<*&!|" and style not in ("env", "query", "flag", "yaml"))
        or b"(" in value
        or value[0] in b"$[{(|"
        or (rules.dotted.fullmatch(value) and sum(48 <= byte <= 57 for byte in value) < 2)
    ):
        return False
    if value.lower() in name.lower():
        return False
    is_env = style == "env" and name.isupper()
    if name.lower() == b"pass" and style in ("yaml", "bare", "prose"):
        return False  # --- PASS: TestLogin
    if kind == "PASSWORD" or (kind == "SECRET" and style in ("quoted", "env") and not value.isalnum()):
        if _is_password(value, style, after, is_env):
            return True
        if kind == "PASSWORD":
            return False
    strong = rules.strong.search(name) is not None or kind == "AWS_SECRET_KEY"
    least = 16 if not strong or style == "prose" else 8 if kind == "SECRET" or style in ("env", "quoted") else 10
    if len(value) < least or (not strong and (rules.hash.fullmatch(value) or rules.uuid.fullmatch(value))):
        return False
    if rules.date.match(value) or (rules.path.match(value) and (len(value) < 32 or _is_wordy(value))):
        return False
    if style in ("bare", "yaml") and after in (b",", b")", b";", b"(") and len(value) < 16:
        return False
    return _is_random(value)


def _is_password(value: bytes, style: str, after: bytes, is_env: bool) -> bool:
    rules = _rules()
    if len(value) > 200 or rules.path.match(value) or rules.sentence.fullmatch(value):
        return False
    digits = any(48 <= byte <= 57 for byte in value)
    letters = any(byte in _ALNUM and not 48 <= byte <= 57 for byte in value)
    plain = all(byte in _WORD or byte >= 128 for byte in value)
    if style == "prose":
        return len(value) >= 8 and digits and letters and (not plain or not _is_wordy(value))
    if plain:
        if is_env or style == "flag":
            return (digits and (letters or len(value) >= 6)) or len(value) >= 12 or not _is_wordy(value)
        if style == "bare" or (after in (b",", b")", b";", b"(") and style not in ("quoted", "query")):
            return digits and letters and not _is_wordy(value) and len(value) >= 8
        if digits and letters and len(value) >= 6:
            return True
        return style in ("quoted", "query", "element") and len(value) >= 10 and not _is_wordy(value)
    if rules.separated.fullmatch(value):
        numbers = sum(48 <= byte <= 57 for byte in value)
        if style in ("env", "query", "flag") and len(value) >= 8 and letters and numbers >= 2:
            return True
        return (is_env and len(value) >= 12) or (digits and letters and (numbers >= 3 or not _is_wordy(value)))
    return len(value) >= 6 and (letters or digits)


def _is_random(value: bytes) -> bool:
    """Whether a value looks drawn: letters and digits mixed, no words."""
    if _is_placeholder(value) or _is_wordy(value):
        return False
    lower, upper = any(97 <= b <= 122 for b in value), any(65 <= b <= 90 for b in value)
    digits = sum(48 <= byte <= 57 for byte in value)
    if not (((lower or upper) and digits) or (lower and upper and len(value) >= 16)):
        return len(value) >= 24 and digits == len(value)
    return _entropy(value) >= (2.5 if len(value) < 16 else 2.9)


def _is_session(value: bytes) -> bool:
    return _is_random(value) and not _rules().uuid.fullmatch(value)


def _is_mixed(value: bytes) -> bool:
    return _is_random(value) and not value.islower() and not value.isupper()


def _is_flag(value: bytes) -> bool:
    return (
        not _is_placeholder(value)
        and not _rules().code.search(value)
        and value[0] not in b"$-<{(%"
        and (len(value) >= 5 and not _rules().path.match(value) and _is_password(value, "flag", b"", True))
    )


def _is_bearer(value: bytes) -> bool:
    if _is_placeholder(value) or _rules().code.search(value) or _rules().dotted.fullmatch(value):
        return False
    return (not _is_wordy(value) and (len(value) >= 12 or any(48 <= b <= 57 for b in value))) or (
        len(value) >= 24 and (any(48 <= b <= 57 for b in value) and not _rules().path.match(value))
    )


def _is_url_password(value: bytes) -> bool:
    return (
        len(value) >= 4
        and not _is_placeholder(value)
        and value[0] not in b"$%{<*["
        and not value.isdigit()
        and not _rules().code.search(value)
    )


def _is_no_placeholder(value: bytes) -> bool:
    return not _is_placeholder(value)


_CHECKS: dict[str, Callable[[bytes], bool]] = {
    "": _is_no_placeholder,
    "random": _is_random,
    "mixed": _is_mixed,
    "session": _is_session,
    "password": _is_url_password,
    "flag": _is_flag,
    "bearer": _is_bearer,
}


@lru_cache(65536)
def _is_placeholder(value: bytes) -> bool:
    """Whether a value stands for one: an example of somebody's documentation, asterisks, a word such as `changeme`."""
    rules = _rules()
    return (
        len(set(value)) < 4
        or value in rules.examples
        or rules.values.fullmatch(value) is not None
        or rules.parts.search(value) is not None
        or rules.placeholder.search(value) is not None
        or (value[:1] == b"[" and value[1:2].isupper())
    )


@lru_cache(65536)
def _is_wordy(value: bytes) -> bool:
    """Whether eight of ten letters stand in words (three of a case) or numbers; of drawn letters four of ten do."""
    letters = sum(byte in _ALNUM for byte in value)
    words = _rules().long_words if len(value) >= 20 else _rules().words
    return 10 * sum(map(len, words.findall(value))) >= 8 * letters


def _entropy(value: bytes) -> float:
    total = len(value)
    return -sum(count / total * log2(count / total) for count in Counter(value).values())


def _after_escape(data: bytes, at: int) -> int:
    r"""The place behind the letters that belong to an escape: `\nname` begins at `name`."""
    if at and data[at - 1] == 92 and at < len(data):
        if data[at] in b"nrtbf":
            return at + 1
        if data[at] == 117 and len(data) > at + 5:
            return at + 5
    return at


def _starts_word(data: bytes, at: int) -> bool:
    if not at or data[at - 1] not in _ALNUM:
        return True
    return at >= 2 and data[at - 2] == 92 and data[at - 1] in b"nrtbf"


# Personal data


def _personal(data: bytes, at: int, end: int, rules: _Rules) -> Iterator[_Span]:
    found = data[at:end]
    if b"@" in found:
        start = _after_escape(data, at)
        email = data[start:end]
        local = email.partition(b"@")[0]
        stays = rules.email_stays.search(email) or rules.placeholder.search(email)
        # git@host:path, scp's
        if local.strip(b".-") and not stays and data[end : end + 1] not in (b"(", b":", b"/"):
            yield _Span(start, end, "EMAIL", 4)
    elif b"sers" in found or b"ome" in found or b"Settings" in found:
        yield from _home(data, at, end, rules)
    elif b":" in found:
        start = at + 2 if data[at] == 92 else at
        if _is_public(data[start:end], rules):
            yield _Span(start, end, "IP", 4)
    else:
        start = at + 2 if data[at] == 92 else at
        if _is_address(data, start, end) and _is_public(data[start:end], rules):
            yield _Span(start, end, "IP", 4)


def _home(data: bytes, at: int, end: int, rules: _Rules) -> Iterator[_Span]:
    found = data[at:end]
    if found[:1] in (b"/", b"-", b"%") and not _starts_word(data, at):
        drive = at >= 2 and data[at - 2] == 47  # /c/Users, /mnt/c/Users
        if not drive and not data[max(0, at - 11) : at].endswith(
            (b"/var", b"/export", b"/usr", b"/host", b"%3A", b"%20")
        ):
            return
    if found[:1] in (b"/", b"-") and at and data[at - 1] in b"._-~)]}$":
        return
    if found[:1] == b"-":
        cut = found.index(b"-", 1) + 1
        name = found[cut:].partition(b"-")[0]
    else:
        cut = max(found.rfind(b"/"), found.rfind(b"\\"), found.rfind(b"%2F") + 2) + 1
        name = found[cut:]
        if b"\\" in found and data[end : end + 1] == b" " and (more := rules.home_more.match(data, end)):
            name += more.group()[:-1]
    name = name.rstrip(b".-")
    if _is_person(name):
        yield _Span(at + cut, at + cut + len(name), "USER", 4)


@lru_cache(4096)
def _is_person(name: bytes) -> bool:
    rules = _rules()
    low = name.lower()
    if not name or low in rules.home_stays or rules.generic.fullmatch(low) or low.endswith(_FILE_ENDS):
        return False
    return not rules.values.fullmatch(name) and not rules.parts.search(name)


def _is_distinctive(name: bytes) -> bool:
    """Whether a user's name may be replaced where no path tells that it is one: hardly a word of code or language."""
    if len(name) < 5 or name.lower() in _rules().home_stays:
        return False
    return len(name) >= 9 or any(48 <= byte <= 57 for byte in name) or any(byte in b"._-" for byte in name)


def _is_address(data: bytes, start: int, end: int) -> bool:
    """Whether four numbers are an address and not a version, a section or a part of a longer number."""
    before, after = data[max(0, start - 24) : start], data[end : end + 2]
    if before[-1:] in (b".", b"-", b"v", b"^", b"~", b"_", b"+") or before[-2:] in (b"==", b">=", b"<=", b"~=", b"@"):
        return False
    if before[-1:] == b"/" and before[-2:-1] not in (b"/", b"") and before[-2:-1].isalnum():
        return False  # Chrome/120.0.6099.5
    if after[:1] in (b"-", b"_", b"+") or (after[:1] == b"." and after[1:2].isalnum()):
        return False
    if b"ersion" in before or b"VERSION" in before or b"release" in before:
        return False
    numbers = [int(part) for part in data[start:end].split(b".")]
    return max(numbers) > 20 and not (numbers[1] == numbers[2] == 0)


def _is_public(value: bytes, rules: _Rules) -> bool:
    text = value.decode("ascii", "replace")
    if text in rules.ip_stays:
        return False
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


@lru_cache(16)
def _denied(words: tuple[str, ...]) -> Any:
    words = tuple(word for word in words if word.strip())
    if not words:
        return None
    longest = sorted(words, key=len, reverse=True)
    # UTF-8, so that case is folded in every alphabet.
    options = re2.Options()
    options.case_sensitive = False
    return re2.compile(b"|".join(re2.escape(_encoded(word)) for word in longest), options)


# Rules


class _Rule:
    """A kind of secret: where it may begin, what it looks like, and how its value is judged."""

    def __init__(self, kind: str, pattern: str, *, check: str = "", rank: int = 2, back: int = 0, run: str = "",
                 head: Sequence[str] = ()) -> None:  # fmt: skip
        self.kind, self.check, self.rank, self.back = kind, check, rank, back
        self.pattern = _compiled(pattern)
        self.group = min(self.pattern.groups, 1)
        self.run = bytes(byte for byte in range(128) if run and _compiled(run).fullmatch(bytes([byte])))
        self._heads = sorted((text.encode() for text in head), key=len, reverse=True)

    def head(self, data: bytes, at: int) -> int:
        """Length of what a token begins with."""
        return next((len(head) for head in self._heads if data.startswith(head, at)), 0)


class _Rules:
    """`secret_rules.toml`, compiled."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        macros = source["macros"]

        def expand(pattern: str) -> str:
            for name, text in macros.items():
                pattern = pattern.replace(f"{{{name}}}", text)
            return pattern

        self.buckets: dict[bytes, list[_Rule]] = {}
        self.odd_rules: list[_Rule] = []
        bound: list[str] = []
        loose: list[str] = []
        odd: list[str] = []
        for kind, forms in source["tokens"].items():
            for starts, body in forms:
                heads = starts.split("|")
                escaped = "|".join(re2.escape(head) for head in heads)
                rule = _Rule(kind, f"(?:{escaped}){body}", check="token", rank=1, head=heads)
                for head in heads:
                    bucket = self.buckets.setdefault(head[:3].lower().encode(), [])
                    if rule not in bucket:
                        bucket.append(rule)
                    # Two more letters of what follows keep words out that merely begin so.
                    bound.append(re2.escape(head) + ("[A-Za-z0-9_+/-]{4}" if len(head) < 5 else ""))
        for entry in source["rule"]:
            starts = entry.get("starts", [])
            pattern = expand(entry["pattern"])
            certain = not starts or entry["kind"] in ("JWT", "PRIVATE_KEY", "KEY_DATA", "WEBHOOK")
            options = {name: entry[name] for name in ("check", "back", "run") if name in entry}
            rule = _Rule(entry["kind"], pattern.removeprefix(r"\b"), rank=1 if certain else 2, **options)
            keys = [_literal(start) for start in starts]
            if not starts or None in keys:
                self.odd_rules.append(rule)
                scan = "|".join(starts) or entry.get("scan", pattern)
                if scan.startswith(r"\b"):
                    scan = rf"(?:\b|\\[nrt]){scan[2:]}"
                odd.append(f"(?i:{scan})" if entry.get("fold") else f"(?:{scan})")
                continue
            for start, key in zip(starts, keys, strict=True):
                bucket = self.buckets.setdefault(key or b"", [])
                if rule not in bucket:
                    bucket.append(rule)
                (loose if entry.get("loose") else bound).append(f"(?i:{start})" if entry.get("fold") else start)
        edge = r"(?:\b|_|\\[nrt]|%[0-9A-Fa-f]{2}|\\u00[0-9A-Fa-f]{2})"
        self.tokens = _compiled(f"{edge}(?:{'|'.join(dict.fromkeys(bound))})|{'|'.join(loose)}")
        self.odd = _compiled("|".join(odd))

        assignment = source["assignment"]
        kinds = assignment["kinds"]
        names = "|".join(kinds.values())
        scan = expand(assignment["scan"]).replace("{names}", names)
        self.assignments = _compiled(f"{scan}|{expand(assignment['flags'])}")
        self.names = _compiled(scan)
        self.headers = _compiled(r"(?i)^(?:proxy-)?authorization$|^(?:set-)?cookie$|^-H$|^--header$|^-u$|^--user$")
        self._kinds = [(kind, _compiled(f"(?i)(?:--?(?:[a-z0-9]+[_-])*)?(?:{names})")) for kind, names in kinds.items()]
        self.strong = _compiled(assignment["strong"])
        stays = source["stays"]
        self.stays = _compiled(stays["names"])
        self.hump = _compiled(r"([a-z0-9])([A-Z])")
        self.values = _compiled(stays["values"])
        self.parts = _compiled(stays["parts"])
        self.token_parts = _compiled(stays["token_parts"])
        self.examples = frozenset(example.encode() for example in stays["examples"])
        pii = source["pii"]
        self.personal = _compiled("|".join((pii["home"] + pii["home_name"], pii["email"], pii["ipv4"], pii["ipv6"])))
        self.email_stays = _compiled(pii["email_stays"])
        self.home_more = _compiled(r"(?: [A-Z][A-Za-z0-9._-]{0,30}){1,2}\\")
        self.home_stays = frozenset(name.encode() for name in pii["home_stays"])
        self.generic = _compiled(r"user[0-9]*|[0-9._-]+|.*\$.*")
        self.ip_stays = frozenset(pii["ipv4_stays"] + pii["ipv6_stays"])
        self.host = _compiled(pii["host"])
        scans = (self.tokens, self.odd, self.assignments, self.personal)
        self.any = _compiled(b"|".join(scan.pattern for scan in scans))

        self.placeholder = _compiled(r"\[[A-Z][A-Z0-9_]*_[0-9]+\]")
        self.bare = _compiled(r"[^\s\"'`\\<>,;]+(?:,[^\s\"'`\\<>,;]+)*")
        self.long_words = _compiled(r"[A-Z]?[a-z]{4,}|[A-Z]{4,}|\bv?[0-9]+\b")
        self.words = _compiled(r"[A-Z]?[a-z]{3,}|[A-Z]{3,}|\bv?[0-9]+\b")
        self.dotted = _compiled(r"[A-Za-z_$][\w$]*(?:(?:\??\.|::|->)[A-Za-z_$][\w$]*)+(?:[!?]|\[.*)?")
        self.code = _compiled(
            r"^(?:\\+u[0-9a-f]{4})+$|\(\)|=>|\(\?|\\[dws]|\[a-z|\[A-Z|\[0-9|^\^|\.\*|\$\{|\{\{|\}\}|&&|\|\||://[^:@]*$|^data:|^sha[0-9]+[-:]|^<|>$|::"
        )
        self.path = _compiled(
            r"(?:\.{0,2}/|~/|@/|[A-Za-z]:[\\/])[\w.@~-]+(?:[/.]|$)|[a-z0-9_.-]+/[a-z0-9_./-]+\.[a-z]{2,4}$|https?://"
        )
        self.date = _compiled(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
        self.hash = _compiled(r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128}")
        self.uuid = _compiled(r"(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
        self.sentence = _compiled(r"[A-Za-z]+[!?.:*]+|[#.][A-Za-z][A-Za-z_-]*|\*+|[^A-Za-z0-9]+")
        self.separated = _compiled(r"[A-Za-z0-9]+(?:[-_./:]+[A-Za-z0-9]+)+")
        lines = r"(?:(?:[ \t\r\n]|\\+[nrt])[ \t>|+-]*(?:[0-9]{1,6}(?:\xe2\x86\x92|\t|\\+t|:|\|)[ \t]*)?[\"'+ ]*)"
        self.key_line = _compiled(r"[A-Za-z0-9+/]{16,}")
        headers = r"(?:[A-Z][A-Za-z-]{2,20}: [^\r\n\\]{1,100}|)"
        line = rf"{lines}+[\"' ]*[A-Za-z0-9+/]{{12,}}={{0,2}}"
        last = rf"{lines}{{1,2}}[A-Za-z0-9+/]+={{1,2}}"
        self.key_lines = _compiled(
            rf"(?:{lines}+{headers})*(?:{lines}*[A-Za-z0-9+/]{{12,}}={{0,2}})(?:{line})*(?:{last})?"
        )
        self.key_lines_before = _compiled(rf"[A-Za-z0-9+/]{{16,}}(?:{lines}+[A-Za-z0-9+/]+={{0,2}})*{lines}*$")
        self.key_end = _compiled(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")

    def kind_of(self, found: bytes) -> str | None:
        """What NAME = VALUE holds, by the name that it begins with; the longest name decides."""
        best: tuple[int, str | None] = (0, None)
        for kind, names in self._kinds:
            match = names.match(found)
            if match and match.end() > best[0]:
                best = match.end(), kind
        return best[1]


def _literal(start: str) -> bytes | None:
    """The first three letters of an expression, where they are letters; lower case."""
    found = ""
    at = 0
    while at < len(start) and len(found) < 3:
        letter = start[at]
        if letter == "\\" and not start[at + 1].isalnum():
            at += 1
            letter = start[at]
        elif letter in "\\[](){}.*+?|^$":
            return None
        if start[at + 1 : at + 2] in ("?", "*", "{"):
            return None
        found += letter
        at += 1
    return found.lower().encode() if len(found) == 3 else None


def _compiled(pattern: str | bytes) -> Any:
    # Bytes: nothing is decoded, and what is no UTF-8 matches as well.
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = 256 << 20
    return re2.compile(pattern.encode() if isinstance(pattern, str) else pattern, options)


@lru_cache(1)
def _rules() -> _Rules:
    return _Rules(tomllib.loads(RULES.read_text(encoding="utf-8")))
