"""Does a search keep its server full? Wall time against the ideal, against lock-step and against one at a
time.

    python benchmarks/search_schedule.py --problems 128 --slots 16 --json search_schedule.json

A stub endpoint in a process of its own has `--slots` slots and seeded seconds per token; step lengths have
stragglers. The same problems, with the same seeds, are searched (width, depth, pairwise judge)

    stepagent   as it is
    lockstep    all problems propose, then all judge, level by level, as peers do
    one         one problem after the other (a part of the problems, scaled to all)

Ideal = max(critical path, total work / slots): no schedule can be faster. The work is the sum of all service
times; the critical path is that of the longest problem: every request begins when the last one it waited for
ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seeded_text import stub_server

from stepagent.assembly.components import make_components
from stepagent.assembly.session import Resources
from stepagent.backends.endpoint import Endpoint
from stepagent.backends.pool import turn
from stepagent.config.loading import load_config
from stepagent.config.settings import Config
from stepagent.interfaces import Generator, Judge
from stepagent.search.runner import search_all
from stepagent.search.step import StepSearch
from stepagent.tree import StepTree
from stepagent.types import Problem, Proposal, Step, Verdict

CONFIG = """
model: stub
problems: none.jsonl
backend: {{kind: openai, base_url: "{url}", max_in_flight: {slots}}}
generator: {{prompt: demo_solve, boundary: line, temperature: 1.0, max_tokens: 4096}}
judge: {{kind: pairwise, prompt: demo_judge, max_tokens: 4096}}
search: {{width: {width}, max_iterations: 50}}
"""


class LockStep:
    """Lets go on all who wait once everybody waits."""

    def __init__(self, parties: int) -> None:
        self._parties = parties
        self._waiting: list[asyncio.Future[None]] = []

    async def arrive(self) -> None:
        """Wait for all others."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._release()
        await place

    def leave(self) -> None:
        """One less to wait for."""
        self._parties -= 1
        self._release()

    def _release(self) -> None:
        if len(self._waiting) == self._parties:
            for place in self._waiting:
                place.set_result(None)
            self._waiting.clear()


class InStep:
    """A generator and a judge that wait for each other's problems before every stage."""

    def __init__(self, generator: Generator, judge: Judge, barrier: LockStep) -> None:
        self._generator = generator
        self._judge = judge
        self._barrier = barrier

    async def propose(self, problem: Problem, prefix: Sequence[Step], width: int, seed: int) -> Proposal:
        """See Generator."""
        await self._barrier.arrive()
        return await self._generator.propose(problem, prefix, width, seed)

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""
        await self._barrier.arrive()
        return await self._judge.judge(problem, prefix, candidates, seed)


class Record:
    """When each problem's requests began and ended, and how long the stub worked on them."""

    def __init__(self) -> None:
        self.requests: dict[int, list[tuple[float, float, float]]] = {}

    def critical_path(self) -> float:
        """Seconds of the longest problem, had it the server for itself."""
        return max(map(self._path, self.requests.values()))

    def _path(self, requests: list[tuple[float, float, float]]) -> float:
        ready: list[tuple[float, float]] = []  # (when it ended, length of the path to its end)
        for begun, ended, service in sorted(requests):
            before = max((length for end, length in ready if end <= begun), default=0.0)
            ready.append((ended, before + service))
        return max(length for _, length in ready)

    def work(self) -> float:
        """Seconds of all requests."""
        return sum(service for requests in self.requests.values() for _, _, service in requests)


def searched(config: Config, problems: Sequence[Problem], how: str, folder: Path) -> tuple[float, int]:
    """Wall seconds to search `problems`, and the steps that were kept."""
    trees: list[StepTree] = []
    with Resources(config, folder) as resources:
        made = make_components(config, config.model, resources)
        resources.run(made.judge.judge(problems[0], (), [Step("1", "1", "stop", False)] * 2, 0))  # probes
        concurrency = {"one": 1, "lockstep": len(problems)}.get(how, config.concurrency)
        barrier = LockStep(len(problems))
        strategy = made.strategy
        if how == "lockstep":
            both = InStep(made.generator, made.judge, barrier)
            strategy = StepSearch(both, both, **config.search.arguments())

        def finished(_: int, tree: StepTree) -> None:
            trees.append(tree)
            if how == "lockstep":
                barrier.leave()

        start = time.perf_counter()
        resources.run(
            search_all(strategy, enumerate(problems), config.seed, concurrency=concurrency, finished=finished)
        )
        seconds = time.perf_counter() - start
    failed = [tree.error for tree in trees if tree.status != "ended"]
    assert not failed, failed[0]
    return seconds, sum(len(tree.path) for tree in trees)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=40, help="of a step, in the mean, and of a verdict")
    parser.add_argument("--seconds-per-token", type=float, default=0.003)
    parser.add_argument("--one", type=int, default=4, help="problems of the arm that takes one at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    problems = [Problem(str(i), f"What is {i}+{i}?") for i in range(asked.problems)]
    post = Endpoint.post
    record = Record()

    async def recording(self: Endpoint, path: str, body: Mapping[str, Any]) -> Any:
        begun = time.perf_counter()
        reply = await post(self, path, body)
        if path.endswith("completions") and (whose := turn.get(None)):
            ended = (begun, time.perf_counter(), float(reply["service_seconds"]))
            record.requests.setdefault(whose.place, []).append(ended)
        return reply

    stub = stub_server(asked.slots, asked.seconds_per_token, asked.tokens, asked.depth)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as work, stub as url:
        folder = Path(work)
        path = folder / "c.yaml"
        path.write_text(CONFIG.format(url=url, slots=asked.slots, width=asked.width))
        config = load_config(path, [f"seed={asked.seed}", f"concurrency={asked.problems}"])
        Endpoint.post = recording  # type: ignore[method-assign]
        searched(config, problems, "stepagent", folder / "record")
        Endpoint.post = post  # type: ignore[method-assign]
        for how in ("stepagent", "lockstep"):
            seconds[how], steps = searched(config, problems, how, folder / how)
        alone, _ = searched(config, problems[: asked.one], "one", folder / "one")
        seconds["one"] = alone * len(problems) / len(problems[: asked.one])
    work_seconds = record.work() / asked.slots
    critical = record.critical_path()
    ideal = max(critical, work_seconds)
    requests = sum(map(len, record.requests.values()))
    print(f"{len(problems)} problems, {requests} requests, {steps} steps kept, {asked.slots} slots")
    print(f"work / slots {work_seconds:.2f} s, critical path {critical:.2f} s, ideal {ideal:.2f} s")
    for how, spent in seconds.items():
        print(f"{how:20}{spent:9.2f} s{spent / seconds['stepagent']:8.2f} x stepagent{ideal / spent:8.3f} of ideal")
    if asked.json:
        figures = {
            "ideal_over_stepagent": ideal / seconds["stepagent"],
            "lockstep_over_stepagent": seconds["lockstep"] / seconds["stepagent"],
            "one_at_a_time_over_stepagent": seconds["one"] / seconds["stepagent"],
            "work_over_critical_path": work_seconds / critical,
            "seconds": {**seconds, "ideal": ideal},
            "problems": len(problems),
            "slots": asked.slots,
            "requests": requests,
        }
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
