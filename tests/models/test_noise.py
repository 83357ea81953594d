"""By which measure two ways of computing the same are compared."""

from __future__ import annotations

import pytest
import torch

from stepagent.models.noise import distance, tolerance


def test_float32_looks_at_the_worst_token_and_bfloat16_at_all() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    others = torch.tensor([-1.0, -2.0, -3.0, -3.6])
    assert distance(logprobs, others, torch.float32) == pytest.approx(0.4)
    assert distance(logprobs, others, torch.bfloat16) == pytest.approx(0.2)  # sqrt(0.16 / 4)


def test_an_exact_way_may_be_a_few_roundings_off_and_never_another_model() -> None:
    assert tolerance(1e-5, torch.float32) == pytest.approx(8e-5)
    assert tolerance(0.0, torch.float32) == 2e-5
    assert tolerance(1.0, torch.float32) == 1e-3
    # SmolLM2-135M: one rounding is worth 0.07 to 0.10, packing 0.06 to 0.10, wrong positions 1.1, a leaking mask 2.4
    assert 0.10 < tolerance(0.07, torch.bfloat16) == pytest.approx(0.21)
    assert tolerance(1.0, torch.bfloat16) == 0.5


def test_what_is_no_number_is_no_distance() -> None:
    nothing = distance(torch.tensor([float("nan")]), torch.zeros(1), torch.bfloat16)
    assert not nothing <= tolerance(0.0, torch.bfloat16)
