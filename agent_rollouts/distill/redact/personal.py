"""Personal data: names of home folders, e-mail and public IP addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import lru_cache

from agent_rollouts.distill.redact.escapes import after_escape, starts_word
from agent_rollouts.distill.redact.rules import Rules, shipped
from agent_rollouts.distill.redact.spans import Span

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


def personal(data: bytes, at: int, end: int) -> Iterator[Span]:
    """What a match of `Rules.personal` holds, if anything."""
    rules = shipped()
    found = data[at:end]
    if b"@" in found:
        start = after_escape(data, at)
        email = data[start:end]
        local = email.partition(b"@")[0]
        stays = rules.email_stays.search(email) or rules.placeholder.search(email)
        # git@host:path, scp's
        if local.strip(b".-") and not stays and data[end : end + 1] not in (b"(", b":", b"/"):
            yield Span(start, end, "EMAIL", 4)
    elif b"sers" in found or b"ome" in found or b"Settings" in found:
        yield from _home(data, at, end, rules)
    elif b":" in found:
        start = at + 2 if data[at] == 92 else at
        if _is_public(data[start:end], rules):
            yield Span(start, end, "IP", 4)
    else:
        start = at + 2 if data[at] == 92 else at
        if _is_address(data, start, end) and _is_public(data[start:end], rules):
            yield Span(start, end, "IP", 4)


def _home(data: bytes, at: int, end: int, rules: Rules) -> Iterator[Span]:
    found = data[at:end]
    if found[:1] in (b"/", b"-", b"%") and not starts_word(data, at):
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
        yield Span(at + cut, at + cut + len(name), "USER", 4)


@lru_cache(4096)
def _is_person(name: bytes) -> bool:
    rules = shipped()
    low = name.lower()
    if not name or low in rules.home_stays or rules.generic.fullmatch(low) or low.endswith(_FILE_ENDS):
        return False
    return not rules.values.fullmatch(name) and not rules.parts.search(name)


def is_distinctive(name: bytes) -> bool:
    """Whether a user's name may be replaced where no path tells that it is one: hardly a word of code or language."""
    if len(name) < 5 or name.lower() in shipped().home_stays:
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


def _is_public(value: bytes, rules: Rules) -> bool:
    text = value.decode("ascii", "replace")
    if text in rules.ip_stays:
        return False
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast
