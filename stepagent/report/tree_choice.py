"""The trees that go into a report: as many as its size allows, chosen so that every filter has some to show."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest

from stepagent.report.tree_facts import FILTERS, TreeFacts, groups_of


def reading_order(facts: Sequence[TreeFacts], seed: int = 0) -> Iterator[list[TreeFacts]]:
    """Return all problems, each with its trees, in the order in which a report takes them: one of each filter and
    file in turn, then the others. Within a filter it is the lowest margin, the longest, else a seeded draw."""
    rng = random.Random(seed)
    shuffled = list(facts)
    rng.shuffle(shuffled)
    lines: list[list[TreeFacts]] = []
    for name in FILTERS:
        by_file: dict[int, list[TreeFacts]] = {}
        for tree in shuffled:
            if name in tree.flags:
                by_file.setdefault(tree.file, []).append(tree)
        lines += [_first_to_read(name, trees) for _, trees in sorted(by_file.items())]
    groups = groups_of(facts)
    problems: set[tuple[str, str]] = set()
    turns = chain(chain.from_iterable(zip_longest(*lines)), shuffled)
    for tree in turns:
        if tree is not None and tree.problem not in problems:
            problems.add(tree.problem)
            yield groups[tree.problem]


def _first_to_read(name: str, trees: list[TreeFacts]) -> list[TreeFacts]:
    if name == "low_margin":
        return sorted(trees, key=lambda tree: tree.margin or 0.5)
    if name == "longest":
        return sorted(trees, key=lambda tree: -tree.length)
    return trees
