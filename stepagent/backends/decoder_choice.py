"""Choose how a model is run in this process: by measurement, as packing is, at start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from stepagent.backends.decoding import Decoder, Group, Row
from stepagent.backends.own_cache import OwnCache
from stepagent.backends.running_batch import RunningBatch
from stepagent.errors import ModelError
from stepagent.models.loading import first_line
from stepagent.models.noise import distance, precision_of, rounded_embeddings, tolerance
from stepagent.models.spans import span
from stepagent.types import Sampling

_LENGTHS = (11, 3)  # tokens of the prompts, one of them left-padded
_DRAWN = 5  # tokens
_FAR = 1024  # tokens
_UNUSABLE = 8  # tokens: a running batch that is exact for so few is not worth its name


class Decoders(NamedTuple):
    """The ways to run one model: `short` for sequences of up to `steady` tokens, `long` for longer ones; often they
    are the same. `reason` says why `short` is no running batch; it is empty if it is one."""

    short: Decoder
    long: Decoder
    steady: int
    reason: str


def pick_decoders(model: Any, tokenizer: Any, end_ids: Sequence[int]) -> Decoders:
    """Return the fastest ways whose log-probabilities equal those of plain forward passes: the running batch, the
    model's own cache, or none. Raises ModelError for a model that cannot be run at all."""
    model.eval()
    limits = span(model.config)
    switch = limits.switch
    reason = ""
    if limits.steady < _UNUSABLE:
        reason = f"its window is {limits.steady} tokens"
    else:
        batch = partial(RunningBatch, model, tokenizer)
        reason = _fault(model, batch, min(_LENGTHS[0], limits.steady - _DRAWN))
    # beyond a window, if that is not too far to try
    longest = limits.window + 3 if limits.window and limits.window <= _FAR else _LENGTHS[0]
    cached = partial(OwnCache, model, tokenizer, cached=True, switch=switch)
    fault = _fault(model, cached, longest)
    way = "its own cache, a request at a time"
    if fault:
        cached = partial(OwnCache, model, tokenizer, cached=False, switch=switch)
        way = f"no cache, which is slow ({fault})"
        if fault := _fault(model, cached, longest):
            raise ModelError(f"the model cannot be run in this process ({fault}); serve it, and use backend openai")
    long = cached(end_ids)
    if reason:
        reason = f"it runs with {way}, not in one batch: {reason}"
        logging.getLogger("stepagent").warning("the model in this process: %s", reason)
        return Decoders(long, long, 0, reason)
    return Decoders(RunningBatch(model, tokenizer, end_ids), long, limits.steady, "")


def _fault(model: Any, make: Callable[[Sequence[int]], Decoder], longest: int) -> str:
    """Return what is wrong with a decoder's log-probabilities, or "" if they are those of plain forward passes."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    prompts = [[(7 * i + 3 * length) % vocabulary for i in range(1, length + 1)] for length in (longest, *_LENGTHS[1:])]
    # one more, which begins like the first and comes when that is known
    prompts.append([*prompts[0][: longest // 2], *prompts[1]])
    sampling = Sampling(n=1, max_tokens=_DRAWN)
    try:
        decoder = make([])
        groups: list[Group] = [(prompt, [Row(sampling, _DRAWN, np.zeros(_DRAWN)) for _ in "ab"]) for prompt in prompts]
        decoder.admit(groups[:2])
        decoder.step()
        decoder.admit(groups[2:])
        while decoder.rows:
            decoder.step()
        gap, noise = _gap(model, groups)
    except torch.OutOfMemoryError:
        raise ModelError("out of memory at the first tokens; use a smaller model or serve it elsewhere") from None
    except Exception as error:  # noqa: BLE001 (models refuse what they do not know in their own ways)
        return f"it takes no such input ({first_line(error)[:80]})"
    return "" if gap <= tolerance(noise, precision_of(model)) else f"log-probabilities would be off by {gap:.2g} nats"


@torch.inference_mode()
def _gap(model: Any, groups: Sequence[Group]) -> tuple[float, float]:
    """Return the distance of the rows' log-probabilities from those of plain forward passes, and the noise of these."""
    precision = precision_of(model)
    rows_logprobs, plain, rounded = [], [], []
    for prompt, rows in groups:
        exact = _plain(model, prompt, rows[0].token_ids)
        with rounded_embeddings(model, precision):
            rounded.append(_plain(model, prompt, rows[0].token_ids))
        for row in rows:
            rows_logprobs.append(torch.tensor(row.logprobs))
            plain.append(exact)
    noise = distance(torch.cat(rounded), torch.cat(plain[::2]), precision)
    gap = distance(torch.cat(rows_logprobs), torch.cat(plain), precision)
    return gap if gap == gap else float("inf"), noise


def _plain(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
    ids = torch.tensor([[*prompt, *tokens]], device=model.device)
    logprobs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    chosen: torch.Tensor = logprobs[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]
    return chosen.cpu()
