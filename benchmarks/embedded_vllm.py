"""How fast is the embedded backend beside vLLM's CPU build? The same search of a real model on both.

    python benchmarks/embedded_vllm.py --model SmolLM2-135M-Instruct --problems problems.jsonl --count 8

Each arm searches the same problems with the same settings and seeds, and the model judges itself; sampled tokens per
second are compared. The two draw different samples, so their trees differ. vLLM's start and the loading of the model
are not timed; each arm's first, short search warms up. Needs `make vllm`.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from _bench import make_parser, write_figures
from vllm_world import ENV, free_port, vllm_python

from stepagent.backends.endpoint import Endpoint
from stepagent.backends.openai import OpenAIBackend
from stepagent.backends.transformers import TransformersBackend
from stepagent.config.settings import ProblemSettings, ServeSettings
from stepagent.files.problems import ProblemFile
from stepagent.generators.sample import SampleGenerator
from stepagent.interfaces import Backend, Closable
from stepagent.judges.pairwise import PairwiseJudge
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.serve.server import Server
from stepagent.strategies.runner import search_all
from stepagent.strategies.step import StepSearch
from stepagent.types import Completions, ModelVersion, Problem, Prompt, Sampling, Usage


class Counting:
    """Backend that adds up what its replies cost."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.usage = Usage()

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend."""
        reply = await self._backend.complete(prompt, sampling)
        self.usage += reply.usage
        return reply


async def time_search(
    backend: Backend, problems: Sequence[Problem], options: argparse.Namespace
) -> tuple[float, Usage]:
    """Return the seconds and the usage of one search over all problems."""
    counting = Counting(backend)
    generator = SampleGenerator(counting, max_tokens=options.step_tokens)
    judge = PairwiseJudge(counting, max_tokens=options.judge_tokens)
    strategy = StepSearch(generator, judge, width=options.width, max_iterations=options.depth)
    start = time.perf_counter()
    await search_all(
        strategy, enumerate(problems), options.seed, concurrency=len(problems), finished=lambda place, tree: None
    )
    return time.perf_counter() - start, counting.usage


def measure(backend: Backend, problems: Sequence[Problem], options: argparse.Namespace, *, arm: str) -> list[float]:
    """Return the sampled tokens per second of each repeat."""

    async def rates() -> list[float]:
        await time_search(backend, problems[:1], options)
        figures = [await rate() for _ in range(options.repeats)]
        if isinstance(backend, Closable):
            await backend.close()
        return figures

    async def rate() -> float:
        seconds, usage = await time_search(backend, problems, options)
        tokens = usage.completion_tokens
        print(
            f"{arm}: {tokens} tokens sampled after {usage.prompt_tokens} of {usage.requests} prompts in "
            f"{seconds:.1f} s: {tokens / seconds:.1f} tokens/s",
            flush=True,
        )
        return tokens / seconds

    return asyncio.run(rates())


@contextmanager
def served(options: argparse.Namespace, folder: Path) -> Iterator[OpenAIBackend]:
    """Start a vLLM server with the model, and yield a backend on it."""
    settings = ServeSettings(
        command=(vllm_python(), "-m", "vllm.entrypoints.openai.api_server"),
        args=("--dtype", options.dtype, "--max-model-len", "4096", "--max-num-batched-tokens", "16384"),
        env={**ENV, "VLLM_CPU_KVCACHE_SPACE": "4"},
        port=free_port(),
        start_seconds=600,
    )
    with Server(settings, folder, print) as server:
        proof = ChatTokenizer(options.model).ids("Two and two are four, and four and four are eight.")
        server.deploy(ModelVersion.at(options.model), None, [proof])
        assert server.current is not None
        endpoint = Endpoint(server.base_url, server.current.name, settings.api_key_env, timeout=600)
        yield OpenAIBackend(endpoint, tokenizer=options.model)


def main() -> None:
    parser = make_parser(__doc__, count=8, width=4, depth=4, step_tokens=64, judge_tokens=128, repeats=2)
    parser.add_argument("--model", required=True, help="a folder of a chat model")
    parser.add_argument("--problems", required=True, help="a file of problems, or a preset")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of both")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        settings = ProblemSettings(path=options.problems, sample=options.count, seed=options.seed)
        problems = [problem.without_answer() for problem in ProblemFile.of(settings, folder)]
        # one after the other: a server that waits would still turn on the cores
        rates = {
            "in process": measure(
                TransformersBackend(options.model, device="cpu", dtype=options.dtype),
                problems,
                options,
                arm="in process",
            )
        }
        with served(options, folder / "server") as backend:
            rates["vLLM"] = measure(backend, problems, options, arm="vLLM")
    medians = {arm: statistics.median(values) for arm, values in rates.items()}
    ratio = medians["in process"] / medians["vLLM"]
    print(f"in process over vLLM: {ratio:.2f} ({options.dtype}, {len(problems)} problems)")
    write_figures(options.json, {"in_process_over_vllm": ratio, "tokens_per_second": medians, "dtype": options.dtype})


if __name__ == "__main__":
    main()
