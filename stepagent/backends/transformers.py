"""The in-process backend: a Transformers model that serves many coroutines in one running batch.

Transformers' own continuous batching has no seed per request and no stop strings, so the batch is ours
(`decoding.py`); the model, its cache protocol and the tokenizer are theirs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepagent.backends.decoding import Decoder, Row
from stepagent.config.settings import Positive
from stepagent.errors import BackendError
from stepagent.models.loading import context_window, load_model, pick_device, pick_dtype
from stepagent.models.tokenizer import load_tokenizer, render, tokenizer_sha256
from stepagent.seeds import derive_seed
from stepagent.types import Completion, Completions, Prompt, Sampling, Usage

_TURN = 16  # tokens drawn before the event loop is heard again, if no row finishes earlier
_TAIL = 8  # context tokens decoded with a completion, so that its first token decodes as it would in place


@dataclass(eq=False, slots=True)
class _Job:
    prompt_ids: tuple[int, ...]
    rows: list[Row]
    future: asyncio.Future[None]
    open: int


class TransformersBackend:
    """Complete prompts with a local model.

    `model` is a folder or a hub id; `max_rows` bounds the samples drawn at once; `max_context` (tokens)
    defaults to what the model's config allows.
    """

    def __init__(
        self,
        model: str,
        device: str = "auto",
        dtype: str = "auto",
        max_rows: Positive = 256,
        max_context: Positive | None = None,
    ) -> None:
        where = pick_device(device)
        self._tokenizer: Any = load_tokenizer(model)
        loaded = load_model(model, pick_dtype(dtype, where), where)
        ends = loaded.generation_config.eos_token_id
        ends = [ends] if isinstance(ends, int) else list(ends or [])
        if self._tokenizer.eos_token_id is not None:
            ends.append(self._tokenizer.eos_token_id)
        self._decoder = Decoder(loaded, self._tokenizer, ends)
        self._sha256 = tokenizer_sha256(self._tokenizer)
        self._max_rows = max_rows
        self._max_context = max_context or context_window(loaded.config)
        self._waiting: deque[_Job] = deque()
        self._running: dict[Row, _Job] = {}
        self._driver: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stepagent-decoder")

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend. Raises BackendError if the context leaves no room for a token."""
        rendered, prefix_ids = self._render(prompt)
        ids = rendered + prefix_ids
        room = self._max_context - len(ids)
        if room <= 0:
            raise BackendError(
                f"the context has {len(ids)} tokens and the model's window {self._max_context}; "
                "shorten the problem or the steps"
            )
        limit = min(sampling.max_tokens, room)
        rows = [
            Row(sampling, limit, _uniforms(derive_seed(sampling.seed, index), limit))
            for index in range(sampling.n)
        ]
        job = _Job(ids, rows, asyncio.get_running_loop().create_future(), len(rows))
        self._waiting.append(job)
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        try:
            await job.future
        except asyncio.CancelledError:
            if job in self._waiting:
                self._waiting.remove(job)
            raise
        sampled = sum(len(row.token_ids) for row in rows)
        return Completions(
            tuple(self._completion(ids, row) for row in rows),
            self._tokenizer.decode(rendered) + prompt.prefix_text,
            ids,
            Usage(1, len(ids), sampled),
            self._sha256,
        )

    async def _drive(self) -> None:
        """Keep the batch running while there is work; ends when there is none."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting or self._decoder.rows:
                jobs = self._admission()
                for row in await loop.run_in_executor(self._thread, self._turn, jobs):
                    job = self._running.pop(row)
                    job.open -= 1
                    if not job.open and not job.future.done():
                        job.future.set_result(None)
                await asyncio.sleep(0)  # those who were served may ask for more before the next turn
        except Exception as error:  # noqa: BLE001 (whoever waits must hear of it, whatever it is)
            failure = error
            if isinstance(error, RuntimeError):  # what torch raises, out of memory included
                why = str(error).partition("\n")[0]
                failure = BackendError(f"generation failed: {why}; if memory ran out, lower backend.max_rows")
            for job in {*self._waiting, *self._running.values()}:
                if not job.future.done():
                    job.future.set_exception(failure)
            self._waiting.clear()
            self._running.clear()
            self._decoder.rows = []

    def _admission(self) -> list[_Job]:
        """The jobs to prefill now: few at a time would waste a forward pass on each."""
        active = len(self._decoder.rows)
        if sum(job.open for job in self._waiting) * 4 < active:
            return []
        jobs: list[_Job] = []
        while self._waiting and (active == 0 or active + self._waiting[0].open <= self._max_rows):
            job = self._waiting.popleft()
            active += job.open
            self._running.update(dict.fromkeys(job.rows, job))
            jobs.append(job)
        return jobs

    def _turn(self, jobs: Sequence[_Job]) -> list[Row]:
        if jobs:
            self._decoder.admit([(job.prompt_ids, job.rows) for job in jobs])
        for _ in range(_TURN):
            if finished := self._decoder.step():
                return finished
        return []

    def _render(self, prompt: Prompt) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids of the chat turns and those of the half-written assistant turn."""
        text = render(self._tokenizer, prompt.messages)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        prefix = prompt.prefix_ids
        if prefix is None:
            prefix = self._tokenizer(prompt.prefix_text, add_special_tokens=False)["input_ids"]
        return tuple(ids), tuple(prefix)

    def _completion(self, context: tuple[int, ...], row: Row) -> Completion:
        assert row.finish_reason
        tail = list(context[-_TAIL:])
        before = self._tokenizer.decode(tail, skip_special_tokens=True)
        whole = self._tokenizer.decode(tail + row.token_ids, skip_special_tokens=True)
        first = None
        if row.first is not None:
            first = tuple((self._tokenizer.decode([token]), logprob) for token, logprob in row.first)
        ids, logprobs = tuple(row.token_ids), tuple(row.logprobs)
        return Completion(whole[len(before) :], row.finish_reason, ids, logprobs, first)


def _uniforms(seed: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(seed).random(count)
