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

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _bench import make_config, make_parser, write_figures
from seeded_text import stub_server

from stepagent.assembly.session import Session
from stepagent.backends.endpoint import Endpoint
from stepagent.backends.pool import turn
from stepagent.config.settings import Config
from stepagent.interfaces import Generator, Judge
from stepagent.strategies.runner import search_all
from stepagent.strategies.step import StepSearch
from stepagent.tree import StepTree
from stepagent.types import ModelVersion, Problem, Proposal, Step, Verdict

CONFIG = """
seed: {seed}
model: stub
problems: none.jsonl
concurrency: {count}
backend: {{kind: openai, base_url: "{url}", max_in_flight: {slots}}}
generator: {{prompt: demo_solve, boundary: line, temperature: 1.0, max_tokens: 4096}}
judge: {{kind: pairwise, prompt: demo_judge, max_tokens: 4096}}
search: {{width: {width}, max_iterations: 50}}
"""


class LockStep:
    """Barrier that lets all parties go on once every one of them waits."""

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
        """Take one party out."""
        self._parties -= 1
        self._release()

    def _release(self) -> None:
        if len(self._waiting) == self._parties:
            for place in self._waiting:
                place.set_result(None)
            self._waiting.clear()


class InStep:
    """Generator and judge that wait for each other's problems before every stage."""

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
    """Times of each problem's requests: their begin, their end, and the seconds that the stub worked on them."""

    def __init__(self) -> None:
        self.requests: dict[int, list[tuple[float, float, float]]] = {}

    def critical_path(self) -> float:
        """Return the seconds of the longest problem, had it the server for itself."""
        return max(map(self._path, self.requests.values()))

    def _path(self, requests: list[tuple[float, float, float]]) -> float:
        ready: list[tuple[float, float]] = []  # (end of a request, length of the path to that end)
        for start, end, service in sorted(requests):
            before = max((length for earlier_end, length in ready if earlier_end <= start), default=0.0)
            ready.append((end, before + service))
        return max(length for _, length in ready)

    def work(self) -> float:
        """Return the seconds of all requests."""
        return sum(service for requests in self.requests.values() for _, _, service in requests)


def run_search(config: Config, problems: Sequence[Problem], schedule: str, *, folder: Path) -> tuple[float, int]:
    """Search `problems`. Returns the wall seconds and the number of steps that were kept."""
    trees: list[StepTree] = []
    with Session(config, folder) as session:
        parts = session.parts(ModelVersion.at(config.model))
        session.run(parts.judge.judge(problems[0], (), [Step("1", "1", "stop", ends=False)] * 2, 0))  # probes
        concurrency = {"one": 1, "lockstep": len(problems)}.get(schedule, config.concurrency)
        barrier = LockStep(len(problems))
        strategy = parts.strategy
        if schedule == "lockstep":
            in_step = InStep(parts.generator, parts.judge, barrier)
            strategy = StepSearch(in_step, in_step, **config.search.arguments())

        def finished(_: int, tree: StepTree) -> None:
            trees.append(tree)
            if schedule == "lockstep":
                barrier.leave()

        start = time.perf_counter()
        session.run(search_all(strategy, enumerate(problems), config.seed, concurrency=concurrency, finished=finished))
        seconds = time.perf_counter() - start
    failed = [tree.error for tree in trees if tree.status != "ended"]
    assert not failed, failed[0]
    return seconds, sum(len(tree.path) for tree in trees)


def main() -> None:
    parser = make_parser(__doc__, problems=128, slots=16, width=4, depth=6, seconds_per_token=0.003)
    parser.add_argument("--tokens", type=int, default=40, help="of a step, in the mean, and of a verdict")
    parser.add_argument("--one", type=int, default=4, help="problems of the arm that takes one at a time")
    options = parser.parse_args()
    problems = [Problem(str(i), f"What is {i}+{i}?") for i in range(options.problems)]
    post = Endpoint.post
    record = Record()

    async def recording(self: Endpoint, path: str, body: Mapping[str, Any]) -> Any:
        start = time.perf_counter()
        reply = await post(self, path, body)
        if path.endswith("completions") and (problem_turn := turn.get(None)):
            times = (start, time.perf_counter(), float(reply["service_seconds"]))
            record.requests.setdefault(problem_turn.place, []).append(times)
        return reply

    stub = stub_server(options.slots, options.seconds_per_token, options.tokens, depth=options.depth)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as work, stub as url:
        folder = Path(work)
        sizes = {name: getattr(options, name) for name in ("slots", "width", "seed")}
        config = make_config(CONFIG, url=url, count=len(problems), **sizes)
        Endpoint.post = recording  # type: ignore[method-assign]
        run_search(config, problems, "stepagent", folder=folder / "record")
        Endpoint.post = post  # type: ignore[method-assign]
        for schedule in ("stepagent", "lockstep"):
            seconds[schedule], steps = run_search(config, problems, schedule, folder=folder / schedule)
        sample = problems[: options.one]
        seconds["one"] = run_search(config, sample, "one", folder=folder / "one")[0] * len(problems) / len(sample)
    work_seconds = record.work() / options.slots
    critical = record.critical_path()
    ideal = max(critical, work_seconds)
    requests = sum(map(len, record.requests.values()))
    print(f"{len(problems)} problems, {requests} requests, {steps} steps kept, {options.slots} slots")
    print(f"work / slots {work_seconds:.2f} s, critical path {critical:.2f} s, ideal {ideal:.2f} s")
    for arm, spent in seconds.items():
        print(f"{arm:20}{spent:9.2f} s{spent / seconds['stepagent']:8.2f} x stepagent{ideal / spent:8.3f} of ideal")
    figures = {
        "ideal_over_stepagent": ideal / seconds["stepagent"],
        "lockstep_over_stepagent": seconds["lockstep"] / seconds["stepagent"],
        "one_at_a_time_over_stepagent": seconds["one"] / seconds["stepagent"],
        "work_over_critical_path": work_seconds / critical,
        "seconds": {**seconds, "ideal": ideal},
        "problems": len(problems),
        "slots": options.slots,
        "requests": requests,
    }
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
