"""How few comparisons find the best and the worst of w candidates?

    python benchmarks/judge_calls.py --widths 4,6,8,16 --json judge_calls.json

Simulated judges over `--levels` levels of random qualities. `consistent`: always right. `noisy`: with chance
`--bias` it answers for the first seat whatever sits there, else it errs with chance `--noise`; drawn once per
pair and seat, so asking again teaches nothing. Ways: adaptive; all_pairs, every pair in both seats (the
paper's); one_seat, every pair in one random seat. A pair is wrong if its worst step is truly better than its
best. Keys per width: calls over the w(w-1) of all pairs, share of levels with the truly best and worst step,
wrong-pair rate, pair yield.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from stepagent.judges.comparisons import CONFIDENCE, adaptive, all_pairs_both_seats
from stepagent.judges.strengths import bradley_terry
from stepagent.seeds import derive_seed
from stepagent.types import Usage, Verdict, Vote


@dataclass(frozen=True)
class Simulated:
    """A judge of candidates with these true qualities."""

    quality: tuple[float, ...]
    noise: float
    bias: float
    seed: int

    async def compare(self, first: int, second: int) -> tuple[Vote, Usage]:
        rng = random.Random(derive_seed(self.seed, first, second))
        right = self.quality[first] > self.quality[second]
        says_first = rng.random() < self.bias or (right != (rng.random() < self.noise))
        return Vote(first, second, "first" if says_first else "second"), Usage(1, 0, 0)


async def one_seat(count: int, judge: Simulated, seed: int) -> Verdict:
    """Every pair once, in a random seat; best and worst by Bradley-Terry."""
    rng = random.Random(seed)
    seats = [rng.sample(pair, 2) for pair in combinations(range(count), 2)]
    votes = [(await judge.compare(first, second))[0] for first, second in seats]
    strengths = bradley_terry(count, votes)
    best, worst = strengths.index(max(strengths)), strengths.index(min(strengths))
    return Verdict(
        "ok", tuple(strengths), best, worst=worst, margin=1.0, votes=tuple(votes), usage=Usage(len(votes), 0, 0)
    )


async def judged(way: str, judge: Simulated, seed: int, confidence: float) -> Verdict:
    count = len(judge.quality)
    if way == "adaptive":
        return await adaptive(count, judge.compare, seed, confidence=confidence)
    if way == "all_pairs":
        return await all_pairs_both_seats(count, judge.compare, seed)
    return await one_seat(count, judge, seed)


async def measure(
    way: str, width: int, noise: float, bias: float, levels: int, seed: int, confidence: float = CONFIDENCE
) -> dict[str, float]:
    """One row of figures."""
    calls = same = wrong = pairs = 0
    for level in range(levels):
        rng = random.Random(derive_seed(seed, width, level))
        quality = tuple(rng.gauss(0, 1) for _ in range(width))
        verdict = await judged(way, Simulated(quality, noise, bias, rng.getrandbits(60)), level, confidence)
        calls += verdict.usage.requests
        if verdict.best is None or verdict.worst is None:
            continue
        pairs += 1
        best, worst = quality[verdict.best], quality[verdict.worst]
        wrong += best < worst
        same += best == max(quality) and worst == min(quality)
    return {
        "width": width,
        "calls_over_all_pairs": calls / (levels * width * (width - 1)),
        "same_best_and_worst": same / levels,
        "wrong_pair_rate": wrong / pairs if pairs else 0.0,
        "pair_yield": pairs / levels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--widths", default="4,6,8,16")
    parser.add_argument("--levels", type=int, default=4000)
    parser.add_argument("--noise", type=float, default=0.15)
    parser.add_argument("--bias", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    widths = [int(width) for width in arguments.widths.split(",")]
    levels, seed = arguments.levels, arguments.seed
    noise, bias = arguments.noise, arguments.bias
    figures: dict[str, list[dict[str, float]]] = {"consistent": [], "noisy": []}
    curves: dict[str, list[dict[str, float]]] = {"all_pairs": [], "one_seat": [], "confidences": []}
    header = f"{'judge':11} {'way':10} {'w':>3} {'calls':>6} {'both ends':>9} {'wrong':>7} {'yield':>6}"
    print(header)

    def show(judge: str, way: str, row: dict[str, float]) -> None:
        print(
            f"{judge:11} {way:10} {row['width']:3.0f} {row['calls_over_all_pairs']:6.3f} "
            f"{row['same_best_and_worst']:9.3f} {row['wrong_pair_rate']:7.4f} {row['pair_yield']:6.3f}",
            flush=True,
        )

    for width in widths:
        row = asyncio.run(measure("adaptive", width, 0, 0, levels, seed))
        figures["consistent"].append(row)
        show("consistent", "adaptive", row)
    for width in widths:
        row = asyncio.run(measure("adaptive", width, noise, bias, levels, seed))
        figures["noisy"].append(row)
        show("noisy", "adaptive", row)
        for way in ("all_pairs", "one_seat"):
            row = asyncio.run(measure(way, width, noise, bias, levels, seed))
            curves[way].append(row)
            show("noisy", way, row)
        for confidence in (0.6, 0.7, 0.9, 0.95):
            row = asyncio.run(measure("adaptive", width, noise, bias, levels, seed, confidence))
            curves["confidences"].append({"confidence": confidence, **row})
            show("noisy", f"at {confidence}", row)
    if arguments.json:
        arguments.json.write_text(json.dumps({**figures, **curves}, indent=2) + "\n")


if __name__ == "__main__":
    main()
