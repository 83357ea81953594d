"""The step tree of one problem: a flat list of nodes with parent indices, one JSONL line on disk."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from stepagent.types import Candidate, Problem, Step, Usage, Verdict

TreeStatus = Literal["ended", "no_signal", "max_iterations", "failed"]
"""ended: the path's last step ends the solution. no_signal: the roll-backs are used up.
max_iterations: the loop's turns are used up. failed: a request failed for good; `error` says which. In
a tree that did not fail, `error` is the reason why a solution had no vote."""


def joined_ids(steps: Iterable[Step]) -> tuple[int, ...] | None:
    """Return the token ids of the steps and of the thoughts before them, one after the other; None if one of them is
    not known by its ids."""
    joined: tuple[int, ...] = ()
    for step in steps:
        if step.token_ids is None or step.thought_ids is None:
            return None
        joined += step.thought_ids + step.token_ids
    return joined


def joined_text(steps: Iterable[Step]) -> str:
    """Return the steps' texts one after the other, without thoughts before them."""
    return "".join(step.text for step in steps)


def context_text(steps: Iterable[Step]) -> str:
    """Return the text that a model has written once it has written the steps: their thoughts, too."""
    return "".join(step.thought + step.text for step in steps)


@dataclass(frozen=True, slots=True)
class Node:
    """One candidate in the tree. `parent` is a node index; None means that it continues the question."""

    parent: int | None
    candidate: Candidate


@dataclass(slots=True)
class Level:
    """The sibling candidates of one prefix (node indices) and their fate.

    `judged` are the nodes the verdict's indices refer to; flawed candidates are never among them.
    A level without a verdict had fewer than two sound candidates. `chosen` is the node the path
    went on with. `abandoned` levels were rolled back and make no pair.
    """

    parent: int | None
    nodes: tuple[int, ...]
    judged: tuple[int, ...] = ()
    verdict: Verdict | None = None
    chosen: int | None = None
    abandoned: bool = False


@dataclass(slots=True)
class StepTree:
    """A search's record of one problem. `path` lists the surviving nodes from the first step on; `judging`
    are the counts of `judges.measuring` over its levels."""

    problem: Problem
    status: TreeStatus = "max_iterations"
    path: list[int] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    rollbacks: int = 0
    context_text: str = ""
    context_ids: tuple[int, ...] | None = None
    tokenizer_sha256: str | None = None
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    error: str = ""
    round: int = 0
    generator: str = ""
    judge: str = ""
    judging: dict[str, float] = field(default_factory=dict)
    schema: Literal["stepagent/step-tree/1"] = "stepagent/step-tree/1"

    def add(self, parent: int | None, candidates: tuple[Candidate, ...]) -> Level:
        """Append sibling candidates under `parent`; returns their level."""
        first = len(self.nodes)
        self.nodes += [Node(parent, candidate) for candidate in candidates]
        level = Level(parent, tuple(range(first, len(self.nodes))))
        self.levels.append(level)
        return level

    def step(self, node: int) -> Step:
        """Return a node's step."""
        return self.nodes[node].candidate.step

    def path_to(self, node: int | None) -> list[int]:
        """Return the nodes from the first step down to `node` (included)."""
        nodes: list[int] = []
        while node is not None:
            nodes.append(node)
            node = self.nodes[node].parent
        return nodes[::-1]

    def prefix(self, node: int | None) -> tuple[Step, ...]:
        """Return the steps from the first one down to `node` (included)."""
        return tuple(self.step(step_node) for step_node in self.path_to(node))

    def level_of(self, node: int) -> Level:
        """Return the level that `node` is a candidate of."""
        levels = [level for level in self.levels if level.nodes]  # a generator may have proposed nothing
        return levels[bisect_right([level.nodes[0] for level in levels], node) - 1]

    def solution(self) -> tuple[Step, ...]:
        """Return the surviving path's steps."""
        return tuple(self.step(node) for node in self.path)

    def surviving_levels(self) -> Iterator[Level]:
        """Return the level each step of the path was chosen in, in order; abandoned ones are not among them."""
        for node in self.path:
            yield self.level_of(node)
