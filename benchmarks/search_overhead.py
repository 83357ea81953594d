"""What the search costs beside the server: a whole search against a replay of its very requests.

    make vllm
    python benchmarks/search_overhead.py --problems 64 --json search_overhead.json

A search over the problems on a real vLLM server is recorded: every request to the server. The replay sends
the same requests without search, judging, store or files, through the same client, with the same bound on
requests in flight and no dependencies between them. The prefix cache is emptied before each, and the order
alternates. `search_over_replay` is the search's throughput over the replay's, a ratio of median seconds: 1
would be a search that costs nothing and never waits for its own tail. Random weights; run nothing
else meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vllm_world import make_model, serve_settings

from stepagent.assembly.components import make_components
from stepagent.assembly.session import Resources
from stepagent.backends.endpoint import Endpoint
from stepagent.config.loading import load_config
from stepagent.config.prompts import load_judge_prompt
from stepagent.interfaces import Backend
from stepagent.judges.comparisons import all_pairs_both_seats
from stepagent.seeds import derive_seed
from stepagent.serve.server import Model, Server
from stepagent.stages.search import search_stage
from stepagent.types import Problem, Prompt, Sampling, Step, Usage, Verdict, Vote

Request = tuple[str, Mapping[str, Any]]

CONFIG = """
model: {model}
problems: {problems}
concurrency: {concurrency}
backend: {{kind: openai, max_in_flight: {in_flight}}}
generator: {{prompt: demo_solve, boundary: line, temperature: 1.0, max_tokens: {tokens}}}
judge: {{kind: "search_overhead:AskingCoin", params: {{max_tokens: {tokens}}}}}
search: {{width: {width}, max_iterations: {depth}}}
"""


class AskingCoin:
    """Asks the model for every verdict, as the pairwise judge does, and throws a coin: random weights have no
    judgement, and a search without verdicts would end at once."""

    def __init__(self, backend: Backend, max_tokens: int) -> None:
        self._backend = backend
        self._template, _ = load_judge_prompt("demo_judge")
        self._max_tokens = max_tokens

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        async def compare(first: int, second: int) -> tuple[Vote, Usage]:
            values = {
                "question": problem.question,
                "prefix": "".join(step.text for step in prefix),
                "first": candidates[first].content,
                "second": candidates[second].content,
            }
            sampling = Sampling(max_tokens=self._max_tokens, seed=derive_seed(seed, first, second))
            reply = await self._backend.complete(Prompt(self._template.messages(values)), sampling)
            coin = random.Random(derive_seed(seed, "coin", min(first, second), max(first, second))).random()
            return Vote(first, second, "first" if (coin < 0.5) == (first < second) else "second"), reply.usage

        return await all_pairs_both_seats(len(candidates), compare, seed)


def replay(url: str, name: str, key: str, requests: Sequence[Request], in_flight: int) -> float:
    """Seconds to send `requests`, at most `in_flight` at once."""

    async def send() -> float:
        endpoint = Endpoint(url, name, key, timeout=600)
        waiting = iter(requests)

        async def work() -> None:
            for path, body in waiting:
                await endpoint.post(path, body)

        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(work())
        seconds = time.perf_counter() - start
        await endpoint.close()
        return seconds

    return asyncio.run(send())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="of a step, and of a verdict, at most")
    parser.add_argument("--hidden", type=int, default=128, help="a multiple of 32")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recorded: list[Request] = []
    post = Endpoint.post

    async def record(self: Endpoint, path: str, body: Mapping[str, Any]) -> Any:
        recorded.append((path, body))
        return await post(self, path, body)

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        model = make_model(folder / "M_1", arguments.seed, arguments.hidden, arguments.layers)
        rng = random.Random(arguments.seed)
        problems = [
            Problem(str(i), "+".join(str(rng.randrange(10, 100)) for _ in range(4))) for i in range(arguments.problems)
        ]
        path = folder / "c.yaml"
        path.write_text(
            CONFIG.format(
                model=model,
                problems=folder / "none.jsonl",
                concurrency=arguments.problems,
                in_flight=arguments.in_flight,
                tokens=arguments.tokens,
                width=arguments.width,
                depth=arguments.depth,
            )
        )
        config = load_config(path, [f"seed={arguments.seed}"])
        seconds: dict[str, list[float]] = {"search": [], "replay": []}
        with Server(serve_settings(), folder / "server", print) as server:
            deployment = server.deploy(Model(str(model), 1, None, [list(range(4, 28))]))
            key = server.settings.api_key_env

            def search(repeat: int) -> float:
                out = folder / f"search_{repeat}"
                served = {
                    "model": deployment.name,
                    "base_url": server.base_url,
                    "version": deployment.sha256,
                    "tokenizer": str(model),
                    "ready": server.ready,
                    "api_key_env": key,
                }
                with Resources(config, out) as resources:
                    components = make_components(config, str(model), resources, served)
                    start = time.perf_counter()
                    search_stage(components, problems, len(problems), out / "trees.jsonl", out / "p.jsonl", config, 1)
                    return time.perf_counter() - start

            Endpoint.post = record  # type: ignore[method-assign]
            search(-1)  # warms up, and is recorded
            Endpoint.post = post  # type: ignore[method-assign]
            requests = list(recorded)
            for repeat in range(arguments.repeats):
                for name in list(seconds)[:: 1 if repeat % 2 else -1]:
                    server.client.forget_prefixes()
                    if name == "search":
                        seconds[name].append(search(repeat))
                    else:
                        seconds[name].append(
                            replay(server.base_url, deployment.name, key, requests, arguments.in_flight)
                        )
                    print(f"{name}: {len(requests)} requests in {seconds[name][-1]:.2f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["replay"] / medians["search"]
    print(f"search over replay: {ratio:.3f} ({len(requests)} requests, {arguments.problems} problems)")
    if arguments.json:
        figures = {
            "search_over_replay": ratio,
            "seconds": medians,
            "requests": len(requests),
            "problems": arguments.problems,
        }
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
