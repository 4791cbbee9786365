"""What the card on the Hub tells to run is run as it stands, with a small model in the place of the one it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.growing import distill
from tests.hub_server import HubServer
from tests.published import ID

pytest.importorskip("trl")
pytest.importorskip("torch")

from tests.test_training import small_model, small_tokenizer  # part of the extra

pytestmark = pytest.mark.filterwarnings(
    # trl 1.16 sets the old name's default, which transformers 5.23 calls deprecated.
    "ignore:`gradient_checkpointing` is deprecated:FutureWarning",
)
SMALL = (
    'max_length=2048, max_steps=1, use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True'
)


def test_snippets_train(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    tokenizer = small_tokenizer(["Which tulips open in spring?", "All of them."])
    tokenizer.save_pretrained(tmp_path / "model")
    small_model(len(tokenizer)).save_pretrained(tmp_path / "model")
    distill("--demo", "--shape", "messages", "--shape", "tokenized", "--tokenizer", tmp_path / "model")
    text = hub.files(ID)["README.md"].decode()
    load, messages, tokenized = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert f'load_dataset("{ID}", "messages")' in load
    for code in (messages, tokenized):
        code = re.sub(r'SFTTrainer\("[^"]*"', f"SFTTrainer({str(tmp_path / 'model')!r}", code)
        code = code.replace('"out", max_length=32768', f"{str(tmp_path / 'out')!r}, {SMALL}")
        found: dict[str, object] = {}
        exec(code, found)
        assert found["trainer"].state.global_step == 1
