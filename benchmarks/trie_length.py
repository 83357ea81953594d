"""The cost of a token as a trie grows: packed forward and backward at 0.5k, 1k, 2k and 4k tokens.

    python benchmarks/trie_length.py --hidden 896 --layers 4 --json trie_length.json

A trie is one search tree: a question, then levels of a best and a worst step. A longer trie has more levels,
so its tokens see more ancestors: that part of the cost grows with length and is the smaller, the wider
the model (the default width is the smallest Qwen2.5's). Lengths are interleaved; figures are medians, in
microseconds per token, and the ratio of the longest to 1k.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from _bench import make_parser, write_figures
from optimize_vs_trl import make_model, make_trees

from stepagent.training.memory import keep_freed_memory
from stepagent.training.packing import Pack, Target, make_packs
from stepagent.training.probing import pick_scoring
from stepagent.training.scoring import packed_logprobs


def make_pack(options: argparse.Namespace, length: int) -> Pack:
    """Return one trie of about `length` tokens."""
    levels = max(1, round((length - options.prompt_tokens) / (2 * options.step_tokens)))
    settings = argparse.Namespace(**{**vars(options), "steps": levels, "trees": 1})
    (tree,) = make_trees(settings)
    units = [
        (Target((*context, *best), len(context)), Target((*context, *worst), len(context)))
        for context, best, worst in tree
    ]
    (pack,) = make_packs(enumerate(units), token_budget=2 * length + 1000)
    return pack


def time_pass(model: Any, pack: Pack) -> float:
    """Return the seconds of one forward and backward pass."""
    start = time.perf_counter()
    torch.autograd.backward(packed_logprobs(model, pack).sum())
    spent = time.perf_counter() - start
    model.zero_grad()
    return spent


def main() -> None:
    model_sizes = {"hidden": 896, "layers": 4, "vocabulary": 1000}
    parser = make_parser(__doc__, step_tokens=40, prompt_tokens=100, **model_sizes, repeats=5)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    options = parser.parse_args()
    keep_freed_memory()  # as the trainer does
    model = make_model(options)
    packs = {length: make_pack(options, length) for length in options.lengths}
    first = packs[options.lengths[0]]
    scoring = pick_scoring(model, [first.targets[:2]], 1 << 20)
    assert scoring.score is packed_logprobs, scoring.unsuited
    torch.manual_seed(options.seed)
    costs: dict[int, list[float]] = {length: [] for length in packs}
    for repeat in range(options.repeats + 1):
        for length, pack in packs.items():
            cost = time_pass(model, pack) / len(pack.input_ids)
            if repeat:  # the first round warms up
                costs[length].append(cost)
    medians = {length: 1e6 * statistics.median(repeats) for length, repeats in costs.items()}
    for length, cost in medians.items():
        print(f"{len(packs[length].input_ids):6} tokens  {cost:8.1f} us a token", flush=True)
    base = min(medians, key=lambda length: abs(length - 1024))
    ratio = medians[max(medians)] / medians[base]
    print(f"{max(medians)} over {base}: {ratio:.2f}")
    write_figures(options.json, {"ratio_longest_to_1k": ratio, "microseconds_per_token": medians})


if __name__ == "__main__":
    main()
