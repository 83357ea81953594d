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

import argparse
import asyncio
import json
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seeded_text import stub_server

from stepagent.assembly.components import make_components
from stepagent.assembly.session import Resources
from stepagent.config.loading import load_config
from stepagent.search.runner import search_all
from stepagent.tree import StepTree
from stepagent.types import Problem

CONFIG = """
model: stub
problems: none.jsonl
backend: {{kind: openai, base_url: "{url}", max_in_flight: {slots}}}
generator: {{prompt: demo_solve, boundary: line, temperature: 1.0, max_tokens: 4096}}
judge: {{kind: random}}
search: {{kind: beam, width: {width}, beams: {width}, max_steps: {depth}}}
"""


def ours(url: str, problems: Sequence[Problem], folder: Path, slots: int, width: int, depth: int) -> float:
    """Wall seconds of our beam search."""
    path = folder / "c.yaml"
    path.write_text(CONFIG.format(url=url, slots=slots, width=width, depth=depth))
    config = load_config(path)
    trees: list[StepTree] = []
    with Resources(config, folder / "out") as resources:
        strategy = make_components(config, "stub", resources).strategy
        work = search_all(
            strategy, enumerate(problems), 0, concurrency=len(problems), finished=lambda _, tree: trees.append(tree)
        )
        start = time.perf_counter()
        resources.run(work)
        seconds = time.perf_counter() - start
    assert all(tree.status == "ended" for tree in trees), trees[0].error
    return seconds


def theirs(url: str, problems: Sequence[Problem], slots: int, width: int, depth: int) -> float:
    """Wall seconds of its_hub's beam search."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--seconds-per-token", type=float, default=0.003)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    problems = [Problem(str(i), f"What is {i}+{i}?") for i in range(asked.problems)]
    size = (asked.slots, asked.width, asked.depth)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as work:
        arms: dict[str, Callable[[str], float]] = {
            "stepagent": lambda url: ours(url, problems, Path(work), *size),
            "its_hub": lambda url: theirs(url, problems, *size),
        }
        for name, run in arms.items():
            stub = stub_server(asked.slots, asked.seconds_per_token, asked.tokens, asked.depth, slot_per_choice=True)
            with stub as url:
                seconds = run(url)
                with urllib.request.urlopen(f"{url}/work") as reply:
                    done = json.load(reply)
            busy = done / asked.slots / seconds
            figures[name] = {"seconds": seconds, "work_seconds": done, "busy": busy}
            print(f"{name:12}{seconds:8.2f} s, {done:9.1f} slot seconds of work, slots busy {busy:6.1%}")
    ratio = figures["stepagent"]["busy"] / figures["its_hub"]["busy"]
    print(f"stepagent keeps {ratio:.2f} times as much of the server at work")
    if asked.json:
        asked.json.write_text(json.dumps({**figures, "busy_over_its_hub": ratio}, indent=2) + "\n")


if __name__ == "__main__":
    main()
