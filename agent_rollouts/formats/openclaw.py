"""OpenClaw: `~/.openclaw/agents/<agent>/sessions/<id>.jsonl`, sessions of Pi; see `agent_rollouts.formats._pi`.

    {"type":"session","version":3,"id":"…","timestamp":"…Z","cwd":"/home/me/.openclaw/workspace"}
    {"type":"custom","customType":"model-snapshot","data":{"provider":"…","modelId":"…"},"id":"…","parentId":"…",…}
    {"type":"message",…,"message":{"role":"assistant","content":[…],"provider":"openclaw","model":"delivery-mirror",…}}

* What the provider `openclaw` says (`delivery-mirror`, `gateway-injected`) is what the gateway sent or was told
  to say: it is kept with weight 0, and no model.
* The envelope around a chat message (`[Telegram …]`, `… (untrusted metadata)`) is what the model saw, and stays.
* `sessions.json` beside the sessions tells what a session is for, and who spawned it.
* `reset` begins a new window without a summary; `leaf` names the entry that the next one follows; an entry with
  `"appendMode":"side"` does not become the leaf.

Source of the rules: OpenClaw 2026.9.6 (its manual and its session reader), formerly Clawdbot and Moltbot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent_rollouts.events import JSON, Event, Facts
from agent_rollouts.formats._chat import text_or_none
from agent_rollouts.formats._pi import OPENCLAW, Session, family
from agent_rollouts.source import Head, Source


def claims(head: Head) -> bool:
    """Whether this is a session of Pi whose folder or whose entries are OpenClaw's."""
    return family(head) == OPENCLAW


def decode(source: Source) -> Iterator[Event]:
    """The one session of a file."""
    return _Session(source).events()


class _Session(Session):
    def header(self, header: dict[str, JSON]) -> Iterable[Event]:
        known = self.has_header
        events = list(super().header(header))
        if not known:
            yield from self._about()
        yield from events

    def is_model(self, message: dict[str, JSON]) -> bool:
        return message.get("provider") != "openclaw"

    def _about(self) -> Iterable[Event]:
        store = self.source.sibling("sessions.json") if self.id else None
        sessions = store if isinstance(store, dict) else {}
        for key, about in sessions.items():
            if not isinstance(about, dict) or about.get("sessionId") != self.id:
                continue
            # agent:<agent>:<main, subagent, cron or the channel>:…; the rest may be a person's number.
            names = key.split(":")
            is_agents = names[0] == "agent" and len(names) > 2
            kind = names[2] if is_agents else names[0]
            spawner = sessions.get(about.get("spawnedBy"), {}) if isinstance(about.get("spawnedBy"), str) else {}
            is_spawned = kind == "subagent"
            values = {
                "is_sidechain": is_spawned or None,
                "agent_id": (text_or_none(about.get("label")) or self.id) if is_spawned else None,
                "parent_trace_id": text_or_none(spawner.get("sessionId")) if isinstance(spawner, dict) else None,
            }
            meta = {
                "agent": names[1] if is_agents else None,
                "session_kind": kind,
                "chat_type": text_or_none(about.get("chatType")),
                "channel": text_or_none(about.get("channel")) or text_or_none(about.get("lastChannel")),
            }
            yield Facts(values, meta)
            return
