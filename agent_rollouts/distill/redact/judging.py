"""Whether a value is a secret: drawn letters, and no word, code, example or name of something."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from math import log2

from agent_rollouts.distill.redact.escapes import ALNUM, WORD
from agent_rollouts.distill.redact.rules import shipped


def is_token(value: bytes, body: bytes) -> bool:
    """Whether what follows a vendor's prefix looks drawn."""
    rules = shipped()
    if len(set(body)) < 6 or value in rules.examples or rules.token_parts.search(value):
        return False
    return sum(48 <= byte <= 57 for byte in body) >= 2 or body.isupper() or not is_wordy(body)


def _is_quoted(value: bytes) -> bool:
    """Whether a literal of code is a password."""
    return (
        len(value) >= 5
        and not is_placeholder(value)
        and not shipped().code.search(value)
        and _is_password(value, "quoted", b"", False)
    )


def is_jwt(value: bytes) -> bool:
    """Whether the first part is a header of JOSE, or the second one more JSON."""
    rules = shipped()
    parts = value.split(b".")
    if any(part in rules.examples for part in parts) or (rules.parts.search(value) and b"..." in value):
        return False
    if parts[1].startswith(b"eyJ"):
        return True
    try:
        return b'"alg"' in base64.urlsafe_b64decode(parts[0] + b"=" * (-len(parts[0]) % 4))
    except ValueError:
        return False


def unnumbered(value: bytes) -> bytes:
    """A value in which all placeholders look the same, so that their numbers decide nothing."""
    return shipped().placeholder.sub(b"[SECRET_1]", value) if b"[" in value else value


@lru_cache(65536)
def judged(found: bytes, name: bytes, value: bytes, style: str, after: bytes) -> str | None:
    """The kind of secret that NAME = VALUE holds, if any. Code repeats itself, and so do logs."""
    rules = shipped()
    if (
        len(value) < 5
        or (style in ("bare", "yaml") and value.replace(b"_", b"").isalpha() and len(value) < 32)
        or (rules.stays.search(rules.hump.sub(rb"\1_\2", name)) and not rules.azure_key.fullmatch(name + b"=" + value))
    ):
        return None
    kind = rules.kind_of(found)
    return kind if kind and _is_literal(kind, name, value, style, after) else None


def _is_literal(kind: str, name: bytes, value: bytes, style: str, after: bytes) -> bool:
    """Whether a value is a secret as such, and not code, a word, an example or the name of one."""
    rules = shipped()
    if len(value) < 5 or is_placeholder(value) or rules.code.search(value):
        return False
    if any(byte <= 32 for byte in value) or rules.identifier.fullmatch(value):
        return False
    if style != "quoted" and (
        (value[0] in b"$%{[(<*&!|" and style not in ("env", "query", "flag", "yaml"))
        or b"(" in value
        or value[0] in b"$[{(|"
        or rules.indexed.fullmatch(value)
        or rules.constant.fullmatch(value)
        or (rules.dotted.fullmatch(value.partition(b",")[0]) and sum(48 <= byte <= 57 for byte in value) < 2)
    ):
        return False
    if value.lower().replace(b"-", b"_") in name.lower().replace(b"-", b"_"):
        return False
    is_env = style == "env" and name.isupper()
    if name.lower() == b"pass" and style in ("yaml", "prose"):
        return name != b"PASS" and _is_prose(value)  # --- PASS: TestLogin
    symbols = name.isupper() and any(byte in b"!#%^&*" for byte in value)
    if kind == "PASSWORD" or (style in ("quoted", "env") and not value.isalnum() and (kind == "SECRET" or symbols)):
        if _is_password(value, style, after, is_env, name.lower()):
            return True
        if kind == "PASSWORD":
            return False
    strong = rules.strong.search(name) is not None or kind == "AWS_SECRET_KEY"
    least = 16 if not strong or style == "prose" else 8 if kind == "SECRET" or style in ("env", "quoted") else 10
    if len(value) < least or (
        not strong and (value.isalpha() or rules.hash.fullmatch(value) or rules.uuid.fullmatch(value))
    ):
        return False
    if rules.date.match(value) or (rules.path.match(value) and (len(value) < 32 or is_wordy(value))):
        return False
    if style in ("bare", "yaml") and after in (b",", b")", b";", b"(") and len(value) < 16:
        return False
    return _is_random(value)


def _is_password(value: bytes, style: str, after: bytes, is_env: bool, name: bytes = b"") -> bool:
    rules = shipped()
    if len(value) > 200 or rules.path.match(value) or rules.sentence.fullmatch(value):
        return False
    digits = any(48 <= byte <= 57 for byte in value)
    letters = any(byte in ALNUM and not 48 <= byte <= 57 for byte in value)
    plain = all(byte in WORD or byte >= 128 for byte in value)
    if style == "prose":
        numbers = sum(48 <= byte <= 57 for byte in value)
        return len(value) >= 8 and letters and numbers >= 2 and not rules.named.match(value)
    if plain:
        if is_env or style == "flag":
            return (digits and (letters or len(value) >= 6)) or len(value) >= 12 or not is_wordy(value)
        if style == "bare" or (after in (b",", b")", b";", b"(") and style not in ("quoted", "query")):
            return digits and letters and not is_wordy(value) and len(value) >= 8
        if digits and letters and len(value) >= 6:
            return True
        return style in ("quoted", "query", "element", "env") and len(value) >= 10 and not is_wordy(value)
    if rules.phrase.fullmatch(value) and len(set(value.split(b"-"))) >= 4 and name.endswith(b"phrase"):
        return True
    if rules.separated.fullmatch(value):
        numbers = sum(48 <= byte <= 57 for byte in value)
        if style in ("env", "query", "flag") and len(value) >= 8 and letters and numbers >= 2:
            return True
        return (is_env and len(value) >= 12) or (digits and letters and (numbers >= 3 or not is_wordy(value)))
    return len(value) >= 6 and (letters or digits)


def _is_random(value: bytes) -> bool:
    """Whether a value looks drawn: letters and digits mixed, no words."""
    if is_placeholder(value) or is_wordy(value):
        return False
    lower, upper = any(97 <= b <= 122 for b in value), any(65 <= b <= 90 for b in value)
    digits = sum(48 <= byte <= 57 for byte in value)
    if not (((lower or upper) and digits) or (lower and upper and len(value) >= 16)):
        return len(value) >= 24 and digits == len(value)
    return _entropy(value) >= (2.5 if len(value) < 16 else 2.9)


def _is_session(value: bytes) -> bool:
    return _is_random(value) and not shipped().uuid.fullmatch(value)


def _is_mixed(value: bytes) -> bool:
    return _is_random(value) and not value.islower() and not value.isupper()


def _is_flag(value: bytes) -> bool:
    return (
        not is_placeholder(value)
        and not shipped().code.search(value)
        and value[0] not in b"$-<{(%"
        and (len(value) >= 5 and not shipped().path.match(value))
        and (_is_password(value, "flag", b"", True) or (len(value) > 200 and _is_random(value)))
    )


def _is_bearer(value: bytes) -> bool:
    if is_placeholder(value) or shipped().code.search(value) or shipped().dotted.fullmatch(value):
        return False
    return (not is_wordy(value) and (len(value) >= 12 or any(48 <= b <= 57 for b in value))) or (
        len(value) >= 24 and (any(48 <= b <= 57 for b in value) and not shipped().path.match(value))
    )


def _is_url_password(value: bytes) -> bool:
    return (
        len(value) >= 4
        and not is_placeholder(value)
        and value[0] not in b"$%{<*["
        and not value.isdigit()
        and not shipped().code.search(value)
    )


def _is_prose(value: bytes) -> bool:
    """Whether a word of a sentence can only be a password: digits, and a sign or letters of both cases with them."""
    rules = shipped()
    if is_placeholder(value) or rules.code.search(value) or rules.date.match(value) or rules.hash.fullmatch(value):
        return False
    mixed = not value.islower() and not value.isupper() and any(97 <= byte <= 122 for byte in value)
    signed = any(byte in b"!#%&*^$?" for byte in value)
    told = (signed or (mixed and value.isalnum())) and _is_password(value, "prose", b"", False)
    return (told or (mixed and _is_random(value))) and not rules.algorithm.search(value)


def _is_no_placeholder(value: bytes) -> bool:
    return not is_placeholder(value)


CHECKS: dict[str, Callable[[bytes], bool]] = {
    "": _is_no_placeholder,
    "random": _is_random,
    "mixed": _is_mixed,
    "session": _is_session,
    "password": _is_url_password,
    "flag": _is_flag,
    "quoted": _is_quoted,
    "bearer": _is_bearer,
    "prose": _is_prose,
}


@lru_cache(65536)
def is_placeholder(value: bytes) -> bool:
    """Whether a value stands for one: an example of somebody's documentation, asterisks, a word such as `changeme`."""
    rules = shipped()
    return (
        len(set(value)) < 4
        or value in rules.examples
        or rules.values.fullmatch(value) is not None
        or rules.parts.search(value) is not None
        or rules.placeholder.search(value) is not None
        or (value[:1] == b"[" and value[1:2].isupper())
    )


@lru_cache(65536)
def is_wordy(value: bytes) -> bool:
    """Whether eight of ten letters stand in words (three of a case) or numbers; of drawn letters four of ten do."""
    letters = sum(byte in ALNUM for byte in value)
    words = (shipped().long_words if len(value) >= 20 else shipped().words).findall(value)
    if 10 * sum(map(len, words)) < 8 * letters:
        return False
    return not (len(value) >= 16 and value.isalnum() and _is_drawn(value))


def _is_drawn(value: bytes) -> bool:
    """Whether letters with digits among them do not follow each other as in words."""
    runs = shipped().runs.findall(value.lower())
    pairs = [run[at : at + 2] for run in runs for at in range(len(run) - 1)]
    cases = [97 <= byte <= 122 for byte in value]
    turns = sum(cases[at] != cases[at - 1] for at in range(1, len(cases)))
    return (
        (len(runs) >= 2 or 4 * turns >= len(value) or value.islower())
        and len(pairs) >= 6
        and 10 * sum(pair in shipped().pairs for pair in pairs) < 6 * len(pairs)
    )


def _entropy(value: bytes) -> float:
    total = len(value)
    return -sum(count / total * log2(count / total) for count in Counter(value).values())
