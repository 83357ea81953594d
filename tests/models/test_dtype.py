"""The precision that is computed in, and what is said of one that this CPU has no instructions for."""

import logging

import pytest
import torch

from stepagent.errors import ModelError
from stepagent.models import loading

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _unmeasured():
    loading._warn_if_slow.cache_clear()
    yield
    loading._warn_if_slow.cache_clear()


def test_a_half_precision_that_slows_this_cpu_down_is_said_once(monkeypatch, caplog):
    seconds = {torch.float32: 0.001, torch.bfloat16: 0.033}
    monkeypatch.setattr(loading, "_product_seconds", seconds.__getitem__)
    for _ in range(2):
        assert loading.pick_dtype("bfloat16", CPU) is torch.bfloat16
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == (
        "dtype bfloat16: on this CPU a product of matrices takes 33 times as long as in float32; set dtype: float32"
    )


def test_a_half_precision_that_this_cpu_is_made_for_needs_no_words(monkeypatch, caplog):
    seconds = {torch.float32: 0.002, torch.bfloat16: 0.001}
    monkeypatch.setattr(loading, "_product_seconds", seconds.__getitem__)
    assert loading.pick_dtype("bfloat16", CPU) is torch.bfloat16
    assert not caplog.records


def test_the_products_are_measured_in_every_precision():
    assert all(0 < loading._product_seconds(dtype) < 5 for dtype in (torch.float32, torch.bfloat16, torch.float16))


def test_auto_is_float32_on_a_cpu_and_an_unknown_name_is_refused():
    assert loading.pick_dtype("auto", CPU) is torch.float32
    assert loading.pick_dtype("auto", torch.device("cuda")) is torch.bfloat16
    with pytest.raises(ModelError, match="unknown dtype 'half-ish'; use auto, float32 or bfloat16"):
        loading.pick_dtype("half-ish", CPU)
