"""The weights of a model that stay in their files, and are read when they are asked for.

A model of 7 billion parameters takes 28 GB in float32. One of its layers takes less than 1 GB.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import cpu_offload, init_empty_weights
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)

from stepagent.console import Bar
from stepagent.models.folders import local_files
from stepagent.models.loading import load_model, silenced
from stepagent.models.saving import tensor_names

_CHUNK = 1 << 26  # bytes of a file that are mapped at a time: mapped pages count as memory of the process
_META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors of the files (`stored`) and the tensors of the model (`names`) that are made of them: one of one, or,
    where the model holds them in another layout, such as all experts of a layer in one tensor, several, which
    `converter` makes. Tensors that the model does not load make none."""

    stored: tuple[str, ...]
    names: tuple[str, ...] = ()
    converter: WeightConverter | None = None


class FileWeights(Mapping[str, torch.Tensor]):
    """The tensors of `model`, which is empty, by its own names: read from the safetensors in `folder` when they are
    asked for, in the model's precision and layout. Requests move `progress`, while there is one."""

    def __init__(self, model: Any, folder: Path) -> None:
        self.progress: Bar | None = None
        self._model = model
        self.stored = tensor_names(folder)
        self._state = model.state_dict()
        self.groups = self._group()
        self._group_of = {name: group for group in self.groups for name in group.names}
        self._twins = _twins(model, self._group_of)

    def __getitem__(self, name: str) -> torch.Tensor:
        if self.progress:
            self.progress.advance(note=name)
        name = name if name in self._group_of else self._twins[name]
        return self.read(self._group_of[name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._group_of)

    def __len__(self) -> int:
        return len(self._group_of)

    def read(self, group: Group) -> dict[str, torch.Tensor]:
        """Return a group's tensors by the model's names."""
        dtype = self._state[group.names[0]].dtype
        return self._convert(group, {name: read_tensor(self.stored[name], name, dtype) for name in group.stored})

    def copies(self, group: Group) -> dict[str, torch.Tensor]:
        """Return a group's tensors by the files' names, in the precision of a written model."""
        return {name: read_tensor(self.stored[name], name, self._precision(group)) for name in group.stored}

    def blanks(self) -> dict[str, torch.Tensor]:
        """Return tensors without data, of the shapes and precisions of a written model, by the files' names, in the
        order of the groups."""
        blanks = {}
        for group in self.groups:
            for name in group.stored:
                shape, precision = _form(self.stored[name], name)
                dtype = self._precision(group) if precision.is_floating_point else precision
                blanks[name] = torch.empty(shape, dtype=dtype or precision, device=_META)
        return blanks

    def reverts(self, name: str) -> bool:
        """Return whether a tensor of the model, once it is changed, can be written as the files hold it."""
        group = self._group_of.get(name)
        if group is None or name in self._twins or self._precision(group) is None:
            return False
        return self.revert(group, {name: self._state[name] for name in group.names}).keys() == set(group.stored)

    def revert(self, group: Group, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a group's tensors, given by the model's names, as the files hold them."""
        if group.converter is None:
            return {group.stored[0]: tensors[group.names[0]]}
        reverted: dict[str, torch.Tensor] = revert_weight_conversion(self._model, dict(tensors))
        return reverted

    def _precision(self, group: Group) -> torch.dtype | None:
        """Return the precision in which a group is written; None is that of the files, for tensors that the model does
        not load, and for a copy of a tied tensor."""
        loaded = bool(group.names) and group.names[0] not in self._twins
        return self._state[group.names[0]].dtype if loaded else None

    def _convert(self, group: Group, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return tensors of the files as the model holds them, as Transformers' loader does."""
        if group.converter is None:
            return {group.names[0]: tensors[group.stored[0]]}
        converter = deepcopy(group.converter)
        renamings, converters = self._transforms()
        for name in group.stored:
            _, pattern = rename_source_key(name, renamings, converters, self._model.base_model_prefix, self._state)
            converter.add_tensor(group.names[0], name, pattern, tensors[name])
        values = converter.convert(group.names[0], model=self._model, config=self._model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in values.items()}

    def _transforms(self) -> tuple[list[WeightRenaming], list[WeightConverter]]:
        conversions = getattr(self._model, "_weight_conversions", None) or []
        renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
        return renamings, [entry for entry in conversions if isinstance(entry, WeightConverter)]

    def _group(self) -> list[Group]:
        """Return the groups of all tensors that the model has, as Transformers' loader forms them."""
        renamings, converters = self._transforms()
        prefix = self._model.base_model_prefix
        by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
        plain: list[Group] = []
        stored: dict[str, list[str]] = {}
        converter_of: dict[str, WeightConverter] = {}
        for name in sorted(self.stored, key=dot_natural_key):
            target, pattern = rename_source_key(name, renamings, converters, prefix, self._state)
            if target not in self._state and name in self._state:
                target, pattern = rename_source_key(name, [], [], prefix, self._state)
            if target not in self._state:
                plain.append(Group((name,)))
            elif pattern is None:
                plain.append(Group((name,), (target,)))
            else:
                stored.setdefault(target, []).append(name)
                converter_of[target] = by_pattern[pattern]
        assembled = [self._converted(target, tuple(names), converter_of[target]) for target, names in stored.items()]
        return sorted([*plain, *assembled], key=lambda group: dot_natural_key(group.stored[0]))

    def _converted(self, target: str, stored: tuple[str, ...], converter: WeightConverter) -> Group:
        """Return the group of tensors that a converter makes, whose names it tells when it is run without data."""
        group = Group(stored, (target,), converter)
        blanks = {name: torch.empty(_form(self.stored[name], name)[0], device=_META) for name in stored}
        names = tuple(self._convert(group, blanks))
        return Group(stored, (target, *(name for name in names if name != target)), converter)


def read_tensor(file: Path, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return a tensor of a safetensors file as memory of its own; one of floats in `dtype`, if that is given."""
    shape, precision = _form(file, name)
    target = torch.empty(shape, dtype=dtype if dtype and precision.is_floating_point else precision)
    for rows, part in _parts(file, name):
        target[rows] = part
    return target


def holds(file: Path, name: str, tensor: torch.Tensor) -> bool:
    """Return whether a safetensors file holds exactly this tensor."""
    if _form(file, name) != (list(tensor.shape), tensor.dtype):
        return False
    return all(torch.equal(_bits(part), _bits(tensor[rows])) for rows, part in _parts(file, name))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _parts(file: Path, name: str) -> Iterator[tuple[Any, torch.Tensor]]:
    """Yield a tensor of a safetensors file in parts, each with its rows. The file is opened again for each, since its
    mapped pages count as memory of the process until it is closed."""
    shape, precision = _form(file, name)
    if not shape or 0 in shape:
        with _interrupts_wait(), safe_open(file, framework="pt") as tensors:
            whole = tensors.get_tensor(name)
        yield ..., whole
        return
    count = max(1, _CHUNK // (math.prod(shape[1:]) * precision.itemsize))
    for start in range(0, shape[0], count):
        rows = slice(start, start + count)
        with _interrupts_wait(), safe_open(file, framework="pt") as tensors:
            part = tensors.get_slice(name)[rows]
        yield rows, part


def _form(file: Path, name: str) -> tuple[list[int], torch.dtype]:
    """Return shape and precision of a tensor of a safetensors file."""
    with _interrupts_wait(), safe_open(file, framework="pt") as tensors:
        part = tensors.get_slice(name)
        shape = part.get_shape()
        return shape, (part[:0] if shape else tensors.get_tensor(name)).dtype


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block: within safetensors it would come out as an error of another kind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
        if pressed:
            signal.raise_signal(signal.SIGINT)


def weight_files(model: str | Path) -> Path | None:
    """Return the local folder of a model's safetensors, from which tensors can be read one by one; else None."""
    folder = local_files(model)
    return folder if folder and any(folder.glob("*.safetensors")) else None


def empty_model(model: str | Path, dtype: torch.dtype) -> Any:
    """Return a causal language model that has every name, shape and precision of `load_model`, and no weights. Buffers
    that no file has are there. Raises the ModelErrors of `load_model`."""
    empty = load_model(model, dtype, _META, device_map={"": _META})
    with silenced(), init_empty_weights(include_buffers=False):
        fresh = AutoModelForCausalLM.from_config(empty.config)
    belonging = empty.state_dict().keys()
    for name, buffer in fresh.named_buffers():
        if name not in belonging:
            owner, _, last = name.rpartition(".")
            setattr(empty.get_submodule(owner), last, buffer)
    return empty.eval()


def run_from(model: Any, weights: Mapping[str, torch.Tensor], layers: Sequence[str] = ()) -> Any:
    """Let `empty_model` compute with `weights`, which are read for each module when it runs and forgotten then; for the
    classes `layers`, and the model's own decoder layers, at once. Returns the model."""
    for name, buffer in model.named_buffers():
        if buffer.is_meta:
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, weights[name])
    whole = [*(getattr(model, "_no_split_modules", None) or ()), *layers]
    return cpu_offload(model, torch.device("cpu"), state_dict=weights, preload_module_classes=whole)


def _twins(model: Any, stored: Collection[str]) -> dict[str, str]:
    """Return the names of tied tensors, but for the first one of each that is `stored`, with that first one."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), []).append(name)
    twins = {}
    for tied in names.values():
        first = next((name for name in tied if name in stored), tied[0])
        twins.update({name: first for name in tied if name != first})
    return twins
