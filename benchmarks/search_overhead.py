"""The cost of the search beside the server: a whole search against a replay of its very requests.

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

import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _bench import make_config, make_parser, write_figures
from vllm_world import make_model, serve_settings

from stepagent.assembly.session import Session
from stepagent.backends.endpoint import Endpoint
from stepagent.config.prompts import comparison_values, load_judge_prompt
from stepagent.files.jsonl import write_rows
from stepagent.files.problems import ProblemFile
from stepagent.interfaces import Backend
from stepagent.judges.comparisons import all_pairs
from stepagent.seeds import derive_seed
from stepagent.serve.server import Server
from stepagent.stages.deploy import Serving
from stepagent.stages.search import SearchCounts, searched
from stepagent.types import ModelVersion, Problem, Prompt, Sampling, Step, Usage, Verdict, Vote

Request = tuple[str, Mapping[str, Any]]

CONFIG = """
seed: {seed}
model: {model}
problems: {problems}
concurrency: {count}
backend: {{kind: openai, max_in_flight: {in_flight}}}
generator: {{prompt: demo_solve, boundary: line, temperature: 1.0, max_tokens: {tokens}}}
judge: {{kind: "search_overhead:AskingCoin", params: {{max_tokens: {tokens}}}}}
search: {{width: {width}, max_iterations: {depth}}}
"""


class AskingCoin:
    """Judge that asks the model for every verdict, as the pairwise judge does, and throws a coin: random weights have
    no judgement, and a search without verdicts would end at once."""

    def __init__(self, backend: Backend, max_tokens: int) -> None:
        self._backend = backend
        self._template, _ = load_judge_prompt("demo_judge")
        self._max_tokens = max_tokens

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """See Judge."""
        text = "".join(step.text for step in prefix)

        async def compare(first: int, second: int) -> tuple[Vote, Usage]:
            pair = candidates[first].content, candidates[second].content
            values = comparison_values(problem.question, text, pair[0], second=pair[1])
            sampling = Sampling(max_tokens=self._max_tokens, seed=derive_seed(seed, first, second))
            reply = await self._backend.complete(Prompt(self._template.messages(values)), sampling)
            coin = random.Random(derive_seed(seed, "coin", min(first, second), max(first, second))).random()
            return Vote(first, second, "first" if (coin < 0.5) == (first < second) else "second"), reply.usage

        return await all_pairs(len(candidates), compare, seed)


def replay(server: Server, requests: Sequence[Request], in_flight: int) -> float:
    """Return the seconds to send `requests`, at most `in_flight` at once."""

    async def send() -> float:
        assert server.current is not None
        endpoint = Endpoint(server.base_url, server.current.name, server.settings.api_key_env, timeout=600)
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
    parser = make_parser(__doc__, problems=64, in_flight=32, width=4, depth=5, layers=4, repeats=3)
    parser.add_argument("--tokens", type=int, default=32, help="of a step, and of a verdict, at most")
    parser.add_argument("--hidden", type=int, default=128, help="a multiple of 32")
    options = parser.parse_args()
    recorded: list[Request] = []
    post = Endpoint.post

    async def record(self: Endpoint, path: str, body: Mapping[str, Any]) -> Any:
        recorded.append((path, body))
        return await post(self, path, body)

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        model = make_model(folder / "M_1", options.seed, options.hidden, layers=options.layers)
        rng = random.Random(options.seed)
        path = folder / "problems.jsonl"
        questions = ["+".join(str(rng.randrange(10, 100)) for _ in range(4)) for _ in range(options.problems)]
        write_rows(path, [Problem(str(i), question) for i, question in enumerate(questions)])
        problems = ProblemFile(path)
        sizes = {name: getattr(options, name) for name in ("in_flight", "tokens", "width", "depth", "seed")}
        config = make_config(CONFIG, model=model, problems=path, count=len(problems), **sizes)
        seconds: dict[str, list[float]] = {"search": [], "replay": []}
        with Server(serve_settings(), folder / "server", print) as server:

            def search(repeat: int) -> float:
                out = folder / f"search_{repeat}"
                with Session(config, out, serves=True) as session:
                    session.served = Serving(session, [server])
                    strategy = session.parts(ModelVersion.at(str(model))).strategy
                    server.client.forget_prefixes()  # those of the proof, too
                    start = time.perf_counter()
                    with searched(session, strategy, problems, trees=out / "trees.jsonl", label="search") as trees:
                        write_rows(out / "preferences.jsonl", SearchCounts().watch(trees))
                    return time.perf_counter() - start

            Endpoint.post = record  # type: ignore[method-assign]
            search(-1)  # warms up, and is recorded
            Endpoint.post = post  # type: ignore[method-assign]
            requests = list(recorded)
            for repeat in range(options.repeats):
                for name in list(seconds)[:: 1 if repeat % 2 else -1]:
                    if name == "search":
                        seconds[name].append(search(repeat))
                    else:
                        server.client.forget_prefixes()
                        seconds[name].append(replay(server, requests, options.in_flight))
                    print(f"{name}: {len(requests)} requests in {seconds[name][-1]:.2f} s", flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["replay"] / medians["search"]
    print(f"search over replay: {ratio:.3f} ({len(requests)} requests, {options.problems} problems)")
    counts = {"requests": len(requests), "problems": options.problems}
    write_figures(options.json, {"search_over_replay": ratio, "seconds": medians, **counts})


if __name__ == "__main__":
    main()
