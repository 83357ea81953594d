"""Counts over all trees of a folder, and the facts of each tree by which it is listed and filtered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from stepagent.graders.marking import mark
from stepagent.judges.measuring import JudgeCounts, measure
from stepagent.preferences import PAIR, level_outcome
from stepagent.report.folder import TreeFile
from stepagent.report.reading import Gaps, trees
from stepagent.report.references import References
from stepagent.tree import Level, StepTree, joined_text
from stepagent.types import Usage

LOW_MARGIN = 0.75
FILTERS = {
    "wrong": "wrong answer",
    "disagree": "positions disagree",
    "no_signal": "no signal",
    "rolled_back": "rolled back",
    "low_margin": f"margin below {LOW_MARGIN}",
    "longest": "longest",
    "failed": "failed",
    "changed": "changed between models",
}
"""The filters of a list of trees, with the words of their buttons."""

LONGEST = 0.05
"""The share of the trees that the filter "longest" lists."""


@dataclass(slots=True)
class TreeFacts:
    """The facts of one tree. `file` and `position` say where its line begins; `right`: its solution ends at the
    reference, None without one; `length`: characters of its solution; `margin`: the lowest of its pairs."""

    file: int
    position: int
    problem: tuple[str, str]
    status: str
    right: bool | None
    length: int
    margin: float | None
    solution: int
    flags: set[str] = field(default_factory=set)


@dataclass(slots=True)
class TreeCounts:
    """The sums over the trees of one file. `judged_usage` is the judge's part of `usage`. `outcomes` are the fates of
    levels, `steps` and `tokens` those of solutions that ended."""

    trees: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    judging: JudgeCounts = field(default_factory=JudgeCounts)
    usage: Usage = field(default_factory=Usage)
    judged_usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    margins: list[float] = field(default_factory=list)
    lengths: Counter[int] = field(default_factory=Counter)
    tokens: int = 0
    right: int = 0
    referenced: int = 0

    @property
    def levels(self) -> int:
        """The number of levels."""
        return self.outcomes.total()

    @property
    def pairs(self) -> int:
        """The number of levels that make a pair."""
        return self.outcomes[PAIR]


def tree_judging(tree: StepTree) -> JudgeCounts:
    """Return the counts of the judge's votes on a tree's levels."""
    verdicts = [(level.verdict, level.judged) for level in tree.levels if level.verdict is not None]
    counts = (measure(verdict, [tree.step(node) for node in judged]) for verdict, judged in verdicts)
    return sum(counts, JudgeCounts())


def tree_flags(tree: StepTree, judging: JudgeCounts) -> set[str]:
    """Return the filters that a tree passes by itself: all but those that compare it with a reference or with other
    trees. `judging` are the counts of its votes."""
    flags = {"failed"} if tree.status == "failed" else set()
    if judging.agreed < judging.pairs:
        flags.add("disagree")
    if tree.rollbacks:
        flags.add("rolled_back")
    for level in tree.levels:
        outcome = level_outcome(level)
        if outcome == "no signal":
            flags.add("no_signal")
        if outcome == PAIR and _margin(level) < LOW_MARGIN:
            flags.add("low_margin")
    return flags


def _margin(level: Level) -> float:
    return level.verdict.margin or 0.5 if level.verdict else 0.5


def solution_is_right(tree: StepTree, references: References) -> bool | None:
    """Return whether a tree's solution is right; None without a reference or a grader, and where the grader fails."""
    reference = references.answers.get(tree.problem.question)
    if reference is None or references.grader is None:
        return None
    if tree.status != "ended":
        return False
    return mark(references.grader, tree.problem, joined_text(tree.solution()), reference=reference).right


def count_trees(
    files: Sequence[TreeFile], references: References, gaps: Gaps, *, facts_too: bool = True
) -> tuple[list[TreeCounts], list[TreeFacts]]:
    """Read every tree once. Returns the counts of each file, and the facts of every tree that is browsed, unless they
    are not wanted."""
    counts = [TreeCounts() for _ in files]
    facts: list[TreeFacts] = []
    for number, file in enumerate(files):
        for position, tree in trees(file.path, gaps):
            judging = tree_judging(tree)
            tree_facts = facts_of(tree, (number, position), references, judging=judging)
            _add(counts[number], tree, judging, right=tree_facts.right)
            if file.browsed and facts_too:
                facts.append(tree_facts)
    _flag_longest(facts)
    _flag_changed(facts)
    return counts, facts


def _add(counts: TreeCounts, tree: StepTree, judging: JudgeCounts, *, right: bool | None) -> None:
    counts.trees += 1
    counts.ends[tree.status] += 1
    counts.usage += tree.usage
    counts.judged_usage += sum((level.verdict.usage for level in tree.levels if level.verdict), Usage())
    counts.seconds += tree.seconds
    counts.judging += judging
    counts.referenced += right is not None
    counts.right += right is True
    for level in tree.levels:
        outcome = level_outcome(level)
        counts.outcomes[outcome] += 1
        if outcome == PAIR:
            counts.margins.append(_margin(level))
    if tree.status == "ended":
        counts.lengths[len(tree.path)] += 1
        counts.tokens += sum(len(step.token_ids or ()) for step in tree.solution())


def facts_of(
    tree: StepTree, place: tuple[int, int], references: References, *, judging: JudgeCounts | None = None
) -> TreeFacts:
    """Return the facts of one tree, in the `place` (number of its file, position); `judging` are the counts of its
    votes, if they are known."""
    right = solution_is_right(tree, references)
    flags = tree_flags(tree, tree_judging(tree) if judging is None else judging)
    solution = joined_text(tree.solution())
    return TreeFacts(
        file=place[0],
        position=place[1],
        problem=(tree.problem.id, tree.problem.question),
        status=tree.status,
        right=right,
        length=len(solution),
        margin=min((_margin(level) for level in tree.levels if level_outcome(level) == PAIR), default=None),
        solution=hash(solution),
        flags=flags | ({"wrong"} if right is False else set()),
    )


def _flag_longest(facts: Sequence[TreeFacts]) -> None:
    """Flag the longest solutions; where most are of one length there are none."""
    lengths = sorted((tree.length for tree in facts if tree.length), reverse=True)
    threshold = lengths[math.ceil(LONGEST * len(lengths)) - 1] if lengths else 0
    for tree in facts:
        if lengths and tree.length >= threshold > lengths[len(lengths) // 2]:
            tree.flags.add("longest")


def _flag_changed(facts: Sequence[TreeFacts]) -> None:
    """Flag the trees of a problem that one model solves and another does not; without references, those whose
    solutions differ."""
    for group in groups_of(facts).values():
        outcomes = {tree.right if tree.right is not None else tree.solution for tree in group}
        if len(outcomes) > 1:
            for tree in group:
                tree.flags.add("changed")


def groups_of(facts: Sequence[TreeFacts]) -> dict[tuple[str, str], list[TreeFacts]]:
    """Return the trees of each problem."""
    groups: dict[tuple[str, str], list[TreeFacts]] = {}
    for tree in facts:
        groups.setdefault(tree.problem, []).append(tree)
    return groups
