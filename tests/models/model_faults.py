"""Parts of the tables of faulty model folders: a row, the doors that must refuse it, and small changes to files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stepagent import ModelError
from stepagent.backends.transformers import TransformersBackend
from stepagent.models.loading import load_model
from stepagent.models.tokenizer import ChatTokenizer

CPU = torch.device("cpu")
LFS_POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3087467144\n"
LONGEST = 300

Spoil = Callable[[Path], object]
Tensors = dict[str, torch.Tensor]


def open_to_train(folder: Path) -> None:
    """Load a folder as `init` and `optimize` do."""
    ChatTokenizer(folder)
    load_model(folder, torch.float32, CPU)


def open_to_search(folder: Path) -> None:
    """Load a folder as `search` in process does."""
    TransformersBackend(str(folder))


DOORS: dict[str, Callable[[Path], None]] = {"train": open_to_train, "search": open_to_search}


@dataclass(frozen=True, slots=True)
class Fault:
    """A way to break a good model folder. `remedy` (a regular expression) is in the sentence that refuses it."""

    name: str
    spoil: Spoil
    remedy: str
    doors: tuple[str, ...] = tuple(DOORS)


def cases(rows: Iterable[Fault]) -> list[Any]:
    """Return pytest's parameters (fault, door), one for each door of each row."""
    return [pytest.param(row, door, id=f"{row.name}-{door}") for row in rows for door in row.doors]


def assert_refused(load: Callable[[], object], folder: Path, remedy: str) -> None:
    """Assert that `load` raises a ModelError of one short sentence that names the folder and a remedy."""
    with pytest.raises(ModelError) as refusal:
        load()
    check_sentence(str(refusal.value), folder, remedy)


def check_sentence(sentence: str, folder: Path, remedy: str) -> None:
    """Assert that a sentence is one line, short, and names the folder and a remedy."""
    assert "\n" not in sentence.strip()
    assert str(folder) in sentence
    assert "above" not in sentence
    words = sentence.replace(str(folder), "FOLDER")
    assert len(words) < LONGEST
    assert re.search(remedy, words), words


def edit_json(file: Path, *drop: str, **keys: object) -> None:
    """Set keys of a JSON file, after dropping others."""
    content = json.loads(file.read_text()) if file.is_file() else {}
    content = {key: value for key, value in content.items() if key not in drop}
    file.write_text(json.dumps({**content, **keys}))


def with_config(*drop: str, **keys: object) -> Spoil:
    """Return a fault that sets keys of config.json, after dropping others."""
    return lambda folder: edit_json(folder / "config.json", *drop, **keys)


def with_file(name: str, content: str | bytes) -> Spoil:
    """Return a fault that writes a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def with_tensors(change: Callable[[Tensors], Tensors]) -> Spoil:
    """Return a fault that changes the tensors of the weights."""

    def spoil(folder: Path) -> None:
        tensors = change(load_file(folder / "model.safetensors"))
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return spoil


def without_tensors(part: str) -> Spoil:
    """Return a fault that drops the tensors with `part` in their name."""
    return with_tensors(lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name})


def renamed_tensors(pattern: str, name: str) -> Spoil:
    """Return a fault that writes another name where `pattern` matches a tensor's."""
    return with_tensors(lambda tensors: {re.sub(pattern, name, key): tensor for key, tensor in tensors.items()})


def without_files(*patterns: str) -> Spoil:
    """Return a fault that deletes files."""

    def spoil(folder: Path) -> None:
        for pattern in patterns:
            for file in folder.glob(pattern):
                file.unlink()

    return spoil


def cut(name: str, share: float) -> Spoil:
    """Return a fault that keeps the first share of a file."""

    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return spoil


def all_of(*faults: Spoil) -> Spoil:
    """Return a fault made of several, in their order."""

    def spoil(folder: Path) -> None:
        for fault in faults:
            fault(folder)

    return spoil


def as_torch_file(folder: Path) -> None:
    """Write the weights as pytorch_model.bin in place of model.safetensors."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_shards(folder: Path) -> None:
    """Cut the weights in two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"one.safetensors": names[: len(names) // 2], "two.safetensors": names[len(names) // 2 :]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
    weight_map = {name: file for file, part in parts.items() for name in part}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def copy_of(folder: Path, to: Path, spoil: Spoil) -> Path:
    """Return a copy of a model folder with a fault."""
    shutil.copytree(folder, to)
    spoil(to)
    return to
