"""Merge an adapter into a base that is in memory as a whole, where its tensors cannot be taken one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from stepagent.console import bar
from stepagent.models.loading import load_model, pick_device
from stepagent.models.parity import Outputs, probe_outputs
from stepagent.models.saving import save_model
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.layers import Adapter, adapted_layers, merge_layer, surviving_share


class WholeModel:
    """The model in the folder or hub id `base` with an adapter, in memory. Raises as StreamedModel does."""

    def __init__(self, base: str | Path, adapter: Adapter) -> None:
        self._base = base
        self._adapted = adapter.on(load_model(base, torch.float32, torch.device("cpu")))
        size = sum(parameter.nbytes for parameter in self._adapted.parameters())
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info(pick_device())
            if size * 1.2 < free:
                self._adapted = self._adapted.to(pick_device())

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter as PEFT does."""
        self._adapted.save_pretrained(folder)

    def outputs(self, probes: Sequence[Sequence[int]]) -> list[Outputs]:
        """Return the outputs of the adapted model along the probes (token ids)."""
        return probe_outputs(self._adapted, probes)

    def write(self, folder: Path, dtype: torch.dtype, *, tokenizer: ChatTokenizer) -> float:
        """Write the merged model with everything that its base holds. Returns the share of the update that survives
        `dtype`."""
        layers, shares = adapted_layers(self._adapted), []
        with bar("merge", len(layers)) as progress:
            for layer in layers:
                shares.append(merge_layer(layer, dtype))
                progress.advance()
        save_model(self._adapted.unload(), self._base, folder, tokenizer=tokenizer)
        return surviving_share(shares)
