"""Train whole trees: many token sequences packed so that every shared prefix is computed once.

Sequences go into a forest of tries over their token ids. A pack holds each trie node once; an ancestor
mask lets a token see exactly what it would see alone, and position ids follow depth, so log-probabilities
equal those of one-sequence-at-a-time forward passes. Logits are computed only where a loss needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch


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

    The nodes stand in preorder, longest branches first. input_ids, position_ids: [T]. end: [T], the
    position after the node's last descendant. source: [K], the position whose logits
    score the edge; token: [K], the id scored. Edge `member_edge[m]` belongs to target
    `member_target[m]`; targets count through the units in order. units: the units' indices.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    end: torch.Tensor
    source: torch.Tensor
    token: torch.Tensor
    member_edge: torch.Tensor
    member_target: torch.Tensor
    targets: tuple[Target, ...]
    units: tuple[int, ...]

    @property
    def mask(self) -> torch.Tensor:
        """[T, T], True where row is column or descends from it, and so may attend to it."""
        at = torch.arange(len(self.end))
        return (at[None] <= at[:, None]) & (at[:, None] < self.end[None])

    def padded(self, multiple: int) -> Pack:
        """The same pack filled up to a multiple of tokens with roots of their own, which nothing sees."""
        length = len(self.input_ids)
        more = -length % multiple
        if not more:
            return self
        zeros = torch.zeros(more, dtype=self.input_ids.dtype)
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, zeros]),
            position_ids=torch.cat([self.position_ids, zeros]),
            end=torch.cat([self.end, torch.arange(length, length + more) + 1]),
        )

    def lengths(self) -> torch.Tensor:
        """Scored tokens per target, [targets]."""
        return torch.tensor([len(target.ids) - target.start for target in self.targets])


class _Member(NamedTuple):
    """A unit in a forest: its targets' nodes, how many tokens it shares with units before it, and the
    forest's size with it."""

    number: int
    unit: Unit
    paths: list[list[int]]
    shared: int
    size: int


class _Forest:
    def __init__(self, units: Iterable[tuple[int, Unit]] = ()) -> None:
        self.child: dict[tuple[int, int], int] = {}
        self.token: list[int] = []
        self.parent: list[int] = []
        self.members: list[_Member] = []
        self._recent: list[tuple[Sequence[int], list[int]]] = []
        for number, unit in units:
            self.add(number, unit)

    def add(self, number: int, unit: Unit) -> None:
        shared = max(len(self.known(target.ids[:-1])) for target in unit)
        paths = [self._insert(target.ids[:-1]) for target in unit]
        self._recent = [(target.ids[:-1], path) for target, path in zip(unit, paths, strict=True)]
        self.members.append(_Member(number, unit, paths, shared, len(self.token)))

    def known(self, ids: Sequence[int]) -> list[int]:
        """The nodes of the longest prefix that is there already."""
        near = ((common_prefix(ids, others), nodes) for others, nodes in self._recent)
        depth, nodes = max(near, key=lambda found: found[0], default=(0, []))
        path = nodes[:depth]
        while len(path) < len(ids):
            node = self.child.get((path[-1] if path else -1, ids[len(path)]))
            if node is None:
                break
            path.append(node)
        return path

    def _insert(self, ids: Sequence[int]) -> list[int]:
        path = self.known(ids)
        for token in ids[len(path) :]:
            node = len(self.token)
            parent = path[-1] if path else -1
            self.child[parent, token] = node
            self.token.append(token)
            self.parent.append(parent)
            path.append(node)
        return path

    def preorder(self) -> tuple[list[int], list[int]]:
        """Per node its place in preorder, longest branches first, and its subtree's size."""
        size = [1] * len(self.parent)
        children: dict[int, list[int]] = {}
        for node in reversed(range(len(self.parent))):
            parent = self.parent[node]
            children.setdefault(parent, []).append(node)
            if parent >= 0:
                size[parent] += size[node]
        place = [0] * len(self.parent)
        for parent, born in sorted(children.items()):
            free = place[parent] + 1 if parent >= 0 else 0
            for node in sorted(born, key=lambda child: (-size[child], child)):
                place[node] = free
                free += size[node]
        return place, size


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the longest common prefix: a few slice comparisons instead of a walk."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def make_packs(units: Iterable[tuple[int, Unit]], token_budget: int) -> Iterator[Pack]:
    """Pack (index, unit) pairs in the given order, at most `token_budget` tokens a pack.

    Neighbours share what prefix they have in common. Where the budget is spent, the cut goes where the
    least prefix has to be repeated, in the pack's second half: between two tries if there is such a place.
    A unit that exceeds the budget alone gets a pack of its own.
    """
    forest = _Forest()
    for number, unit in units:
        while forest.members:
            known = [len(forest.known(target.ids[:-1])) for target in unit]
            added = sum(len(target.ids) - 1 - k for target, k in zip(unit, known, strict=True))
            if len(forest.token) + added <= token_budget:
                break
            members = forest.members
            repeated = [*(member.shared for member in members[1:]), max(known)]
            late = [i for i, member in enumerate(members) if member.size * 2 >= token_budget]
            cut = 1 + min(late or [len(members) - 1], key=lambda i: (repeated[i], -i))
            yield _pack(forest if cut == len(members) else _Forest(m[:2] for m in members[:cut]))
            forest = _Forest(m[:2] for m in members[cut:])
        forest.add(number, unit)
    if forest.members:
        yield _pack(forest)


def _pack(forest: _Forest) -> Pack:
    members = forest.members
    place, size = forest.preorder()
    tokens, ends, depths = ([0] * len(place) for _ in range(3))
    for node, at in enumerate(place):
        parent = forest.parent[node]  # which was made before the node
        tokens[at] = forest.token[node]
        ends[at] = at + size[node]
        depths[at] = depths[place[parent]] + 1 if parent >= 0 else 0
    edges: dict[tuple[int, int], int] = {}
    member_edge: list[int] = []
    member_target: list[int] = []
    targets = [target for member in members for target in member.unit]
    paths = [path for member in members for path in member.paths]
    for number, (target, path) in enumerate(zip(targets, paths, strict=True)):
        for position in range(target.start, len(target.ids)):
            key = (place[path[position - 1]], target.ids[position])
            member_edge.append(edges.setdefault(key, len(edges)))
            member_target.append(number)
    return Pack(
        input_ids=torch.tensor(tokens),
        position_ids=torch.tensor(depths),
        end=torch.tensor(ends),
        source=torch.tensor([source for source, _ in edges]),
        token=torch.tensor([token for _, token in edges]),
        member_edge=torch.tensor(member_edge),
        member_target=torch.tensor(member_target),
        targets=tuple(targets),
        units=tuple(member.number for member in members),
    )
