"""`secret_rules.toml`, compiled: where secrets may begin, what they look like, how values are named."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import re2

from agent_rollouts.distill.redact.escapes import encoded

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RULES = Path(__file__).with_name("secret_rules.toml")


class Rule:
    """A kind of secret: where it may begin, what it looks like, and how its value is judged."""

    def __init__(self, kind: str, pattern: str, *, check: str = "", rank: int = 2, back: int = 0, run: str = "",
                 head: Sequence[str] = ()) -> None:  # fmt: skip
        self.kind, self.check, self.rank, self.back = kind, check, rank, back
        self.pattern = compiled(pattern)
        self.group = min(self.pattern.groups, 1)
        self.run = bytes(byte for byte in range(128) if run and compiled(run).fullmatch(bytes([byte])))
        self._heads = sorted((text.encode() for text in head), key=len, reverse=True)

    def head(self, data: bytes, at: int) -> int:
        """Length of what a token begins with."""
        return next((len(head) for head in self._heads if data.startswith(head, at)), 0)


class Rules:
    """`secret_rules.toml`, compiled."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        macros = source["macros"]

        def expand(pattern: str) -> str:
            for name, text in macros.items():
                pattern = pattern.replace(f"{{{name}}}", text)
            return pattern

        self.buckets: dict[bytes, list[Rule]] = {}
        self.odd_rules: list[Rule] = []
        bound: list[str] = []
        loose: list[str] = []
        odd: list[str] = []
        for kind, forms in source["tokens"].items():
            for starts, body in forms:
                heads = starts.split("|")
                escaped = "|".join(re2.escape(head) for head in heads)
                rule = Rule(kind, f"(?:{escaped}){body}", check="token", rank=1, head=heads)
                for head in heads:
                    bucket = self.buckets.setdefault(head[:3].lower().encode(), [])
                    if rule not in bucket:
                        bucket.append(rule)
                    bound.append(re2.escape(head) + _ahead(body))
        for entry in source["rule"]:
            starts = entry.get("starts", [])
            pattern = expand(entry["pattern"])
            certain = not starts or entry["kind"] in ("JWT", "PRIVATE_KEY", "KEY_DATA", "WEBHOOK")
            options = {name: entry[name] for name in ("check", "back", "run") if name in entry}
            rule = Rule(entry["kind"], pattern.removeprefix(r"\b"), rank=1 if certain else 2, **options)
            keys = [literal_start(start) for start in starts]
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
        self.tokens = compiled(f"{edge}(?:{'|'.join(dict.fromkeys(bound))})|{'|'.join(loose)}")
        self.odd = compiled("|".join(odd))

        assignment = source["assignment"]
        kinds = assignment["kinds"]
        names = "|".join(kinds.values())
        scan = expand(assignment["scan"]).replace("{names}", names)
        self.assignments = compiled(f"{scan}|{expand(assignment['flags'])}")
        self.names = compiled(scan)
        self.headers = compiled(r"(?i)^(?:proxy-)?authorization$|^(?:set-)?cookie$|^-H$|^--header$|^-u$|^--user$")
        self._kinds = [(kind, compiled(f"(?i)(?:--?(?:[a-z0-9]+[_-])*)?(?:{names})")) for kind, names in kinds.items()]
        self.strong = compiled(assignment["strong"])
        stays = source["stays"]
        self.stays = compiled(stays["names"])
        self.hump = compiled(r"([a-z0-9])([A-Z])")
        self.values = compiled(stays["values"])
        self.parts = compiled(stays["parts"])
        self.token_parts = compiled(stays["token_parts"])
        self.pairs = frozenset(pair.encode() for pair in stays["pairs"].split())
        self.examples = frozenset(example.encode() for example in stays["examples"])
        pii = source["pii"]
        self.personal = compiled("|".join((pii["home"] + pii["home_name"], pii["email"], pii["ipv4"], pii["ipv6"])))
        self.email_stays = compiled(pii["email_stays"])
        self.home_more = compiled(r"(?: [A-Z][A-Za-z0-9._-]{0,30}){1,2}\\")
        self.home_stays = frozenset(name.encode() for name in pii["home_stays"])
        self.generic = compiled(r"user[0-9]*|[0-9._-]+|.*\$.*")
        self.ip_stays = frozenset(pii["ipv4_stays"] + pii["ipv6_stays"])
        self.host = compiled(pii["host"])
        scans = (self.tokens, self.odd, self.assignments, self.personal)
        self.any = compiled(b"|".join(scan.pattern for scan in scans))

        self.placeholder = compiled(r"\[[A-Z][A-Z0-9_]*_[0-9]+\]")
        self.bare = compiled(r"[^\s\x00\"'`\\<>,;]+(?:,[^\s\x00\"'`\\<>,;]+)*")
        self.wrapper = compiled(
            r"(?:Some|Ok|String::from|Secret(?:Str|String)?(?:::new|::from)?|Buffer\.from|Zeroizing::new|"
            r"new SecureString)\((?:\\*[\"'])"
        )
        self.long_words = compiled(r"[A-Z]?[a-z]{4,}|[A-Z]{4,}|\bv?[0-9]+\b")
        self.words = compiled(r"[A-Z]?[a-z]{3,}|[A-Z]{3,}|\bv?[0-9]+\b")
        self.runs = compiled(r"[a-z]+")
        self.named = compiled(r"(?i)(?:base|sha|md|utf|ascii|hmac|aes|rsa|bcrypt|argon|oauth|http|v)-?[0-9]+")
        self.dotted = compiled(r"[A-Za-z_$][\w$]*(?:(?:\??\.|::|->)[A-Za-z_$][\w$]*)+(?:[!?]|\[.*)?")
        self.code = compiled("|".join(stays["code"]))
        self.identifier = compiled(
            r"[a-z]+[0-9]?(?:_[a-z]+){2,}|[a-z]+(?:_[a-z]+)*_[a-z]+[0-9]?(?:_[a-z]+)+|[a-z]+(?:_[a-z]+){2,}[0-9]?"
        )
        self.constant = compiled(r"_?[A-Z]+[0-9]{0,3}(?:_[A-Z]+[0-9]{0,2})+|[a-z][a-z0-9_]{3,}\.[A-Z][A-Za-z0-9]+")
        self.indexed = compiled(r"[A-Za-z_][\w.]*\[.*")
        self.path = compiled(
            r"(?:\.{0,2}/|~/|@/|[A-Za-z]:[\\/])[\w.@~-]+(?:[/.]|$)|[a-z0-9_.-]+/[a-z0-9_./-]+\.[a-z]{2,4}$|https?://"
        )
        self.date = compiled(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
        self.hash = compiled(r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128}")
        self.uuid = compiled(r"(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
        self.sentence = compiled(r"[A-Za-z]+[!?.:*]+|[#.][A-Za-z][A-Za-z_-]*|\*+|[^A-Za-z0-9]+")
        self.separated = compiled(r"[A-Za-z0-9]+(?:[-_./:]+[A-Za-z0-9]+)+")
        lines = r"(?:(?:[ \t\r\n]|\\+[nrt])[ \t>|+-]*(?:[0-9]{1,6}(?:\xe2\x86\x92|\t|\\+t|:|\|)[ \t]*)?[\"'+ ]*)"
        self.key_line = compiled(r"[A-Za-z0-9+/]{16,}")
        headers = r"(?:[A-Z][A-Za-z-]{2,20}: [^\r\n\\]{1,100}|)"
        line = rf"{lines}+[\"' ]*[A-Za-z0-9+/]{{12,}}={{0,2}}"
        last = rf"{lines}{{1,2}}[A-Za-z0-9+/]+={{1,2}}"
        self.key_lines = compiled(
            rf"(?:{lines}+{headers})*(?:{lines}*[A-Za-z0-9+/]{{12,}}={{0,2}})(?:{line})*(?:{last})?"
        )
        self.key_lines_before = compiled(rf"[A-Za-z0-9+/]{{16,}}(?:{lines}+[A-Za-z0-9+/]+={{0,2}})*{lines}*$")
        self.key_end = compiled(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")

    def kind_of(self, found: bytes) -> str | None:
        """What NAME = VALUE holds, by the name that it begins with; the longest name decides."""
        best: tuple[int, str | None] = (0, None)
        for kind, names in self._kinds:
            match = names.match(found)
            if match and match.end() > best[0]:
                best = match.end(), kind
        return best[1]


def _ahead(body: str) -> str:
    """The first letters of what follows a token's head: they keep words out that merely begin so."""
    first = re2.match(r"(\[[^\]]+\])\{([0-9]+)", body)
    return f"{first[1]}{{{min(int(first[2]), 8)}}}" if first else ""


def literal_start(start: str) -> bytes | None:
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


def compiled(pattern: str | bytes) -> Any:
    """An expression over bytes."""
    # Bytes: nothing is decoded, and what is no UTF-8 matches as well.
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = 256 << 20
    return re2.compile(pattern.encode() if isinstance(pattern, str) else pattern, options)


@lru_cache(1)
def shipped() -> Rules:
    """The rules of this package."""
    return Rules(tomllib.loads(RULES.read_text(encoding="utf-8")))


@lru_cache(16)
def denied(words: tuple[str, ...]) -> Any:
    """An expression for the user's own words in any case; None where there are none."""
    words = tuple(word for word in words if word.strip())
    if not words:
        return None
    longest = sorted(words, key=len, reverse=True)
    # UTF-8, so that case is folded in every alphabet.
    options = re2.Options()
    options.case_sensitive = False
    return re2.compile(b"|".join(re2.escape(encoded(word)) for word in longest), options)
