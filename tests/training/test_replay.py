"""IFT and EFT rows beside preference pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from stepagent import Message, StepPreference
from stepagent.config.settings import OptimizeSettings
from stepagent.files.jsonl import write_rows
from stepagent.models.loading import load_model
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.batches import PackedBatches
from stepagent.training.dpo import DpoTrainer, Replay, optimize_model
from stepagent.training.packing import Target, make_packs
from stepagent.training.scoring import plain_logprobs
from stepagent.training.sft import SftRow, encode
from stepagent.training.trainer import Monitor

Preference = Callable[..., StepPreference]

ROW = SftRow((Message("user", "1+2"),), "1+2=3")


def test_the_loss_of_a_pack_with_a_pair_and_a_replayed_row_by_hand() -> None:
    pair = (Target((1, 2, 3), 2), Target((1, 2, 4), 2))
    row = (Target((5, 6, 7, 8), 2),)
    (pack,) = make_packs([(0, pair), (1, row)], 100)
    scores = {pair[0]: -1.0, pair[1]: -3.0, row[0]: -4.0}
    trainer = SimpleNamespace(
        _settings=OptimizeSettings(beta=0.5),
        _smoothing=torch.zeros(1),
        _weights=torch.ones(1),
        _pairs=1,
        _replay=0.3,
        _reference=torch.tensor([[-2.0, -2.0]]),
        score=lambda _, pack: torch.tensor([scores[target] for target in pack.targets]),
    )
    loss, metrics = DpoTrainer.pack_loss(trainer, None, pack)
    dpo = math.log(1 + math.exp(-0.5 * ((-1 + 2) - (-3 + 2))))  # beta times the gap of the log-ratios, 2
    assert loss.item() == pytest.approx(dpo + 0.3 * 4.0 / 2)  # 4 nats on the row's two tokens
    assert metrics["replay_loss"] == pytest.approx(0.6)
    assert metrics["margin"] == pytest.approx(1.0)


def test_replayed_rows_are_dealt_out_evenly_beside_whole_batches_of_pairs() -> None:
    pairs = [(Target((i, 1), 1), Target((i, 2), 1)) for i in range(20)]
    rows = [(Target((100 + i, 1), 1),) for i in range(7)]
    settings = OptimizeSettings(batch_size=4, epochs=2)
    batches = PackedBatches(
        [*pairs, *rows], range(20), settings, seed=0, weigh=lambda pack: sum(u < 20 for u in pack.units)
    )
    assert batches.steps == 10
    indices: list[int] = []
    for step in range(10):
        share = batches[step]
        units = [unit for pack in share.packs for unit in pack.units]
        assert sum(unit < 20 for unit in units) == share.mean_over == 4
        assert sum(unit >= 20 for unit in units) in (1, 2)
        indices += units
    assert all(indices.count(unit) == 2 for unit in range(27))


@pytest.mark.slow
def test_what_is_replayed_is_not_forgotten(
    preference: Preference, quiet: Monitor, random_model: Path, tmp_path: Path
) -> None:
    tokenizer = ChatTokenizer(random_model)
    write_rows(tmp_path / "p.jsonl", [preference(tokenizer, f"{i}+2=4\n", f"{i}\n") for i in range(10)] * 2)
    settings = OptimizeSettings(learning_rate=1e-2, epochs=4, batch_size=10, lora=None)
    (pack,) = make_packs([(0, (encode(tokenizer, ROW),))], 100)
    logprobs = {}
    for name, weight in (("without", None), ("with", 1.0)):
        replay = Replay(lambda pairs: [ROW] * (pairs // 4), weight) if weight else None
        report = optimize_model(
            random_model,
            tmp_path / "p.jsonl",
            tmp_path / name,
            settings=settings,
            seed=0,
            monitor=quiet,
            replay=replay,
        )
        assert report.get("replayed rows") == (5 if weight else None)
        trained = load_model(tmp_path / name, torch.float32, torch.device("cpu"))
        with torch.no_grad():
            logprobs[name] = plain_logprobs(trained, pack).item()
    assert logprobs["with"] > logprobs["without"] + 1
