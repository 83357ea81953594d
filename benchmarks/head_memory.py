"""Memory and time of the LM head: log-probabilities and gradients in chunks, against those from whole logits.

    python benchmarks/head_memory.py --vocabulary 49152 --tokens 4096 --json head_memory.json
    python benchmarks/head_memory.py --model SmolLM2-135M-Instruct --tokens 4096 --lora

Without --model: a Qwen2 of one layer with random weights, so that the head is nearly everything. With it: optimizer
steps of that model on one tree of about --tokens tokens, all weights or (--lora) an adapter of rank 16. Every run is a
process of its own; runs are interleaved; figures are medians. `peak_over_whole_logits` compares the peaks above what
the process held before; with a model, `peak_mib` is that of the whole process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from _bench import make_parser, peak_mib, write_figures
from optimize_vs_trl import make_model
from trie_length import make_pack

from stepagent.config.settings import LoraSettings
from stepagent.models.loading import load_model
from stepagent.training.adapters import add_adapter
from stepagent.training.attention import TRIE, mask_arguments
from stepagent.training.memory import keep_freed_memory
from stepagent.training.mode import learning_mode
from stepagent.training.packing import Pack
from stepagent.training.scoring import packed_token_logprobs


def whole_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Return what `packed_token_logprobs` does, from the logits of all scored rows at once."""
    sources, row = torch.unique(pack.source, return_inverse=True)
    logits = model(
        input_ids=pack.input_ids[None],
        position_ids=pack.position_ids[None],
        use_cache=False,
        logits_to_keep=sources,
        **mask_arguments(model, pack, torch.device("cpu")),
    ).logits[0]
    logprobs: torch.Tensor = logits.float().log_softmax(-1)[row, pack.token][pack.member_edge]
    return logprobs


def work(options: argparse.Namespace) -> None:
    """Measure one way in this process, and print the figures as the last line."""
    keep_freed_memory()  # as the trainer does
    torch.manual_seed(options.seed)
    if options.model:
        model = load_model(options.model, torch.float32, torch.device("cpu"))
        options.vocabulary = model.config.vocab_size
        if options.lora:
            model = add_adapter(model, LoraSettings(rank=16))
    else:
        model = make_model(options)
    model.set_attn_implementation(TRIE)
    learning_mode(model)
    pack = make_pack(options, options.tokens)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    score = packed_token_logprobs if options.worker == "chunks" else whole_logprobs
    seconds, losses, before = [], [], peak_mib()
    for _ in range(options.steps_a_run):
        start = time.perf_counter()
        loss = -score(model, pack).mean()
        torch.autograd.backward(loss)
        if options.model:
            optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
        losses.append(loss.item())
    figures = {"seconds": min(seconds), "extra_mib": peak_mib() - before, "peak_mib": peak_mib(), "loss": losses[-1]}
    print(json.dumps(figures))


def measure(arguments: list[str], repeats: int) -> dict[str, dict[str, float]]:
    """Return the medians of interleaved runs of both ways."""
    runs: dict[str, list[dict[str, float]]] = {"chunks": [], "whole": []}
    for _ in range(repeats):
        for way, figures in runs.items():
            command = [sys.executable, __file__, *arguments, "--worker", way]
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures.append(json.loads(result.stdout.splitlines()[-1]))
            print(way, {name: round(value, 3) for name, value in figures[-1].items()}, flush=True)
    return {way: {key: statistics.median(run[key] for run in of) for key in of[0]} for way, of in runs.items()}


def main() -> None:
    sizes = {"vocabulary": 49152, "tokens": 4096, "hidden": 512, "layers": 1, "step_tokens": 40, "prompt_tokens": 100}
    parser = make_parser(__doc__, **sizes, repeats=3, steps_a_run=2)
    parser.add_argument("--model", type=Path, help="a model folder")
    parser.add_argument("--lora", action="store_true", help="train an adapter of rank 16 instead of all weights")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    arguments = [item for item in sys.argv[1:] if item != "--json" and item != str(options.json)]
    medians = measure(arguments, options.repeats)
    chunks, whole = medians["chunks"], medians["whole"]
    figures = {
        "peak_over_whole_logits": chunks["extra_mib"] / whole["extra_mib"],
        "process_peak_over_whole_logits": chunks["peak_mib"] / whole["peak_mib"],
        "seconds_over_whole_logits": chunks["seconds"] / whole["seconds"],
        "loss_difference": abs(chunks["loss"] - whole["loss"]),
        "medians": medians,
    }
    for name, value in figures.items():
        if isinstance(value, float):
            print(f"{name:32} {value:.3g}")
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
