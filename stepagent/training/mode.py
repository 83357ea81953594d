"""The mode in which a model is trained: nothing is random in it but the adapter's own dropout."""

from __future__ import annotations

from typing import Any

from torch import nn


def learning_mode(model: Any, *, dropout: bool = True) -> None:
    """Put a model into the mode of training: without the dropout and router noise of its config, with that of the
    adapter unless `dropout` is False.

    The reference is scored without them, so a policy that had them would differ from it before the first step; and
    samples are drawn without them.
    """
    model.eval()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            _checkpoint(module)
        # peft keeps the dropouts of an adapted layer, by the adapter's name, in `lora_dropout`
        if dropout and isinstance(dropouts := getattr(module, "lora_dropout", None), nn.ModuleDict):
            dropouts.train()


def _checkpoint(layer: Any) -> None:
    """Let a layer recompute itself in the backward pass, which Transformers does in training mode alone: the layer
    is in it, its parts are not, and its own chances of dropping are 0."""
    layer.training = True
    for name, value in vars(layer).items():
        if "drop" in name and isinstance(value, float):
            setattr(layer, name, 0.0)
