"""The in-process backend: a Transformers model that serves many coroutines in one running batch.

Transformers' own continuous batching has no seed per request and no stop strings, so the batch is our own
(`running_batch.py`); models for which it is not exact run with their own cache (`own_cache.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stepagent.backends.decoder_choice import pick_decoders
from stepagent.backends.decoding import Decoder, Row
from stepagent.backends.thoughts import SWITCHES, stops_of
from stepagent.config.settings import Positive
from stepagent.errors import BackendError, ModelError
from stepagent.models.loading import load_model, pick_device, pick_dtype
from stepagent.models.spans import context_limit
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.seeds import derive_seed
from stepagent.types import Completion, Completions, Prompt, Sampling, Usage

_TOKENS_BETWEEN_CHECKS = 16  # drawn before new requests are looked for, if no row finishes earlier
_TAIL = 8  # context tokens decoded with a completion, so that its first token decodes as it does in place


@dataclass(eq=False, slots=True)
class _Job:
    """One request: the rows of its samples, the number of rows that are still open, and what draws them."""

    prompt_ids: tuple[int, ...]
    rows: list[Row]
    decoder: Decoder
    future: asyncio.Future[None]
    open: int


class TransformersBackend:
    """Backend that runs a local model in this process.

    `model` is a folder or a hub id; `max_rows` bounds the samples drawn at once (by default 64 on a CPU, where more
    take memory and gain no time, and 256 elsewhere); `max_context` (tokens) defaults to the window in the model's
    config.
    """

    def __init__(
        self,
        model: str,
        device: str = "auto",
        dtype: str = "auto",
        *,
        max_rows: Positive | None = None,
        max_context: Positive | None = None,
    ) -> None:
        place = pick_device(device)
        self._tokenizer = ChatTokenizer(model)
        network = load_model(model, pick_dtype(dtype, place), place)
        ends = list(network.generation_config.eos_token_id or ())
        ends += [id for id in (self._tokenizer.end_id, self._tokenizer.raw.eos_token_id) if id is not None]
        self._vocabulary = network.get_input_embeddings().weight.shape[0]
        if self._tokenizer.end_id >= self._vocabulary:
            raise ModelError(
                f"{model}: the token that ends a turn, {self._tokenizer.end_id}, is beyond the model's "
                f"{self._vocabulary} embeddings, so no reply could end; take tokenizer and model from one place"
            )
        self._max_context = context_limit(network.config, max_context)
        self._decoders = pick_decoders(network, self._tokenizer.raw, ends)
        self._max_rows = max_rows or (64 if place.type == "cpu" else 256)
        self._waiting: deque[_Job] = deque()
        self._running: dict[Row, _Job] = {}
        self._driver: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stepagent-decoder")

    @property
    def unbatched(self) -> str:
        """Why the model cannot run all requests in one batch; empty if it can."""
        return self._decoders.reason

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
        if max(ids) >= self._vocabulary:
            raise BackendError(
                f"token {max(ids)} of the context is beyond the model's {self._vocabulary} embeddings; the tokenizer "
                "is of another model"
            )
        limit = min(sampling.max_tokens, room)
        sampling = replace(sampling, stop=stops_of(prompt, sampling))
        rows = [
            Row(sampling, limit, _uniforms(derive_seed(sampling.seed, index), limit)) for index in range(sampling.n)
        ]
        short = len(ids) + limit <= self._decoders.steady
        decoder = self._decoders.short if short else self._decoders.long
        job = _Job(ids, rows, decoder, asyncio.get_running_loop().create_future(), len(rows))
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
            self._tokenizer.text(rendered) + prompt.prefix_text,
            ids,
            usage=Usage(1, len(ids), sampled),
            tokenizer_sha256=self._tokenizer.sha256,
        )

    async def _drive(self) -> None:
        """Run the batch until no request waits or runs; `complete` starts it again."""
        loop = asyncio.get_running_loop()
        try:
            while self._waiting or self._running:
                jobs = self._admission()
                # In a thread of its own, so that the event loop can take requests during the forward passes.
                for row in await loop.run_in_executor(self._thread, self._advance, jobs):
                    job = self._running.pop(row)
                    job.open -= 1
                    if not job.open and not job.future.done():
                        job.future.set_result(None)
                # Callers whose samples are finished may send their next request before the next admission.
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 (a caller whose future stays open would wait for ever)
            failure = error
            # torch reports its failures as RuntimeError, out of memory included.
            if isinstance(error, RuntimeError):
                reason = str(error).partition("\n")[0]
                failure = BackendError(f"generation failed: {reason}; if memory ran out, lower backend.max_rows")
            for job in {*self._waiting, *self._running.values()}:
                if not job.future.done():
                    job.future.set_exception(failure)
            self._waiting.clear()
            self._running.clear()
            # The batch may be half advanced; the next request starts a new one.
            self._decoders.short.clear()
            self._decoders.long.clear()

    def _admission(self) -> list[_Job]:
        """Return the jobs to prefill now, as many as `max_rows` has room for."""
        active = len(self._running)
        # A prefill halts the whole batch, so a few waiting rows wait for more to share its cost.
        if sum(job.open for job in self._waiting) * 4 < active:
            return []
        jobs: list[_Job] = []
        # A job with more rows than `max_rows` runs alone, or it would wait for ever.
        while self._waiting and (active == 0 or active + self._waiting[0].open <= self._max_rows):
            job = self._waiting.popleft()
            active += job.open
            self._running.update(dict.fromkeys(job.rows, job))
            jobs.append(job)
        return jobs

    def _advance(self, jobs: Sequence[_Job]) -> list[Row]:
        """Prefill `jobs`, then draw tokens until rows are finished; return those rows."""
        decoders = dict.fromkeys([self._decoders.short, self._decoders.long])
        for decoder in decoders:
            if admitted := [(job.prompt_ids, job.rows) for job in jobs if job.decoder is decoder]:
                decoder.admit(admitted)
        for _ in range(_TOKENS_BETWEEN_CHECKS):
            if finished := [row for decoder in decoders if decoder.rows for row in decoder.step()]:
                return finished
        return []

    def _render(self, prompt: Prompt) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids of the chat turns and those of the half-written assistant turn."""
        ids = self._tokenizer.ids(self._tokenizer.render(prompt.messages, **SWITCHES.get(prompt.thinking, {})))
        prefix = prompt.prefix_ids
        return ids, self._tokenizer.ids(prompt.prefix_text) if prefix is None else prefix

    def _completion(self, context: tuple[int, ...], row: Row) -> Completion:
        assert row.finish_reason
        tail = list(context[-_TAIL:])
        before = self._tokenizer.text(tail, special=False)
        whole = self._tokenizer.text(tail + row.token_ids, special=False)
        first = None
        if row.first is not None:
            first = tuple((self._tokenizer.text([token]), logprob) for token, logprob in row.first)
        ids, logprobs = tuple(row.token_ids), tuple(row.logprobs)
        return Completion(whole[len(before) :], row.finish_reason, ids, logprobs=logprobs, first=first)


def _uniforms(seed: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(seed).random(count)
