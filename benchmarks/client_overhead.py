"""What our client costs: CPU time per request of a whole search, over that of the bare openai client.

    python benchmarks/client_overhead.py --problems 200 --json client_overhead.json

A search (policies, store, tree, files) runs against a stub that answers at once, in a process of its own.
Then the very same requests are sent by `openai.AsyncOpenAI` with the same transport (aiohttp) and as many in
flight, through its `create` methods (`bare`) and through its untyped `post`, the least it can do
(`untyped`), and nothing is done with the replies. `stepagent_over_bare` and `stepagent_over_untyped` are
ratios of median CPU seconds per request. `--memory 1000,100000` prints instead the peak memory of searches
over so many small problems (width 2, depth 2, scripted replies), each in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import openai
from seeded_text import stub_server

from stepagent.backends.endpoint import Endpoint
from stepagent.config.loading import load_config
from stepagent.config.settings import Config
from stepagent.files.jsonl import write_rows
from stepagent.stages.alone_tmp import search_alone
from stepagent.types import Candidate, Problem, Proposal, Step, Usage

Request = tuple[str, Mapping[str, Any]]

CONFIG = """
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


def peak_memory(problems: int) -> float:
    """Peak MiB of a search over so many scripted problems."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        path = folder / "problems.jsonl"
        write_rows(path, (Problem(str(i), f"What is {i}+{i}?") for i in range(problems)))
        (folder / "c.yaml").write_text(SCRIPTED.format(problems=path))
        search_alone(load_config(folder / "c.yaml"), "none", path, folder / "out")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def bare(url: str, requests: Sequence[Request], in_flight: int, typed: bool) -> float:
    """CPU seconds to send `requests` with the openai client alone."""

    async def send() -> float:
        client = openai.AsyncOpenAI(
            base_url=url, api_key="none", http_client=openai.DefaultAioHttpClient(), max_retries=0
        )
        waiting = iter(requests)

        async def work() -> None:
            for path, body in waiting:
                more = {"extra_body": {"return_token_ids": True, "include_stop_str_in_output": True}}
                known = {key: body[key] for key in body.keys() - more["extra_body"].keys()}
                if not typed:
                    await client.post(path, body={"model": "stub", **body}, cast_to=object)
                elif path == "completions":
                    await client.completions.create(model="stub", **known, **more)  # type: ignore[call-overload]
                else:
                    await client.chat.completions.create(model="stub", **known, **more)  # type: ignore[call-overload]

        start = time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(work())
        seconds = time.process_time() - start
        await client.close()
        return seconds

    return asyncio.run(send())


def searched(config: Config, problems: Path, out: Path) -> float:
    """CPU seconds of a whole search."""
    start = time.process_time()
    search_alone(config, config.model, problems, out)
    return time.process_time() - start


def memory(sizes: Sequence[str], path: Path | None) -> None:
    """Print the peak memory of each size, from a process of its own."""
    code = "import sys, client_overhead as it; print(it.peak_memory(int(sys.argv[1])))"
    figures = {}
    for size in sizes:
        done = subprocess.run(
            [sys.executable, "-c", code, size],
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        figures[size] = float(done.stdout.splitlines()[-1])
        print(f"{int(size):>9,} problems: {figures[size]:.0f} MiB", flush=True)
    if path:
        path.write_text(json.dumps({"peak_mib": figures}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=40, help="of a step and of a verdict")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", help="only peak memory, of searches over so many problems: 1000,100000")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.memory:
        memory(asked.memory.split(","), asked.json)
        return
    recorded: list[Request] = []
    post = Endpoint.post

    async def record(self: Endpoint, path: str, body: Mapping[str, Any]) -> Any:
        if path.endswith("completions"):
            recorded.append((path, body))
        return await post(self, path, body)

    with (
        tempfile.TemporaryDirectory() as work,
        stub_server(10**6, 0.0, asked.tokens, asked.depth) as url,
    ):
        folder = Path(work)
        problems = folder / "problems.jsonl"
        write_rows(problems, [Problem(str(i), f"What is {i}+{i}?") for i in range(asked.problems)])
        path = folder / "c.yaml"
        path.write_text(CONFIG.format(problems=problems, url=url, in_flight=asked.in_flight, width=asked.width))
        config = load_config(path, [f"seed={asked.seed}"])
        Endpoint.post = record  # type: ignore[method-assign]
        searched(config, problems, folder / "first")
        Endpoint.post = post  # type: ignore[method-assign]
        requests = list(recorded)
        seconds: dict[str, list[float]] = {"stepagent": [], "bare": [], "untyped": []}
        for repeat in range(asked.repeats):
            seconds["stepagent"].append(searched(config, problems, folder / str(repeat)))
            for name in ("bare", "untyped"):
                seconds[name].append(bare(url, requests, asked.in_flight, name == "bare"))
    each = {name: statistics.median(values) / len(requests) for name, values in seconds.items()}
    ratios = {f"stepagent_over_{name}": each["stepagent"] / each[name] for name in ("bare", "untyped")}
    shown = ", ".join(f"{name} {1000 * value:.2f} ms" for name, value in each.items())
    print(f"CPU per request, {len(requests)} requests: {shown}")
    print(", ".join(f"{name} {value:.2f}" for name, value in ratios.items()))
    if asked.json:
        figures = {**ratios, "cpu_seconds_per_request": each, "requests": len(requests)}
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
