"""Outputs and copies of a model folder, in the memory of a layer instead of the whole model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from stepagent.console import bar
from stepagent.models.file_weights import FileWeights, empty_model, run_from, weight_files
from stepagent.models.loading import load_model
from stepagent.models.parity import Outputs, probe_outputs
from stepagent.models.saving import complete_folder
from stepagent.models.shards import write_shards
from stepagent.models.tokenizer import ChatTokenizer


class NotStreamable(Exception):
    """A model whose tensors cannot be read, or used, one by one; the message is the reason."""


def folder_outputs(model: str | Path, probes: Sequence[Sequence[int]]) -> list[Outputs]:
    """Return the outputs of the model in a folder along every probe (token ids), in float32 on the CPU: layer by layer
    from its files, or, where its code does not allow that, from the whole model. Raises ModelError."""
    try:
        return _streamed_outputs(model, probes)
    except NotStreamable:
        pass
    return probe_outputs(load_model(model, torch.float32, torch.device("cpu")), probes)


def _streamed_outputs(model: str | Path, probes: Sequence[Sequence[int]]) -> list[Outputs]:
    files = weight_files(model)
    if files is None:
        raise NotStreamable("its weights are not in safetensors")
    empty = empty_model(model, torch.float32)
    weights = FileWeights(empty, files)
    with layer_by_layer(weights, model):
        return probe_outputs(run_from(empty, weights), probes)


@contextmanager
def layer_by_layer(weights: FileWeights, model: str | Path) -> Iterator[None]:
    """Context in which an empty model runs from `weights`, which a bar shows. Raises NotStreamable where it computes
    with a weight of another layer, which is not there."""
    try:
        with bar(f"outputs of {model}", len(weights)) as weights.progress:
            yield
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
        raise NotStreamable("its code reads weights of one layer in another") from None
    finally:
        weights.progress = None


def copy_in_precision(folder: Path, copy: Path, dtype: torch.dtype) -> None:
    """Write a copy of the model in a folder, in another precision, tensor by tensor. Raises ModelError."""
    model = empty_model(folder, dtype)
    weights = FileWeights(model, folder)
    tensors = (item for group in weights.groups for item in weights.copies(group).items())
    write_shards(copy, weights.blanks(), tensors)
    complete_folder(folder, copy, dtype, tokenizer=ChatTokenizer(folder))
