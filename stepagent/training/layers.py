"""An adapter, the layers that it changes, and the merge of one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from stepagent.errors import ParityError
from stepagent.training.adapters import adapt

_CHUNK = 1 << 22  # weights that are compared at a time, in double precision


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter: PEFT's config of it, and its weights by their names in a PeftModel."""

    config: Any
    weights: Mapping[str, torch.Tensor]

    def on(self, model: Any) -> Any:
        """Return the model, which may be empty, with this adapter, in float32. Raises ParityError for a weight that has
        no place in the model, or a place without a weight."""
        adapted = adapt(model, deepcopy(self.config), low_cpu_mem_usage=True)
        weights = {name: weight.float() for name, weight in self.weights.items()}
        outcome = adapted.load_state_dict(weights, strict=False, assign=True)
        if outcome.unexpected_keys:
            raise ParityError(f"the adapter's {outcome.unexpected_keys[0]} has no place in the model read anew")
        places = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
        if absent := sorted(places - weights.keys()):
            raise ParityError(f"the adapter has no {absent[0]}, for which the model read anew has a place")
        return adapted


def adapted_layers(model: Any) -> list[Any]:
    """Return the layers of a PeftModel that an adapter changes."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]


@torch.no_grad()
def merge_layer(layer: Any, dtype: torch.dtype) -> tuple[float, float]:
    """Merge a layer of PEFT into its base layer, whose weight is float32. Returns what `surviving` does."""
    base_layer, name = layer.get_base_layer(), parameter_name(layer)
    base_weight = getattr(base_layer, name).clone()
    layer.merge()
    return surviving(base_weight, getattr(base_layer, name), dtype)


def parameter_name(layer: Any) -> str:
    """Return the name of the tensor that a layer of PEFT changes: experts and routers have others than `weight`."""
    return str(getattr(layer, "parameter_name", "weight"))


def surviving(base: torch.Tensor, merged: torch.Tensor, dtype: torch.dtype) -> tuple[float, float]:
    """Return (rounded update . update, |update|^2) of the update base -> merged, where the rounded update is
    the difference of both weights after rounding to `dtype`. Their quotient is the share that survives."""
    dot = square = 0.0
    for before, after in zip(*(torch.split(weight.flatten(), _CHUNK) for weight in (base, merged)), strict=True):
        update = (after - before).double()
        rounded_update = after.to(dtype).double() - before.to(dtype).double()
        dot, square = dot + (update * rounded_update).sum().item(), square + update.square().sum().item()
    return dot, square


def surviving_share(layers: Sequence[tuple[float, float]]) -> float:
    """Return the share of an adapter's update that survives a precision, from the `surviving` of its layers: the
    rounded update's projection on the exact one, over the exact one's squared length. 1 means all of it, 0 none of it,
    nan that there is no update."""
    total = sum(square for _, square in layers)
    return sum(dot for dot, _ in layers) / total if total else float("nan")
