"""SFT: what is scored, and that it learns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stepagent import Message
from stepagent.config.settings import LoraSettings, TrainSettings
from stepagent.models.tokenizer import load_tokenizer
from stepagent.optimize.sft import SftRow, encode, sft

Progress = Callable[[int, int, dict[str, float]], None]


def test_sft_scores_the_response_only(random_model: Path) -> None:
    tokenizer = load_tokenizer(random_model)
    target = encode(tokenizer, SftRow((Message("user", "1+1"),), "=2"))
    assert tokenizer.decode(target.ids) == "<|user|>1+1<|assistant|>=2<|end|>"
    assert tokenizer.decode(target.ids[target.start :]) == "=2<|end|>"


@pytest.mark.parametrize(("lora", "rate"), [(LoraSettings(rank=8), 1e-2), (None, 5e-3)])
def test_sft_learns_its_rows(
    quiet: Progress, base_model: Path, tmp_path: Path, lora: LoraSettings | None, rate: float
) -> None:
    rows = [SftRow((Message("user", f"{a}+{b}"),), f"={a + b}") for a in range(4) for b in range(4)]
    settings = TrainSettings(learning_rate=rate, epochs=12, batch_size=8, lora=lora)
    report = sft(base_model, rows, tmp_path / "out", settings, 0, quiet, pytest.fail)
    assert report["loss_last"] < 0.5 * report["loss_first"]
    assert report["parity"] < 1e-3
