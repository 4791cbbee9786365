"""Images, documents and sounds as the logs of several agents write them."""

from __future__ import annotations

import binascii
from urllib.parse import unquote_to_bytes

from agent_rollouts.events import JSON, Media


def decoded(kind: str, media_type: JSON, text: JSON) -> Media | None:
    """What base64 text holds, None where it is not that."""
    data = _bytes(text) if isinstance(text, str) else None
    if data is None:
        return None
    return Media(kind, media_type if isinstance(media_type, str) else image_type(data), data)


def of_url(kind: str, url: JSON) -> Media | None:
    """What a `data:` address holds, else where another address or path points; None where it is none of these."""
    if not isinstance(url, str) or not url:
        return None
    if not url.startswith("data:"):
        return Media(kind, None, None, url)
    about, comma, text = url.removeprefix("data:").partition(",")
    data = (_bytes(text) if about.endswith(";base64") else unquote_to_bytes(text)) if comma else None
    return None if data is None else Media(kind, about.partition(";")[0] or None, data)


def image_type(data: bytes) -> str | None:
    """The media type of an image by its first bytes."""
    if data.startswith(b"\x89PNG"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"GIF8":
        return "image/gif"
    return "image/webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _bytes(text: str) -> bytes | None:
    try:
        return binascii.a2b_base64(text)
    except ValueError:
        return None
