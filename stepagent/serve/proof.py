"""Prove which of two models a server serves, by the log-probabilities of tokens on which they differ most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stepagent.errors import ServeError

_NEAR = 0.1  # nats per token: further off, a server does not serve this model in any precision
_LEAST_RATIO = 3.0  # of the distances to the two models, for the nearer one to be the served one

Logprobs = Callable[[Sequence[int]], list[float]]
"""A function: token ids -> the log-probability (nats) of each token after the first."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Token ids, the positions that are compared (1 is the first token that has a log-probability), and the
    log-probabilities (nats) of the new and the previous model there. Without a previous model the latter are
    empty."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    logprobs: tuple[float, ...]
    previous_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """The server's mean distance (nats per compared token) to the new and to the previous model, and the
    outcome:

    proven      it serves the new one: closer than a third of its distance to the previous
    indistinct  the two models are too close to be told apart at the server's precision, and it is near both
    near        there was no previous model; it is within 0.1 nats of the new one
    """

    outcome: Literal["proven", "indistinct", "near"]
    to_new: float
    to_old: float | None = None


def make_probes(
    sequences: Sequence[Sequence[int]],
    model: str | Path,
    previous: str | Path | None,
    *,
    count: int = 8,
    tokens: int = 16,
) -> list[Probe]:
    """Return the `count` sequences on which the two models differ most, each with the `tokens` positions of
    the largest differences; without a previous model the first sequences, with all positions. Both models are
    run in Transformers, in float32 on the CPU, one after the other and layer by layer."""
    logprobs = _model_logprobs(model, sequences)
    if previous is None:
        return [
            Probe(tuple(ids), tuple(range(1, len(ids))), tuple(values))
            for ids, values in zip(sequences[:count], logprobs, strict=False)
        ]
    probes = []
    for ids, a, b in zip(sequences, logprobs, _model_logprobs(previous, sequences), strict=True):
        indices = sorted(sorted(range(len(a)), key=lambda i: -abs(a[i] - b[i]))[:tokens])
        probes.append(
            Probe(
                tuple(ids),
                tuple(i + 1 for i in indices),
                tuple(a[i] for i in indices),
                tuple(b[i] for i in indices),
            )
        )
    probes.sort(key=lambda probe: -_distance([probe], [list(probe.previous_logprobs)], "new"))
    return probes[:count]


def prove(probes: Sequence[Probe], logprobs: Logprobs) -> Proof:
    """Ask the server for the probes' log-probabilities, and decide which model it serves. Raises ServeError
    with the distances if it is not the new one."""
    answers = []
    for probe in probes:
        sequence = logprobs(probe.ids)
        answers.append([sequence[position - 1] for position in probe.positions])
    to_new = _distance(probes, answers, "new")
    # With one model there is no ratio to decide by, so the distance itself must be small.
    if not any(probe.previous_logprobs for probe in probes):
        if to_new <= _NEAR:
            return Proof("near", to_new)
        raise ServeError(f"the server is {to_new:.3g} nats per token away from the model it should serve")
    to_old = _distance(probes, answers, "old")
    # A ratio needs no threshold in nats: a server's precision moves both distances, but it does not turn the
    # nearer model into the further one.
    if to_new * _LEAST_RATIO < to_old:
        return Proof("proven", to_new, to_old)
    is_previous = to_old * _LEAST_RATIO < to_new
    # A short training may change less than bfloat16 rounds away. That is no error, unless the server is far
    # from both models, and so serves some other one.
    if not is_previous and max(to_new, to_old) <= _NEAR:
        return Proof("indistinct", to_new, to_old)
    nearer = "lies with the previous model" if is_previous else "lies with neither model"
    raise ServeError(
        f"the server {nearer}: {to_new:.3g} nats per token from the new one, {to_old:.3g} from the previous"
    )


def _distance(probes: Sequence[Probe], answers: Sequence[Sequence[float]], model: Literal["new", "old"]) -> float:
    """Return the mean distance (nats per compared token) of the answers to the new or the old model; infinite
    without a comparison or if a value is not finite."""
    gaps = [
        abs(a - b)
        for probe, values in zip(probes, answers, strict=True)
        for a, b in zip(values, probe.logprobs if model == "new" else probe.previous_logprobs, strict=True)
    ]
    mean = sum(gaps) / len(gaps) if gaps else math.inf
    return mean if math.isfinite(mean) else math.inf


def _model_logprobs(model: str | Path, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the log-probability (nats) of each token after the first, per sequence."""
    from stepagent.models.streaming import folder_outputs

    return [outputs.logprobs.tolist() for outputs in folder_outputs(model, sequences)]
