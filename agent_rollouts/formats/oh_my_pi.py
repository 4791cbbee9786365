"""Oh My Pi: `~/.omp/agent/sessions/<folder>/<time>_<id>.jsonl`, sessions of Pi; see `agent_rollouts.formats._pi`.

    {"type":"title","v":1,"title":"Fix it","updatedAt":"…Z","pad":"   "}
    {"type":"session","version":3,"id":"…","timestamp":"…Z","cwd":"/work","titleSource":"auto"}
    {"type":"session_init","id":"…","parentId":null,"timestamp":"…Z","systemPrompt":"…","task":"…","tools":["read"]}

* A sub-agent has a file of its own, in a folder named like its parent's file, and begins with `session_init`.
* Pictures may lie in `blobs/` beside `sessions/`, as `blob:sha256:<hash>`.
* An answer that failed stays in the file, but the model is not shown it again. `/clear` (`reset_boundary`) ends
  the context without a summary.
* The texts around summaries are its own; its program lays them out anew (it shortens tables and blank lines),
  which is not done here.

Source of the rules: oh-my-pi 18.3.4 (`session/session-context`, `session/messages`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent_rollouts.events import JSON, At, Event, Facts, Media, Said, Skipped
from agent_rollouts.formats import _chat
from agent_rollouts.formats._chat import text_or_none
from agent_rollouts.formats._media import image_type
from agent_rollouts.formats._pi import OH_MY_PI, Session, family
from agent_rollouts.source import Head, Source

_BLOB = "blob:sha256:"
_HANDOFF = (
    "Context replaced. The <handoff> below is a handoff document a prior instance of you wrote from the full"
    " conversation. It is your own working memory, not user input.\n"
    "- First person inside it refers to you (the prior instance).\n"
    '- "Next Steps" is your own resumed plan; re-check it against the latest user message before acting.\n'
    "- The handoff already exists and is complete: NEVER write another handoff document unless the user explicitly"
    " asks.\nMUST build on prior work; NEVER duplicate prior work.\n\n<handoff>\n",
    "\n</handoff>",
)


def claims(head: Head) -> bool:
    """Whether this is a session of Pi with a title before it, or with entries that only Oh My Pi writes."""
    return family(head) == OH_MY_PI


def decode(source: Source) -> Iterator[Event]:
    """The one session of a file."""
    return _Session(source).events()


class _Session(Session):
    compaction_text = (
        "Prior model work/tool state available.\nMUST build on prior work; NEVER duplicate prior work.\n\n<summary>\n",
        "\n</summary>",
    )
    branch_text = ("Branch-return summary:\n\n<summary>\n", "\n</summary>")
    drops_failures = True

    def entry(self, record: dict[str, JSON], node: int) -> Iterable[Event]:
        match record:
            case {"type": "session_init"}:
                yield from self._init(record, node)
            case {"type": "title_change", "title": str(title)}:
                self.name = title or self.name
            case {"type": "reset_boundary"}:
                yield self.compacted(record, node, ())
            case _:
                yield from super().entry(record, node)

    def message(self, message: dict[str, JSON], record: dict[str, JSON], node: int) -> Iterable[Event]:
        match message:
            case {"role": "developer"}:
                at = self.at(record, node, "reminder")
                yield from self.said(at, "system", *self.content(message.get("content"), at))
            case {"role": "pythonExecution"}:
                yield from self.aside(message, record, node, _python_text(message), "bash")
            case {"role": "fileMention", "files": list(files)}:
                yield from self._files([file for file in files if isinstance(file, dict)], record, node)
            case _:
                yield from super().message(message, record, node)

    def frame(self, record: dict[str, JSON]) -> tuple[str, str]:
        return _HANDOFF if record.get("method") == "handoff" else self.compaction_text

    def content(self, value: JSON, at: At) -> tuple[str, list[Media], list[Event]]:
        if isinstance(value, list):
            value = [
                {"type": "image", "url": data}
                if isinstance(block, dict) and isinstance(data := block.get("data"), str) and data.startswith(_BLOB)
                else block
                for block in value
            ]
        text, media, more = _chat.content(value, at)
        return text, [self._stored(medium) for medium in media], more

    def _stored(self, medium: Media) -> Media:
        """A picture from `blobs/`, which lies beside `sessions/`; where it is not there its name stays."""
        if medium.path and medium.path.startswith(_BLOB):
            hash = medium.path.removeprefix(_BLOB)
            for folder in ("../../blobs", "../../../blobs"):
                if hash.isalnum() and (blob := self.source.beside(f"{folder}/{hash}")):
                    with blob.open() as stream:
                        data = stream.read()
                    return Media(medium.type, image_type(data), data)
        return medium

    def _init(self, record: dict[str, JSON], node: int) -> Iterable[Event]:
        agent = text_or_none(record.get("agent")) or self.source.stem
        keys = ("tools", "modelRole", "spawns", "outputSchema", "readOnly")
        meta = {key: record[key] for key in keys if record.get(key) is not None}
        yield Facts({"is_sidechain": True, "agent_id": agent}, {"session_init": meta} if meta else {})
        if prompt := text_or_none(record.get("systemPrompt")):
            yield Said(self.at(record, node), "system", prompt)

    def _files(self, files: list[dict[str, JSON]], record: dict[str, JSON], node: int) -> Iterable[Event]:
        at = self.at(record, node, "attachment")
        texts = []
        media: list[Media] = []
        more: list[Event] = []
        for file in files:
            inner = f"\n{file['content']}\n" if file.get("content") else "\n"
            texts.append(f'<file path="{file.get("path", "")}">{inner}</file>')
            if file.get("image") is not None:
                _, found, lost = self.content([file["image"]], at)
                media += found
                more += lost
        if texts:
            yield from self.said(at, "user", "\n".join(texts), media, more)
        else:
            yield Skipped("message: without a file", self.stamp)


def _python_text(message: dict[str, JSON]) -> str:
    """What the model is told of Python that the user ran (`pythonExecutionToText`)."""
    output, code = message.get("output"), message.get("exitCode")
    text = f"Ran Python:\n```python\n{message.get('code', '')}\n```\n"
    text += f"Output:\n```\n{output}\n```" if output else "(no output)"
    if message.get("cancelled"):
        text += "\n\n(execution cancelled)"
    elif code is not None and code != 0:
        text += f"\n\nExecution failed with code {code}"
    return text
