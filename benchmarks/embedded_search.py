"""Does the embedded backend keep busy? The same search with all requests open, and one at a time.

    python benchmarks/embedded_search.py --problems 64 --json embedded_search.json

Both use the same model, problems, seeds and judge, and alternate; the ratio is of median rates.
The requests differ only in how many are open at once, so both grow the same trees (printed).
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from _bench import make_parser, write_figures

from stepagent.backends.transformers import TransformersBackend
from stepagent.config.settings import Config
from stepagent.demo.data import write_data
from stepagent.demo.run import demo_config, make_data
from stepagent.files.problems import ProblemFile
from stepagent.generators.sample import SampleGenerator
from stepagent.interfaces import Backend
from stepagent.judges.pairwise import PairwiseJudge
from stepagent.stages.train import initialize
from stepagent.strategies.runner import search_all
from stepagent.strategies.step import StepSearch
from stepagent.tree import StepTree
from stepagent.types import Completions, Problem, Prompt, Sampling


class OneAtATime:
    """Backend that lets one request through at a time."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._turn = asyncio.Lock()

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend."""
        async with self._turn:
            return await self._backend.complete(prompt, sampling)


def time_search(config: Config, backend: Backend, problems: list[Problem]) -> tuple[float, int, list[str]]:
    """Return the seconds, the steps kept and the solutions of one search over all problems."""
    generator = SampleGenerator(backend, **config.generator.arguments())
    judge = PairwiseJudge(backend, **config.judge.arguments())
    strategy = StepSearch(generator, judge, **config.search.arguments())
    trees: list[StepTree] = []
    start = time.perf_counter()
    work = enumerate(problems)
    asyncio.run(
        search_all(strategy, work, config.seed, concurrency=len(problems), finished=lambda _, tree: trees.append(tree))
    )
    seconds = time.perf_counter() - start
    ordered = sorted(trees, key=lambda tree: tree.problem.id)
    solutions = ["".join(step.text for step in tree.solution()) for tree in ordered]
    return seconds, sum(len(tree.path) for tree in trees), solutions


def main() -> None:
    parser = make_parser(__doc__, problems=64, width=6, repeats=3)
    parser.add_argument("--model", help="an M_1 of the demo [default: trained now from the shipped M_0]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        config = demo_config(folder, [f"seed={options.seed}", f"search.width={options.width}"])
        assert config.init
        model = options.model or str(folder / "M_1")
        if not options.model:
            make_data(config, folder)
            initialize(config, config.init, folder / "M_1")
        file = ProblemFile.of(config.problems, folder)
        if options.problems > len(file):
            out = folder / "larger"
            write_data(out, options.seed, solutions=1, eft=1, problems=options.problems, held_out=1)
            file = ProblemFile(out / "problems.jsonl")
        problems = list(file)[: options.problems]
        backend = TransformersBackend(model, **config.backend.arguments())
        time_search(config, backend, problems[:4])
        rates: dict[str, list[float]] = {"together": [], "one at a time": []}
        solutions: dict[str, list[str]] = {}
        for repeat in range(options.repeats):
            order = list(rates)[:: 1 if repeat % 2 else -1]
            for name in order:
                arm = backend if name == "together" else OneAtATime(backend)
                seconds, steps, solutions[name] = time_search(config, arm, problems)
                rates[name].append(steps / seconds)
                print(f"{name:14} {steps} steps in {seconds:.2f} s: {steps / seconds:.1f} steps/s", flush=True)
    equal = sum(a == b for a, b in zip(*solutions.values(), strict=True))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratio = medians["together"] / medians["one at a time"]
    print(f"{equal} of {len(problems)} solutions equal; together over one at a time: {ratio:.1f}x")
    figures = {"ratio": ratio, "steps_per_second": medians, "problems": len(problems), "equal": equal}
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
