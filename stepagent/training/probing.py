"""Measure how a model can be scored exactly, before it is trained: packed, or one target at a time.

The outcome is measured on the model at hand, since a list of the model types that can be packed would go stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from stepagent.errors import ModelError
from stepagent.models.loading import first_line
from stepagent.models.noise import distance, precision_of, rounded_embeddings, tolerance
from stepagent.models.spans import span
from stepagent.training.attention import TRIE
from stepagent.training.mode import learning_mode
from stepagent.training.packing import Pack, Target, Unit, make_packs
from stepagent.training.recurrence import follow_tries, is_recurrent
from stepagent.training.scoring import (
    Scoring,
    full_logprobs,
    packed_logprobs,
    packed_token_logprobs,
    path_logprobs,
    path_token_logprobs,
    plain_logprobs,
    plain_scoring,
    plain_token_logprobs,
)

_LEAST_GRADIENT_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05}  # of the gradient's norm
_COMPARED = 4  # targets of a pack that are scored alone, too


class _Comparison(NamedTuple):
    """A pack, and the places of its targets that are scored alone, too."""

    pack: Pack
    places: Sequence[int]


class _Measured(NamedTuple):
    """Log-probabilities (nats) of the compared tokens, [tokens], and the gradients of the trained parameters."""

    logprobs: torch.Tensor
    gradients: list[torch.Tensor | None]


def pick_scoring(
    model: Any, units: Sequence[Unit], token_budget: int, *, pack: Pack | None = None, mixed: bool = False
) -> Scoring:
    """Return packed scoring, by the fastest attention whose log-probabilities and gradients equal those of plain
    scoring; else scoring path by path, if that does, else one by one, with the reason. The attention is set on the
    model.

    Compared are targets of `pack`, the largest that will be trained (by default, of the units' first pack), and the
    units' longest and shortest targets, packed together. Sequences longer than a window, a chunk or a change of the
    rotary frequencies are not packed. `mixed` means that the model computes in bfloat16 whatever its weights are.

    Raises ModelError for a model that cannot be scored or trained at all, or whose memory runs out.
    """
    pack = pack or next(make_packs(enumerate(_sorted(units)), token_budget))
    learning_mode(model, dropout=False)
    probe = _Probe(model, _comparisons(pack, units, token_budget), mixed=mixed)
    full, noise, gradient_noise = probe.measure_plain()
    plain = full_logprobs if full else plain_logprobs
    longest = max(len(target.ids) for unit in units for target in unit)
    reason = _outgrown(model.config, longest) or (follow_tries(model) if is_recurrent(model) else "")
    default = model.config._attn_implementation
    for attention in () if reason else dict.fromkeys((_fastest(probe.device) or default, default)):
        try:
            model.set_attn_implementation(attention)
            gap, gradient_gap = probe.measure_packed()
        except torch.OutOfMemoryError:
            raise ModelError("out of memory in a pack; lower token_budget") from None
        except Exception as error:  # noqa: BLE001 (models refuse what they do not know in their own ways)
            reason = f"the model takes no packed input ({first_line(error)[:80]})"
            continue
        if not gap <= noise:
            reason = f"packed log-probabilities are off by {gap:.2g} a token"
        elif not gradient_gap <= gradient_noise:
            reason = f"packed gradients are off by {gradient_gap:.2g} of their norm"
        else:
            return Scoring(packed_logprobs, token_budget, gap=gap, gradient_gap=gradient_gap)
    # the model's own attention came last, so that the passes over single sequences go on with it
    switch = span(model.config).switch
    if not full and not (switch and longest > switch):  # else a prefix of a long path is not what it is alone
        gap, gradient_gap = probe.measure_paths(token_budget)
        if gap <= noise and gradient_gap <= gradient_noise:
            return Scoring(path_logprobs, token_budget, reason, gap, gradient_gap)
    return plain_scoring(reason, plain)


def _outgrown(config: Any, longest: int) -> str:
    """Return why sequences of up to `longest` tokens cannot share a pack, or "" if they can."""
    limits = span(config)
    if limits.window and longest > limits.window:
        return f"sequences of {longest} tokens outgrow the model's sliding window of {limits.window}"
    if limits.switch and longest > limits.switch:
        return f"sequences of {longest} tokens pass {limits.switch}, where the model's rotary frequencies change"
    return ""


class _Probe:
    """The comparison of plain and packed scoring on a sample targets of some packs."""

    def __init__(self, model: Any, comparisons: Sequence[_Comparison], *, mixed: bool) -> None:
        self._model = model
        self._comparisons = comparisons
        self._targets = [pack.targets[place] for pack, places in comparisons for place in places]
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._plain = _Measured(torch.zeros(0), [])
        self._precision = precision_of(model, mixed=mixed)
        self.device = next(model.parameters()).device

    def measure_plain(self) -> tuple[bool, float, float]:
        """Score the targets one by one. Returns whether it takes all logits, and the tolerances of comparisons with
        this: nats a token, and a part of the gradient's norm."""
        sample = self._targets[::2]
        try:
            self._plain = self._measure(lambda: self._plain_parts(self._targets))
            with rounded_embeddings(self._model, self._precision):
                rounded = self._measure(lambda: self._plain_parts(sample))
            unrounded = self._measure(lambda: self._plain_parts(sample))
        except torch.OutOfMemoryError:
            raise ModelError("out of memory in one sequence; lower max_context") from None
        except Exception as error:
            raise ModelError(f"the model cannot be trained ({first_line(error)})") from error
        if not self._plain.logprobs.isfinite().all():
            raise ModelError("the model's log-probabilities are not numbers; its weights may be damaged")
        noise, gradient_noise = self._gaps(rounded, unrounded)
        log_tolerance = tolerance(noise, self._precision)
        gradient_tolerance = max(_LEAST_GRADIENT_TOLERANCE[self._precision], 8 * gradient_noise)
        return self._needs_all_logits(sample, unrounded.logprobs, log_tolerance), log_tolerance, gradient_tolerance

    def measure_packed(self) -> tuple[float, float]:
        """Return the distance from plain scoring (nats a token), and that of the gradients (part of the norm)."""
        return self._gaps(self._measure(self._packed_parts), self._plain)

    def measure_paths(self, token_budget: int) -> tuple[float, float]:
        """Return the same distances for scoring path by path."""
        return self._gaps(self._measure(lambda: self._path_parts(token_budget)), self._plain)

    @torch.no_grad()
    def _needs_all_logits(self, targets: Sequence[Target], logprobs: torch.Tensor, tolerance: float) -> bool:
        try:
            short_logprobs = torch.cat([plain_token_logprobs(self._model, target) for target in targets])
        except Exception:  # noqa: BLE001 (its head cannot be run apart)
            return True
        return not distance(short_logprobs.cpu(), logprobs, self._precision) <= tolerance

    def _plain_parts(self, targets: Sequence[Target]) -> Iterator[list[torch.Tensor]]:
        for target in targets:
            yield [plain_token_logprobs(self._model, target, full=True)]

    def _packed_parts(self) -> Iterator[list[torch.Tensor]]:
        for pack, places in self._comparisons:
            logprobs = packed_token_logprobs(self._model, pack)
            cuts = torch.split(logprobs, pack.lengths().tolist())
            yield [cuts[place] for place in places]

    def _path_parts(self, token_budget: int) -> Iterator[list[torch.Tensor]]:
        units = enumerate((target,) for target in self._targets)
        for pack in make_packs(units, token_budget, by_paths=True):
            yield list(torch.split(path_token_logprobs(self._model, pack), pack.lengths().tolist()))

    def _measure(self, parts: Callable[[], Iterator[list[torch.Tensor]]]) -> _Measured:
        """Run forward and backward over the compared targets, which come in parts of one forward pass each. Their
        mean log-probabilities weigh differently, so that one cannot stand in for another, and all have one sign: a
        target that is compared twice must not cancel itself."""
        self._model.zero_grad()
        logprobs, number = [], 0
        for part in parts():
            weights = [1.0 + i % 3 for i in range(number, number + len(part))]
            loss = torch.stack([w * target.mean() for w, target in zip(weights, part, strict=True)]).sum()
            torch.autograd.backward(loss)
            logprobs += [target.detach().cpu() for target in part]
            number += len(part)
        gradients = [p.grad for p in self._trained]
        self._model.zero_grad()
        return _Measured(torch.cat(logprobs), gradients)

    def _gaps(self, measured: _Measured, plain: _Measured) -> tuple[float, float]:
        """Return the distance of log-probabilities, and the norm of the difference of the gradients over that of the
        plain ones."""
        difference = norm = 0.0
        for a, b in zip(measured.gradients, plain.gradients, strict=True):
            # no gradient at all is one of 0: an expert to which no token goes has none
            delta = a - b if a is not None and b is not None else (b if a is None else a)
            difference += 0 if delta is None else _square(delta)
            norm += 0 if b is None else _square(b)
        gap = distance(measured.logprobs, plain.logprobs, self._precision)
        return gap, (difference / norm) ** 0.5 if norm else 0.0


def _square(tensor: Any) -> float:
    """Return the sum of squares; of this process' part, if the tensor is sharded."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return float(local.double().square().sum())


def _sorted(units: Sequence[Unit]) -> list[Unit]:
    return sorted(units, key=lambda unit: unit[0].ids)


def _comparisons(pack: Pack, units: Sequence[Unit], token_budget: int) -> list[_Comparison]:
    """Return the targets to compare: some of `pack`, and those of the units with the longest and the shortest targets
    of both sides, which get packs of their own if they are not in it."""
    sides = range(max(map(len, units)))
    ordered = [sorted((u for u in units if side < len(u)), key=lambda u: len(u[side].ids)) for side in sides]
    extremes = list(dict.fromkeys(unit for side in ordered for unit in (side[0], side[-1])))
    places = {target: place for place, target in enumerate(pack.targets)}
    inside = {places[target] for unit in extremes for target in unit if target in places}
    missing = [unit for unit in extremes if not all(target in places for target in unit)]
    packs = make_packs(enumerate(_sorted(missing)), token_budget)
    return [
        _Comparison(pack, sorted(inside | set(_spread(len(pack.targets))))),
        *(_Comparison(extreme, range(len(extreme.targets))) for extreme in packs),
    ]


def _spread(count: int) -> list[int]:
    """Return up to a sample places, evenly spread over `count`, the first and the last among them."""
    places = min(_COMPARED, count)
    return sorted({round(i * (count - 1) / max(1, places - 1)) for i in range(places)})


def _fastest(device: torch.device) -> str | None:
    """Return the fastest attention for packs on `device`."""
    return {"cpu": TRIE, "cuda": "flex_attention"}.get(device.type)
