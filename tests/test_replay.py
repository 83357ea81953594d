"""IFT and EFT rows beside preference pairs, and how often SFT sees each set."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_optimize import preference, quiet

from stepagent import ConfigError, Message, ModelError
from stepagent.config.settings import Config, OptimizeSettings
from stepagent.files.jsonl import write_rows
from stepagent.generators.boundaries import BoundaryKind, split
from stepagent.models.loading import load_model
from stepagent.models.tokenizer import load_tokenizer
from stepagent.optimize.dpo import DpoTrainer, optimize
from stepagent.optimize.packing import Target, make_packs
from stepagent.optimize.scoring import plain_logprobs
from stepagent.optimize.sft import SftRow, encode
from stepagent.optimize.trainer import PackedBatches
from stepagent.stages.train import replayer, sft_rows
from stepagent.stages.training_alone_tmp import init_alone

ROW = SftRow((Message("user", "1+2"),), "1+2=3")


def test_the_loss_of_a_pack_with_a_pair_and_a_replayed_row_by_hand() -> None:
    pair = (Target((1, 2, 3), 2), Target((1, 2, 4), 2))
    row = (Target((5, 6, 7, 8), 2),)
    (pack,) = make_packs([(0, pair), (1, row)], 100)
    scores = {pair[0]: -1.0, pair[1]: -3.0, row[0]: -4.0}
    trainer = SimpleNamespace(
        _settings=OptimizeSettings(beta=0.5),
        _smoothing=torch.zeros(1),
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
        pairs, range(20), settings, 0, weigh=lambda pack: sum(u < 20 for u in pack.units), beside=rows
    )
    assert batches.steps == 10
    seen: list[int] = []
    for step in range(10):
        share = batches[step]
        units = [unit for pack in share.packs for unit in pack.units]
        assert sum(unit < 20 for unit in units) == share.mean_over == 4
        assert sum(unit >= 20 for unit in units) in (1, 2)
        seen += units
    assert all(seen.count(unit) == 2 for unit in range(27))


@pytest.mark.slow
def test_what_is_replayed_is_not_forgotten(random_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(random_model)
    write_rows(tmp_path / "p.jsonl", [preference(tokenizer, f"{i}+2=4\n", f"{i}\n") for i in range(10)] * 2)
    settings = OptimizeSettings(learning_rate=1e-2, epochs=4, batch_size=10, lora=None)
    (pack,) = make_packs([(0, (encode(tokenizer, ROW),))], 100)
    left = {}
    for name, weight in (("without", None), ("with", 1.0)):
        replay = (lambda pairs: [ROW] * (pairs // 4)) if weight else None
        report = optimize(
            random_model, tmp_path / "p.jsonl", tmp_path / name, settings, 0, quiet, None, replay, 1.0
        )
        assert report.figures.get("replayed rows") == (5 if weight else None)
        trained = load_model(tmp_path / name, torch.float32, torch.device("cpu"))
        with torch.no_grad():
            left[name] = plain_logprobs(trained, pack).item()
    assert left["with"] > left["without"] + 1


def config(folder: Path, **more: object) -> Config:
    write_rows(folder / "ift.jsonl", [{"question": f"{i}", "solution": "=1"} for i in range(10)])
    row = {"question": "1", "prefix": [], "first": "=1", "second": "=2", "judgement": "[[A]]"}
    write_rows(folder / "eft.jsonl", [row] * 4)
    given = {
        "model": "m",
        "problems": "p.jsonl",
        "judge": {"prompt": "demo_judge"},
        "init": {"ift": folder / "ift.jsonl", "eft": folder / "eft.jsonl"},
    }
    return Config.model_validate({**given, **more})


@pytest.mark.parametrize(
    ("mix", "counts"),
    [({}, (10, 4)), ({"ift": 0.5, "eft": 3}, (5, 12)), ({"ift": 0, "eft": 1.25}, (0, 5))],
)
def test_the_mix_says_how_often_a_set_is_seen(
    tmp_path: Path, mix: dict[str, float], counts: tuple[int, int]
) -> None:
    made = config(tmp_path)
    assert made.init
    init = made.init.model_copy(update={"mix": made.init.mix.model_copy(update=mix)})
    rows = sft_rows(made, init)
    judged = sum(row.response == "[[A]]" for row in rows)
    assert (len(rows) - judged, judged) == counts
    assert sft_rows(made, init) == rows


def test_a_mix_of_nothing_and_a_replay_from_nowhere_are_errors(tmp_path: Path) -> None:
    made = config(tmp_path)
    assert made.init
    nothing = made.init.mix.model_copy(update={"ift": 0.0, "eft": 0.0})
    with pytest.raises(ConfigError, match=r"init\.mix: weighs both sets with 0"):
        sft_rows(made, made.init.model_copy(update={"mix": nothing}))
    with pytest.raises(ConfigError, match="replay: draws from the files that 'init' names"):
        replayer(config(tmp_path, init=None, replay={"eft": 0.1}), "round 1")


def test_so_many_rows_for_each_pair_and_other_ones_each_round(tmp_path: Path) -> None:
    made = config(tmp_path, replay={"ift": 0.1, "eft": 0.5})
    drawn = {name: replayer(made, name) for name in ("round 1", "round 2")}
    first, second = ([row.messages[0].content for row in draw(40)] for draw in drawn.values() if draw)
    assert len(first) == 4 + 4  # the EFT file holds no more
    assert first != second
    assert replayer(config(tmp_path), "round 1") is None


@pytest.mark.slow
def test_init_measures_both_models_and_finishes_what_was_killed(tmp_path: Path) -> None:
    from stepagent.data.ift import Columns, ift_stage
    from stepagent.demo.run import demo_config

    data = tmp_path / "demo" / "data"
    changes = ["init.eft=null", "evaluate.pairs=null", "init.epochs=1"]
    made = demo_config(tmp_path / "demo", changes)
    ift_stage(made, str(data / "solutions.jsonl"), Columns(), False, made.model, data / "ift")
    held_out = data / "held_out.jsonl"
    held_out.write_text("".join(held_out.read_text().splitlines(keepends=True)[:40]))
    assert made.init
    out, folder = tmp_path / "M_1", tmp_path / "M_1-evaluation"
    init_alone(made, made.init, out)
    figures = [json.loads((folder / name / "metrics.json").read_text()) for name in ("M_0", "M_1")]
    assert figures[0]["greedy_accuracy"] < figures[1]["greedy_accuracy"]
    assert figures[1]["valid_format"] > 0.9

    weights = (out / "model.safetensors").stat().st_mtime_ns
    shutil.rmtree(folder / "M_1")
    init_alone(made, made.init, out)
    assert json.loads((folder / "M_1" / "metrics.json").read_text()) == figures[1]
    assert (out / "model.safetensors").stat().st_mtime_ns == weights

    other = made.init.model_copy(update={"learning_rate": 1e-9})
    with pytest.raises(ModelError, match="is there already"):
        init_alone(made.model_copy(update={"init": other}), other, out)
    shutil.rmtree(out)
    init_alone(made.model_copy(update={"init": other}), other, out)
    again = json.loads((folder / "M_1" / "metrics.json").read_text())
    assert again["greedy_accuracy"] == figures[0]["greedy_accuracy"], "measured anew, not read from before"


@pytest.mark.parametrize(
    ("kind", "text", "steps"),
    [
        ("marker", "Step 1: a\nb\nStep 2: c", ["a\nb", "c"]),
        ("marker", "so Step 1: a", None),
        ("marker", "Step 1: a\nStep 3: b", None),
        ("marker", "Step 1: a\nStep 2: ", None),
        ("marker", "a", None),
        ("line", "a\nb\n", ["a", "b"]),
        ("line", "a\n\nb", None),
        ("blank_line", "a\nb\n\nc", ["a\nb", "c"]),
        ("line", "", None),
    ],
)
def test_the_form_of_a_solution(kind: BoundaryKind, text: str, steps: list[str] | None) -> None:
    assert split(kind, text) == steps
