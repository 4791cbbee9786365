"""What others may rely on: the public names, the errors, the docstrings, and the tables of the formats."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

import agent_rollouts
from agent_rollouts import errors
from agent_rollouts.configs import FormatConfig, formats
from agent_rollouts.features import COLUMNS, FEATURES
from agent_rollouts.formats import DECODERS

PACKAGE = Path(agent_rollouts.__file__).parent
MODULES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

# Made by the assembler for every format alike.
DERIVED = {"message_count", "tool_call_count", "final_assistant_message", "skipped"}

# Errors of other kinds, and who takes them.
INTERNAL = {
    ("__init__", "AttributeError"): "what Python expects of a module without such a name",
    ("cli", "ClickException"): "click shows it",
    ("cli", "UsageError"): "click shows it",
    ("features", "ValueError"): "check_message is held against what we write ourselves",
    ("jsontext", "ValueError"): "who parses JSON text takes it",
    ("rollout", "ValueError"): "the builder and the command line have checked these options before",
    ("transcript", "OverflowError"): "the builder reports it as a bad file",
    ("source", "EOFError"): "Source.lines takes it, as it does that of gzip",
}


def test_public_names() -> None:
    assert agent_rollouts.__all__ == [
        "FEATURES",
        "AgentRolloutsError",
        "BadFileError",
        "FormatError",
        "SourceError",
        "__version__",
        "distill",
        "load_rollouts",
        "publish",
        "revoke",
        "to_chat",
    ]
    assert all(hasattr(agent_rollouts, name) for name in agent_rollouts.__all__)


def test_types_are_shipped() -> None:
    assert resources.files("agent_rollouts").joinpath("py.typed").is_file()


def test_all_errors_have_one_base() -> None:
    found = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert {"AgentRolloutsError", "BadFileError", "FormatError", "SourceError"} <= set(found)
    assert all(issubclass(kind, errors.AgentRolloutsError) for kind in found.values())
    assert all(name in str(errors.__doc__) for name in found), "the tree in the docstring shows every one"


@pytest.mark.parametrize("module", MODULES)
def test_errors_raised_on_purpose_are_ours(module: str) -> None:
    own = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            name = ast.unparse(node.exc.func).rpartition(".")[2]
            assert name in own or (module, name) in INTERNAL, f"{module}.py:{node.lineno} raises {name}"


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_says_what_it_is_for(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{module}.py"
    assert [name for name, node in _public(tree) if not ast.get_docstring(node)] == []


def _public(tree: ast.Module) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef]]:
    """Classes, functions and the methods of classes, without stubs (`...`), overrides of `datasets` and magic."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_") and not _is_stub(inner):
                    yield f"{node.name}.{inner.name}", inner


def _is_stub(node: ast.FunctionDef) -> bool:
    return ast.unparse(node.body[-1]) == "..."


# -- builder_configs -----------------------------------------------------------------------------


def test_every_format_has_its_decoder_and_its_description() -> None:
    assert list(formats()) == sorted(DECODERS)


@pytest.mark.parametrize("config", formats().values(), ids=lambda config: config.name)
def test_field_table_names_the_columns(config: FormatConfig) -> None:
    assert list(config.fields) == [column for column in FEATURES if column not in DERIVED]
    assert all(isinstance(text, str) and text for text in config.fields.values())


@pytest.mark.parametrize("config", formats().values(), ids=lambda config: config.name)
def test_description_is_complete(config: FormatConfig) -> None:
    assert config.title
    assert config.recognised_by
    assert config.homepage.startswith("https://")
    assert config.patterns
    assert all(root.startswith("~/") for root in config.roots)


def test_every_column_is_documented() -> None:
    assert list(COLUMNS) == list(FEATURES)
    assert set(FEATURES) > DERIVED
