"""Packed log-probabilities, losses and gradients equal those of one sequence at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stepagent.models.loading import load_model
from stepagent.training.packing import Target, Unit, make_packs
from stepagent.training.scoring import packed_logprobs

Units = Callable[..., list[Unit]]

CPU = torch.device("cpu")


def plain_logprob(model: object, target: Target) -> torch.Tensor:
    logprobs = model(input_ids=torch.tensor([target.ids])).logits[0].log_softmax(-1)
    return sum(logprobs[i - 1, target.ids[i]] for i in range(target.start, len(target.ids)))


def test_a_small_forest_as_literal_tensors() -> None:
    """Two pairs: prompt 5 6, steps 7 8 | 7 9; and prompt 5, steps 6 | 4 4."""
    units = [(Target((5, 6, 7, 8), 2), Target((5, 6, 7, 9), 2)), (Target((5, 6), 1), Target((5, 4, 4), 1))]
    (pack,) = make_packs(enumerate(units), token_budget=100)
    assert pack.end.tolist() == [4, 3, 3, 4]
    assert pack.input_ids.tolist() == [5, 6, 7, 4]
    assert pack.position_ids.tolist() == [0, 1, 2, 1]
    assert pack.mask.long().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]
    assert list(zip(pack.source.tolist(), pack.token.tolist(), strict=True)) == [
        (1, 7),
        (2, 8),
        (2, 9),
        (0, 6),
        (0, 4),
        (3, 4),
    ]
    assert pack.member_edge.tolist() == [0, 1, 0, 2, 3, 4, 5]
    assert pack.member_target.tolist() == [0, 0, 1, 1, 2, 3, 3]
    assert pack.lengths().tolist() == [2, 2, 1, 2]
    assert pack.units == (0, 1)


@pytest.mark.parametrize("budget", [30, 80, 1000])
def test_packed_log_probs_and_gradients_equal_plain_ones(random_units: Units, random_model: Path, budget: int) -> None:
    model = load_model(random_model, torch.float64, CPU).train()
    units = random_units(budget, 12)
    weights = torch.randn(len(units) * 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    packs = list(make_packs(enumerate(units), budget))
    packed = torch.cat([packed_logprobs(model, pack) for pack in packs])
    (packed * weights).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    plain = torch.stack([plain_logprob(model, target) for unit in units for target in unit])
    (plain * weights).sum().backward()
    assert torch.allclose(packed, plain, rtol=0, atol=1e-5)  # the model's norms round to float32
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        assert (gradient - parameter.grad).norm() <= 1e-5 * parameter.grad.norm() + 1e-9


def test_packs_hold_every_unit_once_within_the_budget(random_units: Units) -> None:
    units = random_units(1, 40)
    packs = list(make_packs(enumerate(units), 60))
    assert [i for pack in packs for i in pack.units] == list(range(40))
    assert all(len(pack.input_ids) <= 60 for pack in packs)
    assert len(list(make_packs(enumerate(units), 10_000))) == 1


def test_a_shared_prefix_is_held_once() -> None:
    prefix = tuple(range(20))
    units = [(Target((*prefix, 21, i), 20), Target((*prefix, 22, i), 20)) for i in range(5)]
    (pack,) = make_packs(enumerate(units), 1000)
    assert len(pack.input_ids) == 20 + 2


def test_a_spent_budget_is_cut_where_the_least_prefix_is_repeated() -> None:
    """Two tries of 16 tokens (8 in common, then four leaves of two), budget 28: the second trie is not
    torn although its first unit would fit."""

    def trie(first: int) -> list[Unit]:
        prefix = tuple(range(first, first + 8))
        return [
            (Target((*prefix, leaf, leaf, 0), 8), Target((*prefix, leaf + 1, leaf, 0), 8))
            for leaf in (first + 20, first + 22)
        ]

    packs = list(make_packs(enumerate([*trie(0), *trie(100)]), token_budget=28))
    assert [pack.units for pack in packs] == [(0, 1), (2, 3)]
    assert [len(pack.input_ids) for pack in packs] == [16, 16]


def test_one_trie_beyond_the_budget_is_split_and_its_prefix_repeated() -> None:
    prefix = tuple(range(20))
    units = [(Target((*prefix, 30 + i, 1, 1), 20), Target((*prefix, 60 + i, 1, 1), 20)) for i in range(9)]
    packs = list(make_packs(enumerate(units), 40))
    assert [i for pack in packs for i in pack.units] == list(range(9))
    assert all(len(pack.input_ids) <= 40 and pack.input_ids[:20].tolist() == list(prefix) for pack in packs)


def test_a_padded_pack_scores_the_same(random_units: Units, random_model: Path) -> None:
    model = load_model(random_model, torch.float32, CPU)
    (pack,) = make_packs(enumerate(random_units(2, 6)), 1000)
    padded = pack.padded(128)
    assert len(padded.input_ids) == len(padded.end) == 128
    assert torch.allclose(packed_logprobs(model, padded), packed_logprobs(model, pack), atol=1e-5)
