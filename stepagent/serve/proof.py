"""Which of two models does the server serve? Asked by log-probabilities where the two differ most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stepagent.errors import ServeError

_NEAR = 0.1  # nats per token: further off, a server does not serve this model in any precision
_LEAST_RATIO = 3.0

Logprobs = Callable[[Sequence[int]], list[float]]
"""Token ids -> the log-probability of each token after the first."""


@dataclass(frozen=True, slots=True)
class Probe:
    """Token ids, the positions that are compared (1 is the first token that has a log-probability), and what
    the new and the previous model say there (nats). Without a previous model `old` is empty."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    new: tuple[float, ...]
    old: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """The server's mean distance (nats per compared token) to the new and to the previous model.

    proven      it lies with the new one: closer than a third of its distance to the previous
    indistinct  the two models are too close to be told apart at the server's precision, and it is near both
    near        there was no previous model; it is within 0.1 nats of the new one
    """

    outcome: Literal["proven", "indistinct", "near"]
    to_new: float
    to_old: float | None = None


def make_probes(
    sequences: Sequence[Sequence[int]],
    new: str | Path,
    old: str | Path | None,
    count: int = 8,
    tokens: int = 16,
) -> list[Probe]:
    """The `count` sequences on which the two models differ most, each with the `tokens` positions of the
    largest differences. Both models are run in Transformers, in float32 on the CPU, one after the other."""
    said_new = _said(new, sequences)
    if old is None:
        chosen = sequences[:count]
        return [
            Probe(tuple(ids), tuple(range(1, len(ids))), tuple(said))
            for ids, said in zip(chosen, said_new, strict=False)
        ]
    said_old = _said(old, sequences)
    probes = []
    for ids, a, b in zip(sequences, said_new, said_old, strict=True):
        order = sorted(range(len(a)), key=lambda i: -abs(a[i] - b[i]))[:tokens]
        at = sorted(order)
        probes.append(
            Probe(tuple(ids), tuple(i + 1 for i in at), tuple(a[i] for i in at), tuple(b[i] for i in at))
        )
    probes.sort(key=lambda probe: -_distance([probe], [list(probe.old)], "new"))
    return probes[:count]


def prove(probes: Sequence[Probe], logprobs: Logprobs) -> Proof:
    """Ask the server, and decide. Raises ServeError that says what differs."""
    said = []
    for probe in probes:
        every = logprobs(probe.ids)
        said.append([every[position - 1] for position in probe.positions])
    to_new = _distance(probes, said, "new")
    if not any(probe.old for probe in probes):
        if to_new <= _NEAR:
            return Proof("near", to_new)
        raise ServeError(f"the server is {to_new:.3g} nats per token away from the model it should serve")
    to_old = _distance(probes, said, "old")
    if to_new * _LEAST_RATIO < to_old:
        return Proof("proven", to_new, to_old)
    told_apart = to_old * _LEAST_RATIO < to_new
    if not told_apart and max(to_new, to_old) <= _NEAR:
        return Proof("indistinct", to_new, to_old)
    nearer = "lies with the previous model" if told_apart else "lies with neither model"
    raise ServeError(
        f"the server {nearer}: {to_new:.3g} nats per token from the new one, {to_old:.3g} from the previous"
    )


def _distance(
    probes: Sequence[Probe], said: Sequence[Sequence[float]], which: Literal["new", "old"]
) -> float:
    gaps = [
        abs(a - b)
        for probe, values in zip(probes, said, strict=True)
        for a, b in zip(values, probe.new if which == "new" else probe.old, strict=True)
    ]
    mean = sum(gaps) / len(gaps) if gaps else math.inf
    return mean if math.isfinite(mean) else math.inf


def _said(model: str | Path, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    import torch

    from stepagent.models.loading import load_model
    from stepagent.models.parity import probe_outputs

    loaded = load_model(model, torch.float32, torch.device("cpu"))
    return [outputs.logprobs.tolist() for outputs in probe_outputs(loaded, sequences)]
