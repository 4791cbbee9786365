"""The README's tables and help are made of what the code uses (`pytest --regen` rewrites them)."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from agent_rollouts.cli import main
from agent_rollouts.configs import formats
from agent_rollouts.distill.evidence import rules_table, runners_table
from agent_rollouts.distill.shapes import SHAPES
from agent_rollouts.features import COLUMNS, FEATURES, MESSAGE_KEYS, ORIGINS, PROMPT_ORIGINS

README = Path(__file__).parent.parent / "README.md"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def blocks() -> dict[str, str]:
    known = list(formats().values())
    help_texts = []
    for words in ([], *([name] for name in main.commands)):
        result = CliRunner().invoke(main, [*words, "--help"], prog_name="agent-rollouts", terminal_width=100)
        help_texts.append(result.output.strip())
    return {
        "formats": table(
            ("format", "what it is", "default folder", "files", "tested on (beside invented fixtures)"),
            [
                (
                    f"`{c.name}`",
                    f"[{c.title}]({c.homepage})",
                    " ".join(f"`{r}`" for r in c.roots) or "none",
                    " ".join(f"`{p}`" for p in c.patterns),
                    c.tested,
                )
                for c in known
            ],
        ),
        "fields": table(
            ("column", *(f"`{c.name}`" for c in known)),
            [(f"`{name}`", *(c.fields[name] for c in known)) for name in known[0].fields],
        ),
        "columns": table(
            ("column", "type", ""),
            [(f"`{name}`", _type(name), text) for name, text in COLUMNS.items()],
        ),
        "messages": table(("key", ""), [(f"`{key}`", text) for key, text in MESSAGE_KEYS.items()]),
        "origins": table(
            ("origin", "", "a prompt"),
            [(f"`{name}`", text, "yes" if name in PROMPT_ORIGINS else "") for name, text in ORIGINS.items()],
        ),
        "evidence": rules_table(),
        "runners": runners_table(),
        "shapes": table(("shape", ""), [(f"`{name}`", shape.about) for name, shape in SHAPES.items()]),
        "help": "```text\n" + "\n\n\n".join(help_texts) + "\n```",
    }


def _type(name: str) -> str:
    feature = FEATURES[name]
    return str(getattr(feature, "dtype", None) or ("struct" if isinstance(feature, dict) else feature)).split("({")[0]


def test_readme_is_fresh(regen: bool) -> None:
    text = README.read_text(encoding="utf-8")
    for name, block in blocks().items():
        pattern = re.compile(rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)", re.S)
        assert pattern.search(text), name
        fresh = pattern.sub(lambda found, block=block: f"{found[1]}{block}\n{found[2]}", text)
        if regen:
            text = fresh
        assert fresh == text, f"{name} is stale: pytest tests/test_readme.py --regen"
    if regen:
        README.write_text(text, encoding="utf-8")


def test_columns_and_fields_name_the_same_things() -> None:
    assert list(COLUMNS) == list(FEATURES)
    for config in formats().values():
        assert set(config.fields) <= set(FEATURES)
