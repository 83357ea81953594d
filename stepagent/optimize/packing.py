"""Train whole trees: many token sequences packed so that every shared prefix is computed once.

Sequences go into a forest of tries over their token ids. A pack holds each trie node once; an ancestor
mask lets a token see exactly what it would see alone, and position ids follow depth, so log-probabilities
equal those of one-sequence-at-a-time forward passes. Logits are computed only where a loss needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stepagent.checkpoints import attention_mask


@dataclass(frozen=True, slots=True)
class Target:
    """A token sequence of which the ids from `start` on carry loss. The first token has no context and can
    carry none: start >= 1."""

    ids: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        if not 1 <= self.start <= len(self.ids):
            raise ValueError(f"a target of {len(self.ids)} tokens cannot start at {self.start}")


Unit = tuple[Target, ...]
"""Targets that one loss term compares and that therefore share a pack: (chosen, rejected), or one row."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A forest as tensors, T tokens and K scored (context, next token) edges.

    input_ids, position_ids: [T]. mask: [T, T], True where row may attend to column. source: [K], the
    position whose logits score the edge; token: [K], the id scored. Edge `member_edge[m]` belongs to
    target `member_target[m]`; targets count through the units in order. units: the units' indices.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    mask: torch.Tensor
    source: torch.Tensor
    token: torch.Tensor
    member_edge: torch.Tensor
    member_target: torch.Tensor
    targets: tuple[Target, ...]
    units: tuple[int, ...]

    def lengths(self) -> torch.Tensor:
        """Scored tokens per target, [targets]."""
        return torch.tensor([len(target.ids) - target.start for target in self.targets])


class _Forest:
    def __init__(self) -> None:
        self.child: dict[tuple[int, int], int] = {}
        self.token: list[int] = []
        self.parent: list[int] = []

    def missing(self, ids: Sequence[int]) -> int:
        """How many nodes inserting `ids` would add."""
        node = -1
        for depth, token in enumerate(ids):
            found = self.child.get((node, token))
            if found is None:
                return len(ids) - depth
            node = found
        return 0

    def insert(self, ids: Sequence[int]) -> list[int]:
        """The node of every id."""
        path = []
        node = -1
        for token in ids:
            key = (node, token)
            if key not in self.child:
                self.child[key] = len(self.token)
                self.token.append(token)
                self.parent.append(node)
            node = self.child[key]
            path.append(node)
        return path


def make_packs(units: Iterable[tuple[int, Unit]], token_budget: int) -> Iterator[Pack]:
    """Pack (index, unit) pairs in the given order, at most `token_budget` tokens a pack.

    Neighbours share what prefix they have in common; a trie that does not fit is split and its prefix
    repeated. A unit that exceeds the budget alone gets a pack of its own.
    """
    forest, members = _Forest(), list[tuple[int, Unit]]()
    for index, unit in units:
        added = sum(forest.missing(target.ids[:-1]) for target in unit)  # an upper bound
        if members and len(forest.token) + added > token_budget:
            yield _pack(forest, members)
            forest, members = _Forest(), []
        members.append((index, unit))
        for target in unit:
            forest.insert(target.ids[:-1])
    if members:
        yield _pack(forest, members)


def _pack(forest: _Forest, members: Sequence[tuple[int, Unit]]) -> Pack:
    edges: dict[tuple[int, int], int] = {}
    member_edge: list[int] = []
    member_target: list[int] = []
    targets = [target for _, unit in members for target in unit]
    for number, target in enumerate(targets):
        path = forest.insert(target.ids[:-1])
        for position in range(target.start, len(target.ids)):
            key = (path[position - 1], target.ids[position])
            member_edge.append(edges.setdefault(key, len(edges)))
            member_target.append(number)
    count = len(forest.token)
    mask = torch.eye(count, dtype=torch.bool)
    depth = [0] * count
    rows = mask.numpy()
    for node, parent in enumerate(forest.parent):
        if parent >= 0:
            rows[node] |= rows[parent]
            depth[node] = depth[parent] + 1
    return Pack(
        input_ids=torch.tensor(forest.token),
        position_ids=torch.tensor(depth),
        mask=mask,
        source=torch.tensor([source for source, _ in edges]),
        token=torch.tensor([token for _, token in edges]),
        member_edge=torch.tensor(member_edge),
        member_target=torch.tensor(member_target),
        targets=tuple(targets),
        units=tuple(index for index, _ in members),
    )


Score = Callable[[Any, Pack], torch.Tensor]
"""(model, pack) -> summed log-probability of every target's scored tokens, [targets], float32 or better."""


def packed_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack in one forward pass; see Score."""
    device = next(model.parameters()).device
    sources, where = torch.unique(pack.source.to(device), return_inverse=True)
    logits = model(
        input_ids=pack.input_ids[None].to(device),
        attention_mask=attention_mask(model, pack.mask[None, None].to(device)),
        position_ids=pack.position_ids[None].to(device),
        use_cache=False,
        logits_to_keep=sources,
    ).logits[0]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logprobs = logits.log_softmax(-1)[where, pack.token.to(device)]
    sums = torch.zeros(len(pack.targets), dtype=logprobs.dtype, device=device)
    edge = pack.member_edge.to(device)
    return sums.index_add(0, pack.member_target.to(device), logprobs[edge])


def plain_logprobs(model: Any, pack: Pack) -> torch.Tensor:
    """Score a pack's targets one by one, each in a forward pass of its own: what packing must equal, and
    the way for models that cannot be packed. See Score."""
    device = next(model.parameters()).device
    sums = []
    for target in pack.targets:
        ids = torch.tensor([target.ids], device=device)
        kept = len(target.ids) - target.start + 1
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits[0, :-1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        following = ids[0, target.start :, None]
        sums.append(logits.log_softmax(-1).gather(1, following).sum())
    return torch.stack(sums)


@torch.no_grad()
def pick_score(model: Any, units: Sequence[Unit], token_budget: int) -> tuple[Score, str]:
    """Packed scoring if it gives this model's plain log-probabilities on a few of its own units, else plain
    scoring and the sentence that says why.

    Sliding windows that the units outgrow, recurrent layers, or positions that are not read from
    position_ids make a model unsuited; measured, no list of model types can go stale.
    """
    layers = set(getattr(model.config, "layer_types", None) or ())
    window = getattr(model.config, "sliding_window", None) if "sliding_attention" in layers else None
    longest = max(len(target.ids) for unit in units for target in unit)
    if window and longest > window:
        return plain_logprobs, f"sequences of {longest} tokens outgrow the model's sliding window of {window}"
    training = model.training
    model.eval()
    few = sorted(units, key=lambda unit: unit[0].ids)[:4]
    pack = next(make_packs(enumerate(few), token_budget))
    try:
        gap = (packed_logprobs(model, pack) - plain_logprobs(model, pack)).abs() / pack.lengths().to(
            next(model.parameters()).device
        )
        why = "" if gap.max() < 0.05 else f"packed log-probabilities are off by {gap.max():.2g} a token"
    except (TypeError, ValueError, RuntimeError) as error:
        why = f"the model takes no packed input ({str(error).partition(chr(10))[0][:80]})"
    model.train(training)
    return (plain_logprobs if why else packed_logprobs), why
