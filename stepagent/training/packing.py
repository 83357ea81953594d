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
    """A token sequence whose ids from `start` on carry loss. The first token has no context and can carry
    none, so start >= 1. Raises ValueError for any other `start`."""

    ids: tuple[int, ...]
    start: int

    def __post_init__(self) -> None:
        if not 1 <= self.start <= len(self.ids):
            raise ValueError(f"a target of {len(self.ids)} tokens cannot start at {self.start}")


Unit = tuple[Target, ...]
"""Targets that one loss term compares and that therefore share a pack: (chosen, rejected), or one row."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A forest as tensors: T tokens (trie nodes) and K scored edges (context, next token).

    The nodes stand in preorder, largest subtrees first.

    input_ids      [T]
    position_ids   [T] the nodes' depths
    end            [T] the position after the node's last descendant
    source         [K] the position whose logits score the edge
    token          [K] the id that is scored
    member_edge    [M] an edge for every scored token of every target
    member_target  [M] the target that this token belongs to; targets count through the units in order
    targets        the targets of all units, in order
    units          the units' indices
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
        """The mask [T, T], True where row is column or descends from it, and so may attend to it."""
        positions = torch.arange(len(self.end))
        return (positions[None] <= positions[:, None]) & (positions[:, None] < self.end[None])

    def padded(self, multiple: int) -> Pack:
        """Return the pack filled up to a multiple of tokens with roots of their own, which no token sees."""
        length = len(self.input_ids)
        fill = -length % multiple
        if not fill:
            return self
        zeros = torch.zeros(fill, dtype=self.input_ids.dtype)
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, zeros]),
            position_ids=torch.cat([self.position_ids, zeros]),
            end=torch.cat([self.end, torch.arange(length, length + fill) + 1]),
        )

    def paths(self) -> Iterator[torch.Tensor]:
        """Yield the positions of each path from a root to a leaf, [path tokens]."""
        positions = torch.arange(len(self.end))
        for leaf in (self.end == positions + 1).nonzero().flatten().tolist():
            yield positions[: leaf + 1][self.end[: leaf + 1] > leaf]

    def lengths(self) -> torch.Tensor:
        """Return the number of scored tokens per target, [targets]."""
        return torch.tensor([len(target.ids) - target.start for target in self.targets])


class _Member(NamedTuple):
    """A unit in a forest: its index, the nodes of each target, the longest prefix (tokens) that one of its
    targets shares with earlier units, and the forest's size (tokens) once it is in."""

    number: int
    unit: Unit
    paths: list[list[int]]
    prefix: int
    size: int


class _Forest:
    """A forest of tries over token ids. A node's parent has a smaller number; -1 stands for no parent.

    `size` is the number of tokens that a forward pass computes: the nodes, or with `by_paths` those of every path
    from a root to a leaf.
    """

    def __init__(self, units: Iterable[tuple[int, Unit]] = (), *, by_paths: bool = False) -> None:
        self.child: dict[tuple[int, int], int] = {}
        self.token: list[int] = []
        self.parent: list[int] = []
        self.members: list[_Member] = []
        self.size = 0
        self._by_paths = by_paths
        self._leaves: set[int] = set()
        self._last_paths: list[tuple[Sequence[int], list[int]]] = []
        for number, unit in units:
            self.add(number, unit)

    def add(self, number: int, unit: Unit) -> None:
        """Put a unit into the forest. A target's last id is only scored, never read, so it gets no node."""
        prefix = max(len(self.prefix_path(target.ids[:-1])) for target in unit)
        paths = [self._insert(target.ids[:-1]) for target in unit]
        self._last_paths = [(target.ids[:-1], path) for target, path in zip(unit, paths, strict=True)]
        self.members.append(_Member(number, unit, paths, prefix=prefix, size=self.size))

    def growth(self, unit: Unit) -> int:
        """Return by how many tokens a unit makes the forest larger at most: tokens that its targets share with each
        other alone are counted for each of them."""
        return sum(self._cost(target.ids[:-1], self.prefix_path(target.ids[:-1])) for target in unit)

    def _cost(self, ids: Sequence[int], path: Sequence[int]) -> int:
        """Return the tokens that `ids` adds to the size; `path` is the part of it that is in the forest."""
        growth = len(ids) - len(path)
        # By paths, a branch repeats the tokens from the root; what goes on from a leaf makes its path longer.
        return len(ids) if self._by_paths and growth and path and path[-1] not in self._leaves else growth

    def prefix_path(self, ids: Sequence[int]) -> list[int]:
        """Return the nodes of the longest prefix of `ids` that the forest holds."""
        # Units come sorted, so the unit before shares most of the prefix: comparing slices with its ids
        # finds the path at once, where a walk from the root would look up every token.
        matches = ((common_prefix(ids, prefix), nodes) for prefix, nodes in self._last_paths)
        depth, nodes = max(matches, key=lambda match: match[0], default=(0, []))
        path = nodes[:depth]
        # The walk goes on from there, since an older unit may share more than the last one.
        while len(path) < len(ids):
            node = self.child.get((path[-1] if path else -1, ids[len(path)]))
            if node is None:
                break
            path.append(node)
        return path

    def _insert(self, ids: Sequence[int]) -> list[int]:
        path = self.prefix_path(ids)
        self.size += self._cost(ids, path)
        if path and len(path) < len(ids):
            self._leaves.discard(path[-1])
        for token in ids[len(path) :]:
            node = len(self.token)
            parent = path[-1] if path else -1
            self.child[parent, token] = node
            self.token.append(token)
            self.parent.append(parent)
            path.append(node)
        if path and path[-1] == len(self.token) - 1:
            self._leaves.add(path[-1])
        return path

    def preorder(self) -> tuple[list[int], list[int]]:
        """Return every node's place in preorder, largest subtrees first, and its subtree's size."""
        size = [1] * len(self.parent)
        children: dict[int, list[int]] = {}
        for node in reversed(range(len(self.parent))):
            parent = self.parent[node]
            children.setdefault(parent, []).append(node)
            if parent >= 0:
                size[parent] += size[node]
        place = [0] * len(self.parent)
        for parent, siblings in sorted(children.items()):  # a parent has its place before its children
            position = place[parent] + 1 if parent >= 0 else 0
            for node in sorted(siblings, key=lambda child: (-size[child], child)):
                place[node] = position
                position += size[node]
        return place, size


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common prefix, by bisection: a few slice comparisons, no walk."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def make_packs(units: Iterable[tuple[int, Unit]], token_budget: int, *, by_paths: bool = False) -> Iterator[Pack]:
    """Pack (index, unit) pairs in the given order, at most `token_budget` tokens a pack; with `by_paths` a token counts
    in every path from a root to a leaf.

    Neighbours share their common prefix, so sort the units by their ids. When the budget is spent, the cut
    goes, within the pack's second half, where the shortest prefix has to be repeated in the next pack:
    between two tries if there is such a place. A unit that exceeds the budget alone gets a pack of its own.
    """
    forest = _Forest(by_paths=by_paths)
    for number, unit in units:
        # Members behind the cut begin the next pack, and they may fill it alone: hence a loop.
        while forest.members and forest.size + forest.growth(unit) > token_budget:
            members = forest.members
            # A cut after member i makes the next pack compute again the prefix that member i + 1 shares.
            prefix = max(len(forest.prefix_path(target.ids[:-1])) for target in unit)
            repeats = [*(member.prefix for member in members[1:]), prefix]
            # A cut in the first half would repeat little, but leave packs mostly empty and make more of them.
            cuts = [i for i, member in enumerate(members) if member.size * 2 >= token_budget]
            cut = 1 + min(cuts or [len(members) - 1], key=lambda i: (repeats[i], -i))
            whole = cut == len(members)
            yield _pack(forest if whole else _Forest((m[:2] for m in members[:cut]), by_paths=by_paths))
            forest = _Forest((m[:2] for m in members[cut:]), by_paths=by_paths)
        forest.add(number, unit)
    if forest.members:
        yield _pack(forest)


def _pack(forest: _Forest) -> Pack:
    members = forest.members
    place, size = forest.preorder()
    tokens, ends, depths = ([0] * len(place) for _ in range(3))
    # Nodes are visited in the order of their making, so a parent's depth is there before its children's.
    for node, position in enumerate(place):
        parent = forest.parent[node]
        tokens[position] = forest.token[node]
        ends[position] = position + size[node]
        depths[position] = depths[place[parent]] + 1 if parent >= 0 else 0
    edges: dict[tuple[int, int], int] = {}
    member_edge: list[int] = []
    member_target: list[int] = []
    targets = [target for member in members for target in member.unit]
    paths = [path for member in members for path in member.paths]
    # Several targets may score the same next token after the same context (a best step that is paired with
    # three losers): the edge is scored once, and its log-probability is added to each of these targets.
    for number, (target, path) in enumerate(zip(targets, paths, strict=True)):
        for position in range(target.start, len(target.ids)):
            # A causal model predicts a token at the position before it.
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
