"""Merge an adapter into its base tensor by tensor, in the memory of a layer and a file instead of the whole model.

The layers are PEFT's, and so is the sum: each is given its base weight, merged, and emptied again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import remove_hook_from_submodules

from stepagent.console import Bar, bar
from stepagent.models.file_weights import FileWeights, Group, empty_model, run_from, weight_files
from stepagent.models.parity import Outputs, probe_outputs
from stepagent.models.saving import complete_folder
from stepagent.models.shards import write_shards
from stepagent.models.streaming import NotStreamable, layer_by_layer
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.layers import Adapter, adapted_layers, merge_layer, parameter_name, surviving_share

_PREFIX = "base_model.model."


class StreamedModel:
    """The model in the folder or hub id `base` with an adapter. Raises NotStreamable, ParityError for weights that have
    no place in the base, and the ModelErrors of a base that cannot be loaded."""

    def __init__(self, base: str | Path, adapter: Adapter) -> None:
        files = weight_files(base)
        if files is None:
            raise NotStreamable("its weights are not in safetensors")
        self._files = files
        core = empty_model(base, torch.float32)
        self._base = FileWeights(core, files)
        names = {id(module): name for name, module in core.named_modules()}
        self._adapted = adapter.on(core)
        # Nested layers of PEFT change several tensors of one module.
        self._layers = {
            f"{names[id(layer.get_base_layer())]}.{parameter_name(layer)}": layer
            for layer in adapted_layers(self._adapted)
        }
        for name in self._layers:
            if not self._base.reverts(name):
                raise NotStreamable(f"{name} has another layout in the files")

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter as PEFT does."""
        self._adapted.save_pretrained(folder)

    def outputs(self, probes: Sequence[Sequence[int]]) -> list[Outputs]:
        """Return the outputs of the adapted model along the probes (token ids)."""
        kinds = sorted({type(layer).__name__ for layer in self._layers.values()})
        run_from(self._adapted, _AdaptedWeights(self._adapted, self._base), layers=kinds)
        try:
            with layer_by_layer(self._base, f"{self._files} with its adapter"):
                return probe_outputs(self._adapted, probes)
        finally:
            remove_hook_from_submodules(self._adapted)

    def write(self, folder: Path, dtype: torch.dtype, *, tokenizer: ChatTokenizer) -> float:
        """Write the merged model with everything that its base holds. Returns the share of the update that survives
        `dtype`."""
        shares: list[tuple[float, float]] = []
        with bar("merge", len(self._base.groups)) as progress:
            write_shards(folder, self._base.blanks(), self._merged_tensors(dtype, shares, progress))
        complete_folder(self._files, folder, torch.float32, tokenizer=tokenizer)
        return surviving_share(shares)

    def _merged_tensors(
        self, dtype: torch.dtype, shares: list[tuple[float, float]], progress: Bar
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield all tensors of the merged model by the files' names."""
        for group in self._base.groups:
            yield from self._merge_group(group, dtype, shares).items()
            progress.advance(note=group.stored[0])

    @torch.no_grad()
    def _merge_group(
        self, group: Group, dtype: torch.dtype, shares: list[tuple[float, float]]
    ) -> dict[str, torch.Tensor]:
        layers = {name: self._layers[name] for name in group.names if name in self._layers}
        if not layers:
            return self._base.copies(group)
        tensors = self._base.read(group)
        for name, layer in layers.items():
            owner, parameter = layer.get_base_layer(), parameter_name(layer)
            blank = getattr(owner, parameter)
            setattr(owner, parameter, torch.nn.Parameter(tensors[name], requires_grad=False))
            shares.append(merge_layer(layer, dtype))
            tensors[name] = getattr(owner, parameter).data
            setattr(owner, parameter, blank)
        return self._base.revert(group, tensors)


class _AdaptedWeights(Mapping[str, torch.Tensor]):
    """The tensors of an adapted model by its names: the adapter's own, those of its base from the files."""

    def __init__(self, adapted: Any, base: FileWeights) -> None:
        self._names = list(adapted.state_dict())
        self._own = {name: tensor for name, tensor in adapted.state_dict().items() if not tensor.is_meta}
        self._base = base

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._own[name] if name in self._own else self._base[_name_in_base(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _name_in_base(name: str) -> str:
    return name.removeprefix(_PREFIX).replace(".base_layer", "")
