"""A merge tensor by tensor gives the bits of a merge in memory, and everything that its base holds."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_families import tiny_model

from stepagent import ParityError
from stepagent.config.settings import LoraSettings, TrainSettings
from stepagent.demo.make_base import make_tokenizer
from stepagent.models import file_weights, shards
from stepagent.models.file_weights import read_tensor
from stepagent.models.loading import load_model
from stepagent.models.parity import probe_outputs
from stepagent.models.saving import tensor_names
from stepagent.models.streaming import NotStreamable, folder_outputs
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.adapters import load_trainable
from stepagent.training.layers import Adapter
from stepagent.training.merge import gather_weights, write_merged
from stepagent.training.streamed_merge import StreamedModel
from stepagent.training.whole_merge import WholeModel

CPU = torch.device("cpu")
PROBES = [(2, 7, 8, 9), (5, 6, 7, 30, 31, 32, 33, 3, 4)]
FAMILIES = ("llama", "qwen3_moe", "mixtral", "gpt_oss", "gemma3_text", "gpt2", "deepseek_v3", "granitemoehybrid")


@pytest.fixture
def base_of(tmp_path: Path) -> Callable[[str], Path]:
    """Maker of a tiny model's folder: in bfloat16, in several files, with a tensor that only other readers load."""

    def make(family: str) -> Path:
        folder = tmp_path / "base"
        tiny_model(family).to(torch.bfloat16).save_pretrained(folder, max_shard_size="50KB")
        save_file({"mtp.weight": torch.ones(2, dtype=torch.bfloat16)}, folder / "extra.safetensors", {"format": "pt"})
        make_tokenizer().save_pretrained(folder)
        (folder / "LICENSE").write_text("ours")
        return folder

    return make


def adapter_on(base: Path, **settings: Any) -> Adapter:
    """Return an adapter of random weights."""
    model = load_trainable(base, TrainSettings(lora=LoraSettings(rank=4, **settings)), CPU)
    torch.manual_seed(1)
    weights = {name: torch.randn_like(weight) / 9 for name, weight in gather_weights(model, True).items()}
    return Adapter(model.peft_config["default"], weights)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: read_tensor(file, name) for name, file in tensor_names(folder).items()}


@pytest.mark.parametrize(("family", "variant"), [*((name, "lora") for name in FAMILIES), ("gemma3_text", "dora")])
def test_both_ways_give_the_same_bits(
    base_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, variant: str
) -> None:
    monkeypatch.setattr(shards, "_SHARD", "100KB")
    base = base_of(family)
    adapter, tokenizer = adapter_on(base, variant=variant), ChatTokenizer(base)
    shares = []
    for kind, out in ((StreamedModel, "streamed"), (WholeModel, "whole")):
        shares.append(kind(base, adapter).write(tmp_path / out, torch.bfloat16, tokenizer=tokenizer))
    streamed, whole = tensors_of(tmp_path / "streamed"), tensors_of(tmp_path / "whole")
    assert streamed.keys() == whole.keys() == tensor_names(base).keys()
    for name, tensor in whole.items():
        assert streamed[name].dtype == tensor.dtype, name
        assert torch.equal(streamed[name], tensor), name
    assert shares[0] == pytest.approx(shares[1])
    assert (tmp_path / "streamed" / "config.json").read_bytes() == (tmp_path / "whole" / "config.json").read_bytes()
    assert (tmp_path / "streamed" / "LICENSE").read_text() == "ours"
    changed = [
        name for name, tensor in tensors_of(base).items() if not torch.equal(tensor.float(), whole[name].float())
    ]
    assert len(changed) >= 8


@pytest.mark.parametrize("family", ["llama", "qwen3_moe", "gpt2"])
def test_outputs_from_files_are_those_of_the_model(base_of: Callable[[str], Path], family: str) -> None:
    base = base_of(family)
    adapter = adapter_on(base)
    streamed, whole = (kind(base, adapter).outputs(PROBES) for kind in (StreamedModel, WholeModel))
    assert all(torch.equal(a.logprobs, b.logprobs) for a, b in zip(streamed, whole, strict=True))
    model = load_model(base, torch.float32, CPU)
    for a, probe in zip(folder_outputs(base, PROBES), PROBES, strict=True):
        (single,) = probe_outputs(model, [probe])
        assert torch.allclose(a.logprobs, single.logprobs, atol=1e-5)


def test_a_model_that_needs_all_its_weights_is_merged_in_memory_and_says_so(
    base_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = base_of("llama4_text")
    adapter = adapter_on(base)
    with pytest.raises(NotStreamable):
        StreamedModel(base, adapter).outputs(PROBES)
    out = tmp_path / "out"
    figures = write_merged(base, adapter, out, tokenizer=ChatTokenizer(base), dtype="bfloat16", probes=PROBES)
    assert figures["parity"] < 1e-3
    assert "merged in memory" in " ".join(capsys.readouterr().err.split())


def test_a_torn_file_is_found_when_it_is_read_back(
    base_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_zeros(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str]) -> None:
        save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, file, metadata)

    base = base_of("llama")
    monkeypatch.setattr(shards, "save_file", write_zeros)
    with pytest.raises(ParityError, match="was not written as it is"):
        write_merged(
            base, adapter_on(base), tmp_path / "out", tokenizer=ChatTokenizer(base), dtype="bfloat16", probes=PROBES
        )


def save_adapter(base: Path, folder: Path) -> Path:
    """Write an adapter of random weights as PEFT does."""
    StreamedModel(base, adapter_on(base)).save_adapter(folder)
    return folder


Command = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_the_command_merges_an_adapter_of_others(
    base_of: Callable[[str], Path], tmp_path: Path, stepagent: Command, family: str
) -> None:
    base = base_of(family)
    folder = save_adapter(base, tmp_path / "adapter")
    result = stepagent("merge", folder, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    WholeModel(base, adapter_on(base)).write(tmp_path / "whole", torch.bfloat16, tokenizer=ChatTokenizer(base))
    whole = tensors_of(tmp_path / "whole")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in tensors_of(tmp_path / "out").items())
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()
    again = stepagent("merge", folder, "--out", tmp_path / "out")
    assert (again.returncode, "is there already" in again.stderr) == (2, True)


def forget_a_layer(folder: Path) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(tensors.items())[2:]), folder / "adapter_model.safetensors", {"format": "pt"})


def set_key(**keys: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))

    return change


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (forget_a_layer, "not an adapter of .* is missing.*--base"),
        (set_key(peft_type="VERA", r=4), "merge_and_unload|save it again"),
        (set_key(modules_to_save=["lm_head"]), "LORA with modules_to_save.*merge_and_unload"),
        (set_key(bias="all"), "LORA with bias.*merge_and_unload"),
        (set_key(base_model_name_or_path=""), "--base"),
        (set_key(target_modules=["nothing"]), "not an adapter of .*--base"),
        (set_key(r=2), "has the shape.*--base"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "not an adapter of.*save the adapter again"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json.*save it again"),
        (shutil.rmtree, "no adapter.*give the folder of a LoRA adapter"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_one_sentence(
    random_model: Path, tmp_path: Path, stepagent: Command, spoil: Callable[[Path], object], sentence: str
) -> None:
    folder = save_adapter(random_model, tmp_path / "adapter")
    spoil(folder)
    result = stepagent("merge", folder, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert re.search(sentence, " ".join(result.stderr.split())), result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_benchmark_of_its_memory_runs(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "merge_memory.py"
    figures = tmp_path / "figures.json"
    words = ["--billions", "0.02", "--vocabulary", "2000", "--folder", tmp_path, "--json", figures]
    subprocess.run([sys.executable, script, *map(str, words)], check=True, capture_output=True)
    content = json.loads(figures.read_text())
    assert content["peak_over_folder"] == content["peak_bytes"] / content["folder_bytes"]
    assert content["written_bytes"] > 1.9 * content["folder_bytes"]
    assert 0 < content["peak_bytes"] < 2 * 2**30
    assert 0 < content["probes_peak_bytes"] < 2 * 2**30
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"], "the folders go away"


def test_ctrl_c_waits_for_the_end_of_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within safetensors it would come out as a ValueError, and the run would end with a traceback."""
    save_file({"w": torch.arange(6.0)}, tmp_path / "x.safetensors")
    finished: list[bool] = []

    @contextmanager
    def opened(*arguments: Any, **keywords: Any) -> Iterator[Any]:
        with safe_open(*arguments, **keywords) as file:
            signal.raise_signal(signal.SIGINT)
            yield file
            finished.append(True)

    monkeypatch.setattr(file_weights, "safe_open", opened)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore the signal
    try:
        with pytest.raises(KeyboardInterrupt):
            read_tensor(tmp_path / "x.safetensors", "w")
        assert finished == [True]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
