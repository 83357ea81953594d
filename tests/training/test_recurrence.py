"""Recurrent layers in packs: each segment of a trie starts from the state in which its parent ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_families import tiny_model

from stepagent.models.noise import precision_of
from stepagent.training.mode import learning_mode
from stepagent.training.packing import Target, Unit, make_packs
from stepagent.training.probing import pick_scoring
from stepagent.training.recurrence import segments
from stepagent.training.scoring import Scoring, full_logprobs, path_logprobs, plain_scoring

Units = Callable[..., list[Unit]]

BY_PATHS = ["jamba"]


def unit(*sequences: tuple[int, ...]) -> Unit:
    return tuple(Target(ids, 1) for ids in sequences)


def pack_of(*units: Unit) -> Any:
    (pack,) = make_packs(enumerate(units), 1000)
    return pack


def test_segments_are_the_unbranched_runs_of_a_forest() -> None:
    """7 8 9, then 1 2 or 3; beside it a root of its own. The last id of a sequence is scored, never read."""
    pack = pack_of(unit((7, 8, 9, 1, 2, 0), (7, 8, 9, 3, 0)), unit((5, 6, 0)))
    assert pack.input_ids.tolist() == [7, 8, 9, 1, 2, 3, 5, 6]
    assert segments(pack.end) == ([0, 3, 5, 6], [-1, 0, 0, -1])


def test_a_branch_may_hang_on_a_leaf_that_is_one_token() -> None:
    pack = pack_of(unit((1, 2, 0), (1, 3, 4, 0)), unit((1, 3, 5, 0)))
    assert pack.input_ids.tolist() == [1, 3, 4, 5, 2]
    assert segments(pack.end) == ([0, 1, 2, 3, 4], [-1, 0, 1, 1, 0])


def test_a_sequence_that_goes_on_from_another_is_the_same_path() -> None:
    pack = pack_of(unit((1, 2, 0)), unit((1, 2, 3, 4, 0), (1, 2, 5, 0)))
    assert [pack.input_ids[path].tolist() for path in pack.paths()] == [[1, 2, 3, 4], [1, 2, 5]]
    assert Scoring(path_logprobs, 1000).tokens(pack) == 7
    assert Scoring(path_logprobs, 1000, "any reason").tokens(pack) == 7
    assert plain_scoring("any reason").tokens(pack) == 9  # 2 + 4 + 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [40, 80, 300])
def test_packs_by_paths_keep_to_their_budget(random_units: Units, seed: int, budget: int) -> None:
    units = sorted(random_units(seed, 30), key=lambda unit: unit[0].ids)
    scoring = Scoring(path_logprobs, budget, "any reason")
    packs = list(scoring.packs(enumerate(units)))
    assert [unit for pack in packs for unit in pack.units] == list(range(30))
    for pack in packs:
        assert scoring.tokens(pack) <= budget or len(pack.units) == 1
    assert len(packs) < 30 or budget == 40


def loss_and_gradient(model: Any, scoring: Scoring, units: list[Unit]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of every target in nats a token, and the gradient of a loss over pairs."""
    learning_mode(model)
    model.zero_grad()
    logprobs = []
    for pack in scoring.packs(enumerate(units)):
        scores = scoring.score(model, pack)
        torch.autograd.backward(torch.nn.functional.softplus(scores.view(-1, 2).diff(dim=1)).sum())
        logprobs.append(scores.detach() / pack.lengths())
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return torch.cat(logprobs), gradient


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["qwen3_next", "qwen3_5_text", "lfm2", "jamba"])
def test_hybrid_models_share_prefixes_and_stay_exact(random_units: Units, family: str) -> None:
    """To 1e-5 nats a token in float32, and gradients to 1e-4 of their norm."""
    model = tiny_model(family)
    units = random_units(3, 10)
    scoring = pick_scoring(model, units, 512)
    assert scoring.way.partition(":")[0] == ("path by path" if family in BY_PATHS else "packed trees")
    others = random_units(4, 10)
    logprobs, gradient = loss_and_gradient(model, scoring, others)
    plain, plain_gradient = loss_and_gradient(model, plain_scoring("", full_logprobs), others)
    assert (logprobs - plain).abs().max() < 1e-5
    assert (gradient - plain_gradient).norm() < 1e-4 * plain_gradient.norm()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["mamba2", "lfm2"])
def test_less_precision_changes_no_way(random_units: Units, family: str) -> None:
    model = tiny_model(family).to(torch.bfloat16)
    assert precision_of(model) == torch.bfloat16
    scoring = pick_scoring(model, random_units(1, 8), 512)
    assert scoring.way.partition(":")[0] == ("path by path" if family in BY_PATHS else "packed trees")


@pytest.mark.filterwarnings("ignore")
def test_layers_that_recompute_themselves_follow_the_trie_again(random_units: Units) -> None:
    model, units = tiny_model("qwen3_next"), random_units(5, 8)
    scoring = pick_scoring(model, units, 512)
    plain, gradient = loss_and_gradient(model, scoring, units)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again, recomputed = loss_and_gradient(model, scoring, units)
    assert torch.allclose(plain, again, atol=1e-6)
    assert torch.allclose(gradient, recomputed, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_state_that_ran_on_would_be_seen(random_units: Units, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the trie's segments, a branch would start from the state of its sibling."""
    monkeypatch.setattr("stepagent.training.attention.trie_arguments", lambda end, device: {})
    scoring = pick_scoring(tiny_model("qwen3_next"), random_units(1, 8), 512)
    assert "off by" in scoring.way
