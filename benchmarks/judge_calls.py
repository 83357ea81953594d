"""How few comparisons find the best and the worst of w candidates?

    python benchmarks/judge_calls.py --widths 4,6,8,16 --json judge_calls.json

Simulated judges over `--levels` levels of random qualities. `consistent`: always right. `noisy`: with chance
`--bias` it answers for the first position whatever stands there, else it errs with chance `--noise`; drawn once
per pair and order, so asking again teaches nothing. Ways: adaptive; all_pairs, every pair in both orders (the
paper's); one_order, every pair in one random order. A pair is wrong if its worst step is truly better than its
best. Keys per width: calls over the w(w-1) of all pairs, share of levels with the truly best and worst step,
wrong-pair rate, pair yield.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from itertools import combinations

from _bench import make_parser, write_figures

from stepagent.judges.comparisons import CONFIDENCE, adaptive, all_pairs
from stepagent.judges.strengths import bradley_terry
from stepagent.seeds import derive_seed
from stepagent.types import Usage, Verdict, Vote


@dataclass(frozen=True)
class Simulated:
    """Judge of candidates with these true qualities."""

    quality: tuple[float, ...]
    noise: float
    bias: float
    seed: int

    async def compare(self, first: int, second: int) -> tuple[Vote, Usage]:
        """Return the vote on two candidates, by index, and its cost."""
        rng = random.Random(derive_seed(self.seed, first, second))
        right = self.quality[first] > self.quality[second]
        says_first = rng.random() < self.bias or (right != (rng.random() < self.noise))
        return Vote(first, second, "first" if says_first else "second"), Usage(1, 0, 0)


async def one_order(count: int, judge: Simulated, seed: int) -> Verdict:
    """Compare every pair once, in a random order; best and worst are those of Bradley-Terry."""
    rng = random.Random(seed)
    orders = [rng.sample(pair, 2) for pair in combinations(range(count), 2)]
    votes = [(await judge.compare(first, second))[0] for first, second in orders]
    strengths = bradley_terry(count, votes)
    best, worst = strengths.index(max(strengths)), strengths.index(min(strengths))
    return Verdict(
        "ok", tuple(strengths), best, worst=worst, margin=1.0, votes=tuple(votes), usage=Usage(len(votes), 0, 0)
    )


async def judge_level(way: str, judge: Simulated, seed: int, *, confidence: float) -> Verdict:
    """Return the verdict on all candidates of the judge."""
    count = len(judge.quality)
    if way == "adaptive":
        return await adaptive(count, judge.compare, seed, confidence=confidence)
    if way == "all_pairs":
        return await all_pairs(count, judge.compare, seed)
    return await one_order(count, judge, seed)


async def measure(
    way: str, width: int, noise: float, *, bias: float, levels: int, seed: int, confidence: float = CONFIDENCE
) -> dict[str, float]:
    """Return one row of figures."""
    calls = right = wrong = pairs = 0
    for level in range(levels):
        rng = random.Random(derive_seed(seed, width, level))
        quality = tuple(rng.gauss(0, 1) for _ in range(width))
        judge = Simulated(quality, noise, bias, rng.getrandbits(60))
        verdict = await judge_level(way, judge, level, confidence=confidence)
        calls += verdict.usage.requests
        if verdict.best is None or verdict.worst is None:
            continue
        pairs += 1
        best, worst = quality[verdict.best], quality[verdict.worst]
        wrong += best < worst
        right += best == max(quality) and worst == min(quality)
    return {
        "width": width,
        "calls_over_all_pairs": calls / (levels * width * (width - 1)),
        "same_best_and_worst": right / levels,
        "wrong_pair_rate": wrong / pairs if pairs else 0.0,
        "pair_yield": pairs / levels,
    }


def main() -> None:
    options = make_parser(__doc__, widths="4,6,8,16", levels=4000, noise=0.15, bias=0.1).parse_args()
    widths = [int(width) for width in options.widths.split(",")]
    curves = ("consistent", "noisy", "all_pairs", "one_order", "confidences")
    figures: dict[str, list[dict[str, float]]] = {curve: [] for curve in curves}
    print(f"{'judge':11} {'way':10} {'w':>3} {'calls':>6} {'both ends':>9} {'wrong':>7} {'yield':>6}")

    def add(curve: str, way: str, width: int, *, confidence: float | None = None) -> None:
        noise, bias = (0, 0) if curve == "consistent" else (options.noise, options.bias)
        chance = CONFIDENCE if confidence is None else confidence
        work = measure(way, width, noise, bias=bias, levels=options.levels, seed=options.seed, confidence=chance)
        row = asyncio.run(work)
        figures[curve].append(row if confidence is None else {"confidence": confidence, **row})
        judge = "consistent" if curve == "consistent" else "noisy"
        label = way if confidence is None else f"at {confidence}"
        print(
            f"{judge:11} {label:10} {width:3.0f} {row['calls_over_all_pairs']:6.3f} "
            f"{row['same_best_and_worst']:9.3f} {row['wrong_pair_rate']:7.4f} {row['pair_yield']:6.3f}",
            flush=True,
        )

    for width in widths:
        add("consistent", "adaptive", width)
    for width in widths:
        add("noisy", "adaptive", width)
        for way in ("all_pairs", "one_order"):
            add(way, way, width)
        for confidence in (0.6, 0.7, 0.9, 0.95):
            add("confidences", "adaptive", width, confidence=confidence)
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
