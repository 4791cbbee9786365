"""A text's secrets: three scans tell where one may begin, and only there is anything looked at more closely."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

from agent_rollouts.distill.redact.escapes import ALNUM, NAME, QUOTES, after_escape, encoded, starts_word
from agent_rollouts.distill.redact.judging import CHECKS, is_jwt, is_placeholder, is_token, is_wordy, judged, unnumbered
from agent_rollouts.distill.redact.personal import personal
from agent_rollouts.distill.redact.rules import Rule, shipped
from agent_rollouts.distill.redact.spans import Span, settled

_SHORT = 500  # bytes of a text for which one scan before the others pays
_LONGEST = 4096  # bytes of a quoted value
_NEAR = 512  # bytes within which a rule's `needs` must be found
_JWK = 4096  # bytes within which a key says its type
_MANIFEST = 16384  # bytes of a Kubernetes manifest before and after its kind
_KEY_BLOCK = 32768  # bytes of a private key with its header
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")


@lru_cache(4096)
def context_of(key: str) -> str | None:
    """The key where it says something of its value."""
    name = encoded(key)
    if len(name) > 100:
        return None
    return key if shipped().names.search(name + b"=") or shipped().headers.search(name) else None


class Scope(NamedTuple):
    """What is looked for besides secrets."""

    pii: bool = True
    hosts: bool = False
    deny: Any = None


def look(texts: Sequence[tuple[bytes, str | None]], scope: Scope) -> dict[int, list[Span]]:
    """The spans of texts (each with the key that names it), by index; in order and apart. Those with none are left out.

    All texts are scanned as one, since a scan costs more to begin than to go on.
    """
    wrapped = [_named(data, context) if context is not None else data for data, context in texts]
    joined = b"\0".join(wrapped)
    if scope.deny is None and not scope.hosts and is_clean(joined):
        return {}
    starts = list(accumulate((len(data) + 1 for data in wrapped), initial=0))
    found: dict[int, list[Span]] = {}
    for pattern, read in _scans(scope):
        index, following = -1, 0
        for match in pattern.finditer(joined):
            start, end = match.span()
            if start >= following:
                index = bisect_right(starts, start, index + 1) - 1
                first, following, data = starts[index], starts[index + 1], wrapped[index]
            if spans := [*read(data, start - first, min(end, following - 1) - first)]:
                found.setdefault(index, []).extend(spans)
    return {index: kept for index in sorted(found) if (kept := _kept(found[index], wrapped[index], *texts[index]))}


def _named(data: bytes, context: str) -> bytes:
    return b'"' + encoded(context).lstrip(b"-") + b'": "' + data + b'"'


def _kept(spans: list[Span], wrapped: bytes, data: bytes, context: str | None) -> list[Span]:
    rules = shipped()
    spans = settled([span for span in spans if not rules.placeholder.fullmatch(wrapped[span.start : span.end])])
    if context is None:
        return spans
    shift, length = len(wrapped) - len(data) - 1, len(data)
    return [
        span._replace(start=max(span.start - shift, 0), end=min(span.end - shift, length))
        for span in spans
        if span.end > shift and span.start - shift < length
    ]


Read: TypeAlias = Callable[[bytes, int, int], Iterator[Span]]


@lru_cache(64)
def _scans(scope: Scope) -> list[tuple[Any, Read]]:
    """What finds where something may begin, and what reads it there."""
    rules = shipped()
    scans: list[tuple[Any, Read]] = [
        (rules.tokens, _tokens),
        (rules.odd, _odd),
        (rules.assignments, _assignment),
    ]
    if scope.pii:
        scans.append((rules.personal, personal))
    if scope.hosts:
        scans.append((rules.host, _host))
    if scope.deny is not None:
        scans.append((scope.deny, _denied))
    return scans


@lru_cache(65536)
def _begins(data: bytes) -> bool:
    return shipped().any.search(data) is not None


def is_clean(data: bytes) -> bool:
    """Whether nothing begins in a short text: one scan in place of four, none when it is seen again."""
    return len(data) < 6 or (len(data) < _SHORT and not _begins(data))


def _host(data: bytes, at: int, end: int) -> Iterator[Span]:
    if b"." in data[at:end]:
        yield Span(after_escape(data, at), end, "HOST", 4)


def _denied(data: bytes, at: int, end: int) -> Iterator[Span]:
    if starts_word(data, at) and (end == len(data) or data[end] not in ALNUM):
        yield Span(at, end, "DENIED", 0)


def _tokens(data: bytes, at: int, end: int) -> Iterator[Span]:
    rules = shipped()
    first = data[at]
    starts = [at]
    if first == 92:
        starts = [at + 6] if data[at + 1] == 117 else [at, at + 2]
    elif first == 37:
        starts = [at + 3]
    elif first == 95:
        starts = [at, at + 1]
    for start in starts:
        word = data[start : start + 12].lower()
        for begins, needs, rule in rules.buckets.get(word[:3], ()):
            if word.startswith(begins) and (not needs or data.find(needs, start, start + _NEAR) >= 0):
                yield from _checked(data, start, rule)


def _odd(data: bytes, at: int, end: int) -> Iterator[Span]:
    rules = shipped()
    for rule in rules.odd_rules:
        start = (at + 2 if data[at] == 92 and data[at + 1] in b"nrt" else at) - rule.back
        if rule.run:
            window = data[max(0, at - 200) : at]
            start = at - len(window) + len(window.rstrip(rule.run))
            start = after_escape(data, start)
        if start >= 0:
            yield from _checked(data, start, rule)


def _checked(data: bytes, at: int, rule: Rule) -> Iterator[Span]:
    match = rule.pattern.match(data, at)
    if match is None:
        return
    start, end = match.span(rule.group)
    if rule.check == "pem":
        yield from _key_block(data, start, end)
        return
    if after_escape(data, start) > start:
        return
    value = data[start:end]
    if rule.check == "token":
        if end < len(data) and data[end] in ALNUM:
            return
        before = data[max(0, start - 40) : start]
        if before[-1:] in (b"+", b"/") and len(before) == 40 and _BASE64.issuperset(before):
            return  # in the midst of base64
        body = data[start + rule.head(data, start) : end]
        if not is_token(value, body):
            return
    elif rule.check == "cookie":
        yield from _cookies(start, value)
        return
    elif rule.check == "manifest":
        yield from _manifest(data, start)
        return
    elif rule.check == "jwk":
        if b'"kty' not in data[max(0, start - _JWK) : end + _JWK] or is_wordy(value):
            return
    elif rule.check == "jwt":
        if not is_jwt(value):
            return
    elif not CHECKS[rule.check](unnumbered(value)):
        return
    yield Span(start, end, rule.kind, rule.rank)


def _cookies(start: int, value: bytes) -> Iterator[Span]:
    at = start
    for pair in value.split(b";"):
        name, _, content = pair.partition(b"=")
        drawn = any(48 <= byte <= 57 for byte in content) and not is_wordy(content)
        if len(content) >= 8 and drawn and not is_placeholder(content):
            begin = at + len(name) + 1
            yield Span(begin, begin + len(content.rstrip()), "COOKIE", 2)
        at += len(pair) + 1


def _manifest(data: bytes, at: int) -> Iterator[Span]:
    """The values of a Kubernetes secret, which are base64 under any name, before its kind or after it."""
    rules = shipped()
    low = max(0, at - _MANIFEST)
    for mark in (b"---", b"apiVersion"):  # where this one begins
        low = max(low, data.rfind(mark, low, at))
    high = min(len(data), at + _MANIFEST)
    for mark in (b"\n---", b"n---"):
        cut = data.find(mark, at, high)
        high = cut if cut >= 0 else high
    for block in rules.secret_data.finditer(data[low:high]):
        for datum in rules.datum.finditer(block.group()):
            value = datum.group(1)
            if len(value) % 4 == 0 and not is_placeholder(value):
                begin = low + block.start() + datum.start(1)
                yield Span(begin, begin + len(value), "SECRET_DATA", 2)


def _key_block(data: bytes, start: int, end: int) -> Iterator[Span]:
    """A private key from its first to its last line, or as far as there are lines of it, where it was cut."""
    rules = shipped()
    if data.startswith(b"-----END", start):
        # What is left of one that lost its beginning; a whole one is found by its beginning.
        low = max(0, start - _KEY_BLOCK)
        body = rules.key_lines_before.search(data[low:start])
        begun = data.rfind(b"PRIVATE KEY", low, start)
        if body and not (begun >= 0 and begun >= low + body.start() - 80):
            yield Span(after_escape(data, low + body.start()), end, "PRIVATE_KEY", 0)
        return
    block = data[end : end + _KEY_BLOCK]
    close = rules.key_end.search(block)
    again = block.find(b"-----BEGIN")
    if close and not 0 <= again < close.start():
        inside = block[: close.start()]
        if sum(byte in _BASE64 for byte in inside) >= 40 and rules.key_line.search(inside):
            yield Span(start, end + close.end(), "PRIVATE_KEY", 0)
        return
    lines = rules.key_lines.match(block)
    if lines and rules.key_line.search(lines.group()):
        yield Span(start, end + lines.end(), "PRIVATE_KEY", 0)


def _assignment(data: bytes, at: int, end: int) -> Iterator[Span]:
    """NAME = VALUE: what names it, how it stands there, and whether it is a literal."""
    rules = shipped()
    if end == len(data) or (data[end] in b"=~(){}[]<>,;$|:" and not data.startswith(b"[]byte(", end)):
        return
    if data[end] in b"SOBZn[" and rules.wrapper.match(data, end):  # Some("…")
        end = data.index(b"(", end) + 1
    before = data[max(0, at - 60) : at]
    head = len(before) - len(before.rstrip(NAME))
    begin = after_escape(data, at - head) if head < 60 else at
    whole = data[begin:end]
    whole = whole[: len(whole) - len(whole.lstrip(NAME))]
    name = whole.strip(b".-_")
    between = data[begin + len(whole) : end]
    begin += len(whole) - len(whole.lstrip(b".-_"))
    if data[max(0, begin - 9) : begin] == b"checksum/":
        return  # Helm's annotation of what changed
    if (begin and data[begin - 1] in b"[$") and rules.placeholder.match(data, begin - 1):
        return
    if data[end - 1] in QUOTES and b"," in between:
        if data[max(0, begin - 12) : begin].rstrip(b"\\\"'` ")[-1:] not in b"([{-#":
            return  # an item of a list beside another one
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
    elif begin and data[begin - 1] == 45 and not separator:
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
    if not quoted and (separator.endswith((b"||", b"??")) or (separator[:1] in (b'"', b"\\") and value.isdigit())):
        return  # a variable; a number in JSON must stay one
    if b"," in between and data[max(0, begin - 12) : begin].rstrip(b"\\\"'` ")[-1:] == b"[" and is_wordy(value):
        return  # a list of names
    kind = judged(
        data[at if data[at] == 45 else max(at, begin) : end],
        name,
        unnumbered(value),
        "quoted" if quoted else style,
        after,
    )
    if kind is not None:
        yield Span(start, stop, kind, 3)


def _value(data: bytes, at: int, style: str) -> tuple[int, int, bool]:
    """Where the value that begins at `at` starts and stops, and whether it is in quotes."""
    length = len(data)
    if data[at : at + 1] in (b"b", b"r", b"u", b"@") and data[at + 1 : at + 9].lstrip(b"\\")[:1] in (b'"', b"'"):
        at += 1
    elif data.startswith(b"!!", at) and (space := data.find(b" ", at, at + 12)) > 0:
        at = space + 1  # YAML's type
    open_ = at
    while open_ < length and data[open_] == 92:
        open_ += 1
    depth = open_ - at
    if open_ < length and data[open_] in QUOTES:
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
    match = shipped().bare.match(data, at)
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
        and not (data[stop - 1] in b"!?" and style in ("env", "bare", "flag"))
    ):
        stop -= 1
    return at, stop, False
