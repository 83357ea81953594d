"""Beam search, ours and its_hub's, on the same stub server: how much of the server each keeps at work.

    pip install its_hub==1.2.0 --no-deps
    pip install backoff certifi requests numpy
    python benchmarks/beam_peer.py --problems 32 --slots 64 --json beam_peer.json

Every sampled step takes a slot of its own. Both search all problems at once with `--width` steps for each of
`--width` beams, and score steps without the server (its_hub by a constant, stepagent by its random judge),
so only the sampling is compared. `busy` is the work that the server did over slots times wall time; each is
measured on the work it asked for.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _bench import make_config, make_parser, write_figures
from seeded_text import stub_server

from stepagent.assembly.session import Session
from stepagent.strategies.runner import search_all
from stepagent.tree import StepTree
from stepagent.types import ModelVersion, Problem

CONFIG = """
model: stub
problems: none.jsonl
backend: {{kind: openai, base_url: "{url}", max_in_flight: {slots}}}
generator: {{prompt: demo_solve, boundary: line, temperature: 1.0, max_tokens: 4096}}
judge: {{kind: random}}
search: {{kind: beam, width: {width}, beams: {width}, max_steps: {depth}}}
"""


def search_ours(
    url: str, problems: Sequence[Problem], folder: Path, *, slots: int, width: int, depth: int, seed: int
) -> float:
    """Return the wall seconds of our beam search."""
    config = make_config(CONFIG, url=url, slots=slots, width=width, depth=depth)
    trees: list[StepTree] = []
    with Session(config, folder) as session:
        strategy = session.parts(ModelVersion.at(config.model)).strategy
        work = search_all(
            strategy, enumerate(problems), seed, concurrency=len(problems), finished=lambda _, tree: trees.append(tree)
        )
        start = time.perf_counter()
        session.run(work)
        seconds = time.perf_counter() - start
    assert all(tree.status == "ended" for tree in trees), trees[0].error
    return seconds


def search_theirs(url: str, problems: Sequence[Problem], *, slots: int, width: int, depth: int) -> float:
    """Return the wall seconds of its_hub's beam search."""
    from its_hub.core.algorithms.beam_search import BeamSearch
    from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel
    from its_hub.core.lms.step_generation import StepGeneration

    class Constant:
        async def ascore(self, _: Any, responses: Any) -> Any:
            return [0.5] * len(responses) if isinstance(responses, list) else 0.5

    async def run() -> float:
        model = OpenAICompatibleLanguageModel(url, "none", "stub", max_concurrency=slots, temperature=1.0)
        steps = StepGeneration(max_steps=depth - 1, step_token="\n")
        search = BeamSearch(steps, Constant(), beam_width=width)
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for problem in problems:
                group.create_task(search.ainfer(model, problem.question, budget=width * width))
        seconds = time.perf_counter() - start
        await model.close()
        return seconds

    return asyncio.run(run())


def main() -> None:
    parser = make_parser(__doc__, problems=32, slots=64, width=4, depth=6, tokens=40, seconds_per_token=0.003)
    options = parser.parse_args()
    problems = [Problem(str(i), f"What is {i}+{i}?") for i in range(options.problems)]
    sizes = {name: getattr(options, name) for name in ("slots", "width", "depth")}
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as work:
        arms: dict[str, Callable[[str], float]] = {
            "stepagent": lambda url: search_ours(url, problems, Path(work), seed=options.seed, **sizes),
            "its_hub": lambda url: search_theirs(url, problems, **sizes),
        }
        for name, run in arms.items():
            stub = stub_server(
                options.slots, options.seconds_per_token, options.tokens, depth=options.depth, slot_per_choice=True
            )
            with stub as url:
                seconds = run(url)
                with urllib.request.urlopen(f"{url}/work") as reply:
                    slot_seconds = json.load(reply)
            busy = slot_seconds / options.slots / seconds
            figures[name] = {"seconds": seconds, "work_seconds": slot_seconds, "busy": busy}
            print(f"{name:12}{seconds:8.2f} s, {slot_seconds:9.1f} slot seconds of work, slots busy {busy:6.1%}")
    ratio = figures["stepagent"]["busy"] / figures["its_hub"]["busy"]
    print(f"stepagent keeps {ratio:.2f} times as much of the server at work")
    write_figures(options.json, {**figures, "busy_over_its_hub": ratio})


if __name__ == "__main__":
    main()
