"""The cost of our client: CPU time per request of a whole search, over that of the bare openai client.

    python benchmarks/client_overhead.py --problems 200 --json client_overhead.json

A search (policies, store, tree, files) runs against a stub that answers at once, in a process of its own.
Then the very same requests are sent by `openai.AsyncOpenAI` with the same transport (aiohttp) and as many in
flight, through its `create` methods (`bare`) and through its untyped `post`, the least it can do
(`untyped`), and nothing is done with the replies. `stepagent_over_bare` and `stepagent_over_untyped` are
ratios of median CPU seconds per request. `--memory 1000,100000` prints instead the peak memory of searches
over these numbers of small problems (width 2, depth 2, scripted replies), each in a process of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import openai
from _bench import make_config, make_parser, measure_apart, peak_mib, write_figures
from seeded_text import stub_server

from stepagent.assembly.session import Session
from stepagent.backends.endpoint import Endpoint
from stepagent.config.settings import Config
from stepagent.files.jsonl import write_rows
from stepagent.files.problems import ProblemFile
from stepagent.stages.search import search
from stepagent.types import Candidate, ModelVersion, Problem, Proposal, Step, Usage

Request = tuple[str, Mapping[str, Any]]

CONFIG = """
seed: {seed}
model: stub
problems: {problems}
concurrency: {in_flight}
backend: {{kind: openai, base_url: "{url}", max_in_flight: {in_flight}}}
generator: {{prompt: demo_solve, boundary: line, temperature: 1.0, max_tokens: 4096}}
judge: {{kind: pairwise, prompt: demo_judge, max_tokens: 4096}}
search: {{width: {width}, max_iterations: 20}}
"""
SCRIPTED = """
model: none
problems: {problems}
backend: {{kind: scripted, rules: []}}
generator: {{kind: "client_overhead:Coins"}}
judge: {{kind: random}}
search: {{width: 2, max_iterations: 2}}
"""


class Coins:
    """Two steps, then the end: no model, no network."""

    async def propose(self, problem: Problem, prefix: Sequence[Step], width: int, seed: int) -> Proposal:
        """See Generator."""
        ends = bool(prefix)
        await asyncio.sleep(0)
        steps = [
            Step(text, text, "end" if ends else "stop", ends=ends, token_ids=(1, 2), logprob=-1.0)
            for text in ("heads", "tails")
        ]
        return Proposal(
            "Q", (0,), tuple(Candidate(step) for step in steps), usage=Usage(1, 1, 4), tokenizer_sha256="none"
        )


def measure(problems: str) -> tuple[float]:
    """Return the peak MiB of a search over this number of scripted problems."""
    with tempfile.TemporaryDirectory() as work:
        path = write_problems(Path(work), int(problems))
        run_search(make_config(SCRIPTED, problems=path), path, Path(work) / "out")
    return (peak_mib(),)


def write_problems(folder: Path, count: int) -> Path:
    """Write `count` problems into `folder`. Returns their file."""
    path = folder / "problems.jsonl"
    write_rows(path, (Problem(str(i), f"What is {i}+{i}?") for i in range(count)))
    return path


def send_bare(url: str, requests: Sequence[Request], in_flight: int, *, typed: bool) -> float:
    """Return the CPU seconds to send `requests` with the openai client alone."""

    async def send() -> float:
        client = openai.AsyncOpenAI(
            base_url=url, api_key="none", http_client=openai.DefaultAioHttpClient(), max_retries=0
        )
        waiting = iter(requests)

        async def work() -> None:
            for path, body in waiting:
                extra = {"extra_body": {"return_token_ids": True, "include_stop_str_in_output": True}}
                standard = {key: body[key] for key in body.keys() - extra["extra_body"].keys()}
                if not typed:
                    await client.post(path, body={"model": "stub", **body}, cast_to=object)
                elif path == "completions":
                    await client.completions.create(model="stub", **standard, **extra)  # type: ignore[call-overload]
                else:
                    await client.chat.completions.create(model="stub", **standard, **extra)  # type: ignore[call-overload]

        start = time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(work())
        seconds = time.process_time() - start
        await client.close()
        return seconds

    return asyncio.run(send())


def run_search(config: Config, problems: Path, out: Path) -> float:
    """Return the CPU seconds of a whole search."""
    start = time.process_time()
    with Session(config, out) as session:
        search(session, ModelVersion.at(config.model), ProblemFile(problems), out=out)
    return time.process_time() - start


def print_memory(sizes: Sequence[str], path: Path | None) -> None:
    """Print the peak memory of each size, from a process of its own."""
    figures = {}
    for size in sizes:
        (figures[size],) = measure_apart("client_overhead", size)
        print(f"{int(size):>9,} problems: {figures[size]:.0f} MiB", flush=True)
    write_figures(path, {"peak_mib": figures})


def main() -> None:
    parser = make_parser(__doc__, problems=200, in_flight=32, width=4, depth=5, repeats=3)
    parser.add_argument("--tokens", type=int, default=40, help="of a step and of a verdict")
    parser.add_argument("--memory", help="only peak memory, of searches over these numbers of problems: 1000,100000")
    options = parser.parse_args()
    if options.memory:
        print_memory(options.memory.split(","), options.json)
        return
    recorded: list[Request] = []
    post = Endpoint.post

    async def record(self: Endpoint, path: str, body: Mapping[str, Any]) -> Any:
        if path.endswith("completions"):
            recorded.append((path, body))
        return await post(self, path, body)

    stub = stub_server(10**6, 0.0, options.tokens, depth=options.depth)
    with tempfile.TemporaryDirectory() as work, stub as url:
        folder = Path(work)
        problems = write_problems(folder, options.problems)
        sizes = {name: getattr(options, name) for name in ("in_flight", "width", "seed")}
        config = make_config(CONFIG, problems=problems, url=url, **sizes)
        Endpoint.post = record  # type: ignore[method-assign]
        run_search(config, problems, folder / "first")
        Endpoint.post = post  # type: ignore[method-assign]
        requests = list(recorded)
        seconds: dict[str, list[float]] = {"stepagent": [], "bare": [], "untyped": []}
        for repeat in range(options.repeats):
            seconds["stepagent"].append(run_search(config, problems, folder / str(repeat)))
            for name in ("bare", "untyped"):
                seconds[name].append(send_bare(url, requests, options.in_flight, typed=name == "bare"))
    costs = {name: statistics.median(values) / len(requests) for name, values in seconds.items()}
    ratios = {f"stepagent_over_{name}": costs["stepagent"] / costs[name] for name in ("bare", "untyped")}
    milliseconds = ", ".join(f"{name} {1000 * cost:.2f} ms" for name, cost in costs.items())
    print(f"CPU per request, {len(requests)} requests: {milliseconds}")
    print(", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    write_figures(options.json, {**ratios, "cpu_seconds_per_request": costs, "requests": len(requests)})


if __name__ == "__main__":
    main()
