"""Peak memory of `stepagent merge` and of a proof's log-probabilities, on a folder of random bfloat16 weights.

    python benchmarks/merge_memory.py --billions 7 --folder /scratch --json merge_memory.json

The folder has the shape of Llama 2 7B: 13.5 GB for --billions 7, and the merged model in float32 takes 27 GB more. Both
go away afterwards. Each command is a process of its own; `peak_bytes` is its largest resident memory, mapped files
included. `peak_over_folder` compares it with the base's weights.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from _bench import make_parser, measure_apart, write_figures
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import LlamaConfig

from stepagent.demo.make_base import make_tokenizer

_LAYERS_A_FILE = 8
_PROBES = """
import sys
from stepagent.serve.proof import make_probes
from stepagent.stages.prove import example_sequences
make_probes(example_sequences(sys.argv[1], 32), sys.argv[1], None)
"""


def make_config(billions: float, vocabulary: int) -> LlamaConfig:
    """Return a config of about this size: as wide and as deep as Llama 2 7B for 7, smaller in the same proportions."""
    width = max(2, round(32 * (billions / 7) ** (1 / 3))) * 128
    inner = width * 43 // 16
    a_layer = 4 * width**2 + 3 * width * inner
    depth = max(2, round((billions * 1e9 - 2 * vocabulary * width) / a_layer))
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=depth,
        num_attention_heads=width // 128,
        max_position_embeddings=4096,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )


def make_base(config: LlamaConfig, folder: Path) -> None:
    """Write a model of random bfloat16 weights, file by file."""
    layers = range(config.num_hidden_layers)
    parts = [list(layers[start : start + _LAYERS_A_FILE]) for start in range(0, len(layers), _LAYERS_A_FILE)]
    weight_map: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        shapes = dict(shape for layer in part for shape in layer_shapes(config, layer))
        if number == len(parts):
            table = (config.vocab_size, config.hidden_size)
            shapes |= {"model.embed_tokens.weight": table, "lm_head.weight": table}
            shapes["model.norm.weight"] = (config.hidden_size,)
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        tensors = {name: torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02) for name, shape in shapes.items()}
        save_file(tensors, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def layer_shapes(config: LlamaConfig, layer: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and shapes of a decoder layer's tensors."""
    width, inner, name = config.hidden_size, config.intermediate_size, f"model.layers.{layer}"
    for part in "qkvo":
        yield f"{name}.self_attn.{part}_proj.weight", (width, width)
    yield f"{name}.mlp.gate_proj.weight", (inner, width)
    yield f"{name}.mlp.up_proj.weight", (inner, width)
    yield f"{name}.mlp.down_proj.weight", (width, inner)
    yield f"{name}.input_layernorm.weight", (width,)
    yield f"{name}.post_attention_layernorm.weight", (width,)


def make_adapter(config: LlamaConfig, base: Path, folder: Path, *, rank: int) -> None:
    """Write an adapter of random weights on all linear layers."""
    tensors, targets = {}, set()
    for layer in range(config.num_hidden_layers):
        for name, shape in layer_shapes(config, layer):
            if len(shape) == 2:
                module = name.removesuffix(".weight")
                targets.add(module.rpartition(".")[2])
                tensors[f"base_model.model.{module}.lora_A.weight"] = 0.01 * torch.randn(rank, shape[1])
                tensors[f"base_model.model.{module}.lora_B.weight"] = 0.01 * torch.randn(shape[0], rank)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=2 * rank,
        target_modules=sorted(targets),
        base_model_name_or_path=str(base),
    ).save_pretrained(str(folder))


def make_folders(billions: str, vocabulary: str, rank: str, seed: str, place: str) -> list[float]:
    """Write the base and its adapter to the folder `place`. Returns nothing: it runs in a process of its own, since a
    process begins with the peak memory of the one that started it."""
    torch.manual_seed(int(seed))
    base = Path(place) / "base"
    base.mkdir()
    config = make_config(float(billions), int(vocabulary))
    make_base(config, base)
    make_adapter(config, base, Path(place) / "adapter", rank=int(rank))
    return []


def usage_of(*command: str | Path) -> dict[str, float]:
    """Return the peak memory (bytes) of a command of Python, its seconds, and those that it computed. Its words go to
    standard error."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, *command], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    seconds = {"seconds": time.monotonic() - start, "cpu_seconds": usage.ru_utime + usage.ru_stime}
    return {"peak_bytes": usage.ru_maxrss * 1024, **seconds}


def weight_bytes(folder: Path) -> int:
    """Return the size of a folder's weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def main() -> None:
    parser = make_parser(__doc__, billions=7.0, vocabulary=32000, rank=16, folder=tempfile.gettempdir())
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="merge_memory_", dir=options.folder))
    try:
        sizes = (options.billions, options.vocabulary, options.rank, options.seed)
        measure_apart("merge_memory", *map(str, sizes), str(place), function="make_folders")
        base, out = place / "base", place / "merged"
        merge = usage_of("-m", "stepagent", "merge", place / "adapter", "--out", out)
        folder_bytes, written_bytes = weight_bytes(base), weight_bytes(out)
        probes = usage_of("-c", _PROBES, base)
    finally:
        shutil.rmtree(place)
    figures = {
        **merge,
        "folder_bytes": folder_bytes,
        "written_bytes": written_bytes,
        "peak_over_folder": merge["peak_bytes"] / folder_bytes,
        **{f"probes_{name}": value for name, value in probes.items()},
    }
    for name, value in figures.items():
        print(f"{name:20} {value:,.3f}" if isinstance(value, float) else f"{name:20} {value:,}")
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
