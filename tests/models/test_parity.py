"""Do two models give the same outputs?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stepagent import ParityError
from stepagent.models.loading import load_model
from stepagent.models.parity import check_outputs, probe_outputs

CPU = torch.device("cpu")


def test_outputs_that_are_not_numbers_prove_nothing(random_model: Path) -> None:
    model = load_model(random_model, torch.float32, CPU)
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(ParityError, match="not numbers"):
        check_outputs(*[probe_outputs(model, [(2, 7, 8)])] * 2)
