"""Step-DPO: hand-derived losses, and tiny real models that really train."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file
from tiny_families import tiny_model

from stepagent import ModelError, StepPreference
from stepagent.config.settings import LoraSettings, LossKind, OptimizeSettings, TrainSettings
from stepagent.files.jsonl import write_rows
from stepagent.models.loading import load_model
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.adapters import add_adapter
from stepagent.training.attention import TRIE
from stepagent.training.batches import PackedBatches
from stepagent.training.dpo import optimize_model, reference_logprobs
from stepagent.training.loss import dpo_loss
from stepagent.training.mode import learning_mode
from stepagent.training.packing import Target, make_packs
from stepagent.training.scoring import Scoring, packed_logprobs, plain_logprobs
from stepagent.training.trainer import Monitor

Preference = Callable[..., StepPreference]

CPU = torch.device("cpu")


def test_dpo_loss_by_hand() -> None:
    """Pair 1: pi/ref ratios +1 and -1, beta 0.5: margin 0.5 (1 - -1) = 1, loss = ln(1 + e^-1).
    Pair 2: no change at all: margin 0, loss = ln 2."""
    losses, metrics = dpo_loss(
        torch.tensor([[-2.0, -4.0], [-5.0, -6.0]]), torch.tensor([[-3.0, -3.0], [-5.0, -6.0]]), beta=0.5
    )
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(2)])
    assert metrics["margin"].tolist() == pytest.approx([1.0, 0.0])
    assert metrics["accuracy"].tolist() == [1.0, 0.0]
    assert metrics["kl"].tolist() == pytest.approx([0.0, 0.0])


def test_label_smoothing_and_ipo_by_hand() -> None:
    """beta h = 1, smoothing 0.25: 0.75 ln(1 + e^-1) + 0.25 ln(1 + e). IPO, h = 2, beta 0.5: (2 - 1)^2."""
    policy, reference = torch.tensor([[-2.0, -4.0]]), torch.tensor([[-3.0, -3.0]])
    smoothed, _ = dpo_loss(policy, reference, beta=0.5, smoothing=0.25)
    assert smoothed.item() == pytest.approx(0.75 * math.log(1 + math.exp(-1)) + 0.25 * math.log(1 + math.e))
    assert dpo_loss(policy, reference, beta=0.5, kind="ipo")[0].item() == pytest.approx(1.0)


def test_kto_and_likelihood_by_hand() -> None:
    """Ratios +1 and -1, beta 0.5: each step of the pair loses sigmoid(-0.5). Likelihood leaves no loss of the pair."""
    policy, reference = torch.tensor([[-2.0, -4.0]]), torch.tensor([[-3.0, -3.0]])
    losses, metrics = dpo_loss(policy, reference, beta=0.5, kind="kto")
    assert losses.item() == pytest.approx(2 / (1 + math.exp(0.5)))
    assert metrics["margin"].item() == pytest.approx(1.0)
    assert dpo_loss(policy, reference, beta=0.5, kind="likelihood")[0].tolist() == [0.0]
    with pytest.raises(ValueError, match="loss: kto takes no margin_smoothing"):
        OptimizeSettings(loss="kto", margin_smoothing=True)
    with pytest.raises(ValueError, match="the chosen steps' NLL already; leave nll_alpha out"):
        OptimizeSettings(loss="likelihood", nll_alpha=0.1)


@pytest.mark.parametrize("loss", get_args(LossKind))
def test_every_loss_is_the_same_packed_and_one_by_one(loss: LossKind) -> None:
    """In float64, to 1e-9 a pair, gradients too; in a family whose norms do not round to float32."""
    model = tiny_model("gpt_neox").double()
    learning_mode(model)
    model.set_attn_implementation(TRIE)
    units = [(Target((2, 7, 8, 9, 10 + i), 3), Target((2, 7, 8, 11, 12, 13 - i), 3)) for i in range(3)]
    (pack,) = make_packs(enumerate(units), 100)
    reference = torch.linspace(-9, -3, 6, dtype=torch.float64).view(3, 2)
    results = []
    for score in (packed_logprobs, plain_logprobs):
        model.zero_grad()
        policy, lengths = score(model, pack).view(-1, 2), pack.lengths().view(-1, 2)
        losses = dpo_loss(policy, reference, beta=0.3, kind=loss)[0]
        losses = losses - OptimizeSettings(loss=loss).nll_weight * policy[:, 0] / lengths[:, 0]
        losses.sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((losses.detach(), gradient))
    for packed, plain in zip(*results, strict=True):
        torch.testing.assert_close(packed, plain, rtol=0, atol=1e-9)
    assert results[0][1].abs().max() > 0


def test_likelihood_learns_the_chosen_steps_as_sft_does(
    preference: Preference, quiet: Monitor, random_model: Path, tmp_path: Path
) -> None:
    """The rejected steps do not count: with others in their place the same model comes out."""
    tokenizer = ChatTokenizer(random_model)
    weights = []
    for name, wrong in (("one", "3"), ("two", "7")):
        rows = [preference(tokenizer, f"{i}+1=2\n", f"{i}+1={wrong}\n") for i in range(8)]
        write_rows(tmp_path / f"{name}.jsonl", rows)
        settings = OptimizeSettings(learning_rate=3e-3, loss="likelihood", epochs=4, batch_size=4)
        optimize_model(
            random_model, tmp_path / f"{name}.jsonl", tmp_path / name, settings=settings, seed=0, monitor=quiet
        )
        weights.append(load_model(tmp_path / name, torch.float32, CPU).state_dict())
    start = load_model(random_model, torch.float32, CPU).state_dict()
    assert all(torch.allclose(weight, weights[1][key], atol=1e-6) for key, weight in weights[0].items())
    assert not all(torch.allclose(weight, start[key], atol=1e-4) for key, weight in weights[0].items())


def test_a_fresh_adapter_changes_nothing_and_off_it_is_the_reference(random_model: Path) -> None:
    model = load_model(random_model, torch.float32, CPU)
    units = [(Target((2, 7, 8, 9), 2), Target((2, 7, 10), 2))]
    before = reference_logprobs(model, units, Scoring(packed_logprobs, 100))
    wrapped = add_adapter(model, LoraSettings(rank=4))
    (pack,) = make_packs(enumerate(units), 100)
    assert torch.allclose(packed_logprobs(wrapped, pack), before[0], atol=1e-6)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    assert not torch.allclose(packed_logprobs(wrapped, pack), before[0], atol=1e-2)
    assert torch.allclose(reference_logprobs(wrapped, units, Scoring(packed_logprobs, 100)), before, atol=1e-6)


def test_step_dpo_moves_the_margin_and_only_through_the_adapter(
    preference: Preference, quiet: Monitor, random_model: Path, tmp_path: Path
) -> None:
    tokenizer = ChatTokenizer(random_model)
    rows = [preference(tokenizer, f"{i}+1=2\n", f"{i}+1=3\n") for i in range(8)]
    write_rows(tmp_path / "p.jsonl", rows)
    settings = OptimizeSettings(learning_rate=5e-3, beta=0.5, epochs=10, batch_size=4, serving_dtype="bfloat16")
    report = optimize_model(
        random_model, tmp_path / "p.jsonl", tmp_path / "out", settings=settings, seed=0, monitor=quiet
    )
    assert report["pairs"] == 8
    assert report["steps"] == 20
    assert report["accuracy"] == 1.0
    assert report["margin"] > 0.5
    assert report["parity"] < 1e-3
    before = load_model(random_model, torch.float32, CPU).state_dict()
    after = load_model(tmp_path / "out", torch.float32, CPU).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name and name.endswith("weight") for name in changed)
    assert ChatTokenizer(tmp_path / "out").raw.chat_template == tokenizer.raw.chat_template
    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob("*.stale")), "only work of another fingerprint is moved aside"
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()
    assert 0.5 < report["surviving_bfloat16"] <= 1.1
    serving = load_model(tmp_path / "out" / "serving", torch.bfloat16, CPU)
    assert torch.equal(serving.lm_head.weight, after["lm_head.weight"].bfloat16())
    assert ChatTokenizer(tmp_path / "out" / "serving").raw.chat_template == tokenizer.raw.chat_template
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(random_model) in card
    assert "preference pairs: 8 of round 1" in card
    assert "beta: 0.5" in card
    with pytest.raises(ModelError, match="out: is there already"):
        optimize_model(random_model, tmp_path / "p.jsonl", tmp_path / "out", settings=settings, seed=0, monitor=quiet)


def test_several_losers_and_branches_share_one_pack(random_model: Path) -> None:
    """Three losers against one best step, and a pair on each of two branches: nine rows, one prompt."""
    model = load_model(random_model, torch.float32, CPU)
    best = (2, 7, 8, 9)
    units = [(Target(best, 2), Target((2, 7, loser, 9), 2)) for loser in (10, 11, 12)]
    units += [
        (Target((*trunk, 13, 5), len(trunk)), Target((*trunk, 14, 5), len(trunk))) for trunk in (best, (2, 7, 10, 9))
    ]
    (pack,) = make_packs(enumerate(units), 100)
    assert len(pack.input_ids) == 12
    assert torch.allclose(packed_logprobs(model, pack), plain_logprobs(model, pack), atol=1e-5)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_checkpoint(
    preference: Preference, quiet: Monitor, random_model: Path, tmp_path: Path
) -> None:
    tokenizer = ChatTokenizer(random_model)
    write_rows(tmp_path / "p.jsonl", [preference(tokenizer, f"{i}+1=2\n", f"{i}+1=3\n") for i in range(8)])
    settings = OptimizeSettings(learning_rate=1e30, epochs=4, batch_size=4, save_steps=1, lora=None)
    with pytest.raises(ModelError, match=r"(loss is nan|not a number) at step \d; lower learning_rate"):
        optimize_model(random_model, tmp_path / "p.jsonl", tmp_path / "out", settings=settings, seed=0, monitor=quiet)
    checkpoints = list(tmp_path.glob("out.work/checkpoint-*/model.safetensors"))
    assert checkpoints
    for weights in checkpoints:
        assert all(weight.isfinite().all() for weight in load_file(weights).values())
    assert not (tmp_path / "out").exists()


def test_metrics_reach_a_tracker_that_is_there(
    preference: Preference, quiet: Monitor, random_model: Path, tmp_path: Path
) -> None:
    tokenizer = ChatTokenizer(random_model)
    write_rows(tmp_path / "p.jsonl", [preference(tokenizer, f"{i}+1=2\n", f"{i}+1=3\n") for i in range(8)])
    settings = OptimizeSettings(batch_size=4, report_to="tensorboard")
    optimize_model(random_model, tmp_path / "p.jsonl", tmp_path / "out", settings=settings, seed=0, monitor=quiet)
    (events,) = (tmp_path / "out.tensorboard").glob("events.*")
    for name in (b"train/margin", b"train/kl", b"train/chosen_reward", b"train/tokens_per_second"):
        assert name in events.read_bytes()
    unknown = settings.model_copy(update={"report_to": "wanbd"})
    with pytest.raises(ModelError, match=r"report_to: 'wanbd' is not installed; here are: .*tensorboard"):
        optimize_model(random_model, tmp_path / "p.jsonl", tmp_path / "out2", settings=unknown, seed=0, monitor=quiet)


def test_the_loss_is_a_mean_over_pairs_whatever_the_packing(
    preference: Preference, quiet: Monitor, random_model: Path, tmp_path: Path
) -> None:
    tokenizer = ChatTokenizer(random_model)
    write_rows(
        tmp_path / "p.jsonl",
        [preference(tokenizer, f"{i}+{j}=2\n", f"{i}+{j}=3\n") for i in range(4) for j in range(3)],
    )
    weights = []
    for budget in (8, 40, 2048):
        out = tmp_path / f"out{budget}"
        settings = OptimizeSettings(learning_rate=1e-2, beta=0.5, epochs=2, batch_size=6, token_budget=budget)
        optimize_model(random_model, tmp_path / "p.jsonl", out, settings=settings, seed=0, monitor=quiet)
        weights.append(load_model(out, torch.float32, CPU).state_dict())
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-4)
        assert torch.allclose(weight, weights[2][name], atol=1e-4)


def test_pairs_of_half_the_weight_count_half(
    preference: Preference, quiet: Monitor, random_model: Path, tmp_path: Path
) -> None:
    """Each pair twice with weight 1/2 in batches of twice as many is each pair once; and weights change the model."""
    tokenizer = ChatTokenizer(random_model)
    rows = [preference(tokenizer, f"{i}+1=2\n", f"{i}+1=3\n", problem_id=f"p{i}") for i in range(4)]
    data = {
        "once": (rows, 4),
        "halves": ([replace(row, weight=0.5) for row in rows for _ in range(2)], 8),
        "first": ([replace(row, weight=1.0 if row is rows[0] else 0.01) for row in rows], 4),
    }
    weights = {}
    for name, (part, size) in data.items():
        write_rows(tmp_path / f"{name}.jsonl", part)
        settings = OptimizeSettings(learning_rate=1e-2, beta=0.5, epochs=2, batch_size=size)
        out = tmp_path / name
        optimize_model(random_model, tmp_path / f"{name}.jsonl", out, settings=settings, seed=0, monitor=quiet)
        weights[name] = load_model(out, torch.float32, CPU).state_dict()
    for name, weight in weights["once"].items():
        assert torch.allclose(weight, weights["halves"][name], atol=1e-4)
    assert not all(torch.allclose(w, weights["first"][name], atol=1e-3) for name, w in weights["once"].items())


def test_batches_mix_trees_keep_siblings_together_and_lose_nothing() -> None:
    units = [(Target((tree, 1, pair), 1),) for tree in range(10) for pair in range(4)]
    settings = TrainSettings(batch_size=16, epochs=2, token_budget=100)
    groups = [unit[0].ids[0] for unit in units]
    batches = PackedBatches(units, groups, settings, seed=0, weigh=lambda pack: len(pack.units))
    order = [[i for pack in batches[batch].packs for i in pack.units] for batch in range(len(batches))]
    indices = [i for batch in order for i in batch]
    assert len(batches) == 5
    assert sorted(indices) == sorted([*range(40), *range(40)])
    assert len({i // 4 for i in order[0]}) == 4
    assert order[0] != order[3]
