"""SFT: the tokens that are scored, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest

from stepagent import Message
from stepagent.config.settings import LoraSettings, TrainSettings
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.sft import SftRow, encode, sft
from stepagent.training.trainer import Monitor


class QuietMonitor(Monitor, Protocol):
    """The fixture `quiet`."""

    warnings: list[str]


def test_sft_scores_the_response_only(random_model: Path) -> None:
    tokenizer = ChatTokenizer(random_model)
    target = encode(tokenizer, SftRow((Message("user", "1+1"),), "=2"))
    assert tokenizer.text(target.ids) == "<|user|>1+1<|assistant|>=2<|end|>"
    assert tokenizer.text(target.ids[target.start :]) == "=2<|end|>"


@pytest.mark.parametrize(("lora", "rate"), [(LoraSettings(rank=8), 1e-2), (None, 5e-3)])
def test_sft_learns_its_rows(
    quiet: QuietMonitor, base_model: Path, tmp_path: Path, lora: LoraSettings | None, rate: float
) -> None:
    rows = [SftRow((Message("user", f"{a}+{b}"),), f"={a + b}") for a in range(4) for b in range(4)]
    settings = TrainSettings(learning_rate=rate, epochs=12, batch_size=8, lora=lora)
    report = sft(base_model, rows, tmp_path / "out", settings=settings, seed=0, monitor=quiet)
    assert report["loss_last"] < 0.5 * report["loss_first"]
    assert report["parity"] < 1e-3
    assert quiet.warnings == []
