"""Score a pack's targets by their log-probabilities: all in one forward pass, path by path, or one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

from stepagent.models.head import token_logprobs
from stepagent.training.attention import mask_arguments, padding
from stepagent.training.packing import Pack, Target, Unit, make_packs

Score = Callable[[Any, Pack], torch.Tensor]
"""(model, pack) -> summed log-probability of every target's scored tokens, [targets], float32 or better."""


class Scoring(NamedTuple):
    """The way in which a model's units are scored: by `score`, in packs of `token_budget` tokens. `unsuited`
    is the reason why they are scored without packing, empty if they are packed. `gap` is the distance from plain
    log-probabilities (nats a token), `gradient_gap` that of their gradients (part of the norm)."""

    score: Score
    token_budget: int
    unsuited: str = ""
    gap: float = 0.0
    gradient_gap: float = 0.0

    @property
    def by_paths(self) -> bool:
        """Whether each path from a root to a leaf is scored by itself."""
        return self.score is path_logprobs

    @property
    def way(self) -> str:
        """The way in words, with the reason."""
        if not self.unsuited:
            return "packed trees"
        return f"{'path by path' if self.by_paths else 'one target at a time'}: {self.unsuited}"

    def tokens(self, pack: Pack) -> int:
        """Return the number of tokens that the forward passes over a pack compute."""
        if self.by_paths:
            return sum(map(len, pack.paths()))
        return len(pack.input_ids) if not self.unsuited else sum(len(target.ids) - 1 for target in pack.targets)

    def packs(self, units: Iterable[tuple[int, Unit]]) -> Iterator[Pack]:
        """Yield the packs of (index, unit) pairs, as `make_packs` does."""
        return make_packs(units, self.token_budget, by_paths=self.by_paths)


def packed_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack in one forward pass; arguments and result as in Score."""
    return _sums(pack, packed_token_logprobs(model, pack))


def packed_token_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Return the log-probabilities (nats) of all scored tokens of a pack, target by target, from one forward pass."""
    device = _device(model)
    pack = pack.padded(padding(model))
    logprobs = token_logprobs(
        model,
        pack.source.to(device),
        pack.token.to(device),
        input_ids=pack.input_ids[None].to(device),
        position_ids=pack.position_ids[None].to(device),
        **mask_arguments(model, pack, device),
    )
    return logprobs[pack.member_edge.to(device)]


def path_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack path by path; arguments and result as in Score."""
    return _sums(pack, path_token_logprobs(model, pack))


def path_token_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Return the log-probabilities (nats) of all scored tokens of a pack, target by target. Each path from a root to a
    leaf is a sequence in a forward pass of its own, and scores every target that ends on it: in a tree, the chosen
    steps of all levels are one path."""
    device = _device(model)
    pending = torch.ones(len(pack.source), dtype=torch.bool)
    edges, logprobs = [], []
    for path in pack.paths():
        place = torch.full((len(pack.input_ids),), -1)
        place[path] = torch.arange(len(path))
        scored = (pending & (place[pack.source] >= 0)).nonzero().flatten()
        pending[scored] = False
        sources, tokens = place[pack.source[scored]].to(device), pack.token[scored].to(device)
        edges.append(scored)
        logprobs.append(token_logprobs(model, sources, tokens, input_ids=pack.input_ids[path][None].to(device)))
    return torch.cat(logprobs)[torch.cat(edges).argsort().to(device)][pack.member_edge.to(device)]


def plain_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack's targets one by one, each in a forward pass of its own. Packed scores must equal these,
    and models that cannot be packed are scored so. Arguments and result as in Score."""
    return torch.stack([plain_token_logprobs(model, target).sum() for target in pack.targets])


def full_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score as `plain_logprobs` does, a model whose head cannot be run apart from the rest."""
    return torch.stack([plain_token_logprobs(model, target, full=True).sum() for target in pack.targets])


def plain_token_logprobs(model: Any, target: Target, *, full: bool = False) -> torch.Tensor:
    """Return the log-probabilities (nats) of a target's scored tokens from a forward pass of its own. `full`: by the
    logits of all tokens at once, which every model computes right."""
    device = _device(model)
    ids = torch.tensor([target.ids], device=device)
    sources, tokens = torch.arange(target.start - 1, len(target.ids) - 1, device=device), ids[0, target.start :]
    if not full:
        return token_logprobs(model, sources, tokens, input_ids=ids)
    logits = model(input_ids=ids, use_cache=False).logits[0, sources]
    logprobs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    scored: torch.Tensor = logprobs.gather(1, tokens[:, None])[:, 0]
    return scored


def plain_scoring(unsuited: str, score: Score = plain_logprobs) -> Scoring:
    """Return the scoring one by one, for the reason `unsuited`."""
    return Scoring(score, 1, unsuited)  # a unit a pack: one pair's activations at a time


def _sums(pack: Pack, logprobs: torch.Tensor) -> torch.Tensor:
    """Return the sum for every target, [targets], of log-probabilities that stand target by target."""
    sums = torch.zeros(len(pack.targets), dtype=logprobs.dtype, device=logprobs.device)
    return sums.index_add(0, pack.member_target.to(logprobs.device), logprobs)


def _device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device
