"""Compare packs of whole trees with passes over single targets, on models with recurrent layers: pairs per second.

    python benchmarks/hybrid_trees.py --families qwen3_next qwen3_5_text --levels 8 --step-tokens 40 --json hybrids.json

A tree is a question, then levels of a best and a worst step; a pair's context grows by the best step. Each family is a
tiny random model (tiny_families.py), in float32 on the CPU, whose layers run Transformers' own PyTorch code: with the
kernels of a GPU the scan is a smaller part. A pass is forward and backward over all pairs of a tree; the ways are
interleaved, and figures are medians over --repeats.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time

import torch
from _bench import make_parser, write_figures
from optimize_vs_trl import make_trees
from tiny_families import tiny_model

from stepagent.training.packing import Target, Unit
from stepagent.training.probing import pick_scoring
from stepagent.training.scoring import Scoring, plain_scoring

BUDGET = 4096


def tree_units(options: argparse.Namespace) -> list[Unit]:
    """Return the pairs of one tree."""
    (tree,) = make_trees(argparse.Namespace(**{**vars(options), "steps": options.levels, "trees": 1}))
    return [
        (Target((*context, *best), len(context)), Target((*context, *worst), len(context)))
        for context, best, worst in tree
    ]


def seconds(model: torch.nn.Module, units: list[Unit], scoring: Scoring) -> float:
    """Return the seconds of a forward and backward pass over the pairs."""
    start = time.perf_counter()
    for pack in scoring.packs(enumerate(units)):
        torch.autograd.backward(scoring.score(model, pack).sum())
    spent = time.perf_counter() - start
    model.zero_grad()
    return spent


def compare(family: str, options: argparse.Namespace) -> dict[str, object]:
    """Return the figures of a family."""
    sizes = {"hidden_size": options.hidden, "intermediate_size": 3 * options.hidden, "max_position_embeddings": 1 << 14}
    model = tiny_model(family, options.seed, **sizes)
    units = tree_units(options)
    ways = {"shared": pick_scoring(model, units, BUDGET), "plain": plain_scoring("")}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + options.repeats):
        for name, scoring in ways.items():
            spent[name].append(seconds(model, units, scoring))
    pairs = {name: len(units) / statistics.median(times[1:]) for name, times in spent.items()}  # the first warms up
    return {
        "way": ways["shared"].way,
        "pairs_per_second": pairs["shared"],
        "plain_pairs_per_second": pairs["plain"],
        "ratio": pairs["shared"] / pairs["plain"],
        "gap": ways["shared"].gap,
        "gradient_gap": ways["shared"].gradient_gap,
    }


def main() -> None:
    """Print the families' figures."""
    parser = make_parser(__doc__, levels=8, step_tokens=40, prompt_tokens=100, hidden=256, vocabulary=61, repeats=5)
    parser.add_argument("--families", nargs="+", default=["qwen3_next", "qwen3_5_text"])
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    figures = {family: compare(family, options) for family in options.families}
    print(f"{'family':20}{'pairs/s':>9}{'plain':>9}{'ratio':>7}   way")
    for family, row in figures.items():
        print(
            f"{family:20}{row['pairs_per_second']:9.2f}{row['plain_pairs_per_second']:9.2f}{row['ratio']:7.2f}   "
            f"{row['way']}"
        )
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
