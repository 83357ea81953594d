"""Stage: problems -> trees.jsonl -> preferences.jsonl."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stepagent.assembly.components import Components
from stepagent.config.settings import Config
from stepagent.console import bar, console, table
from stepagent.errors import BackendError
from stepagent.files.jsonl import write_rows
from stepagent.files.trees_tmp import TreeFile
from stepagent.interfaces import SearchStrategy
from stepagent.judges.measuring import JudgeCounts, measure
from stepagent.preferences import PAIR, level_outcome, tree_preferences
from stepagent.search.runner import search_all
from stepagent.tree import StepTree
from stepagent.types import Problem, StepPreference, Usage

Search = Callable[..., Coroutine[Any, Any, None]]
"""`search_all`, or what stands for it on several machines."""

_IN_A_ROW = 16  # failures without a success between them, after which the cause is not the problems


@contextmanager
def searched(
    components: Components,
    strategy: SearchStrategy,
    problems: Iterable[Problem],
    count: int,
    trees: Path,
    config: Config,
    round_index: int,
    label: str,
    search: Search = search_all,
) -> Iterator[TreeFile]:
    """Search those of `count` problems that `trees` does not hold yet, appending a line as each tree
    finishes; gives all trees.

    What a killed run had finished is kept; a torn last line and failed trees are searched again. Raises
    BackendError once 16 problems in a row, or all, have failed: then the cause is not the problems.
    """
    steps = in_a_row = 0
    with TreeFile(trees) as file:
        _say_most(components, strategy, count - file.found)
        with bar(label, count) as progress:
            progress.advance(file.found)

            def finished(place: int, tree: StepTree) -> None:
                nonlocal steps, in_a_row
                tree.round = round_index
                tree.generator = config.generator.kind
                tree.judge = config.judge.kind
                tree.judging = asdict(tree_counts(tree))
                file.append(place, tree)
                steps += len(tree.path)
                progress.advance(note=f"{steps} steps, {components.resources.budget.note()}")
                in_a_row = in_a_row + 1 if tree.status == "failed" else 0
                if in_a_row == min(count, _IN_A_ROW):
                    raise BackendError(
                        f"{in_a_row} problems in a row failed, the last with: {tree.error}; what is "
                        "finished is kept, and the same command continues"
                    )

            left = ((place, problem.without_answer()) for place, problem in file.left(problems))
            work = search(strategy, left, config.seed, config.concurrency, finished)
            components.resources.run(work)
        yield file


def _say_most(components: Components, strategy: SearchStrategy, problems: int) -> None:
    """What endpoints may have to sample, before they are asked."""
    most: dict[str, Usage] = getattr(strategy, "most", dict)()
    if not components.resources.asks_endpoints or not most or problems < 1:
        return
    total = sum(most.values(), Usage())
    said = f"at most {problems * total.requests:,} requests and {problems * total.completion_tokens:,} tokens"
    budget = components.resources.budget
    cost = problems * sum(budget.price(model, usage) for model, usage in most.items())
    price = f", cost {cost:.4g}" if cost else ""
    said += f" sampled for {problems} problems{price}; prompts come on top"
    console.print(said, highlight=False, soft_wrap=True)


def search_stage(
    components: Components,
    problems: Iterable[Problem],
    count: int,
    trees: Path,
    preferences: Path,
    config: Config,
    round_index: int,
    search: Search = search_all,
) -> dict[str, object]:
    """Search `count` problems, write both files, print what became of every level. Returns the counts."""
    start = time.monotonic()
    resources = components.resources
    cached = resources.run(components.prefix_cache())
    label = f"search, round {round_index}"
    counts = SearchCounts()
    with searched(
        components, components.strategy, problems, count, trees, config, round_index, label, search
    ) as found:
        write_rows(preferences, counts.watch(found))
    report = counts.figures(time.monotonic() - start)
    if share := _hit_rate(cached, resources.run(components.prefix_cache())):
        report["prompt tokens from the servers' prefix cache"] = share
    if replayed := resources.replayed():
        report["requests answered by the store"] = replayed
    if config.prices:
        report["cost of the run so far"] = resources.budget.money
    table(f"Search, round {round_index}", report)
    return report


def _hit_rate(before: tuple[float, float] | None, after: tuple[float, float] | None) -> str | None:
    if before is None or after is None or after[1] <= before[1] or after[0] < before[0]:
        return None
    return f"{(after[0] - before[0]) / (after[1] - before[1]):.1%}"


def tree_counts(tree: StepTree) -> JudgeCounts:
    """What the judge did on a tree's levels."""
    counts = [
        measure(level.verdict, [tree.step(node) for node in level.judged])
        for level in tree.levels
        if level.verdict is not None
    ]
    return sum(counts, JudgeCounts())


class SearchCounts:
    """The closing figures of a search: how trees ended, pairs kept, levels dropped and why, cost, and how the
    judge behaved. Trees pass through one by one."""

    def __init__(self) -> None:
        self._ends: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._votes: Counter[str] = Counter()
        self._usage = Usage()
        self._judging = JudgeCounts()

    def watch(self, trees: Iterable[StepTree]) -> Iterator[StepPreference]:
        """The preferences of `trees`, which are counted as they pass."""
        for tree in trees:
            self.add(tree)
            yield from tree_preferences(tree)

    def add(self, tree: StepTree) -> None:
        """Count one tree."""
        self._ends[tree.status] += 1
        self._outcomes.update(level_outcome(level) for level in tree.levels)
        for level in tree.levels:
            self._votes.update(vote.outcome for vote in (level.verdict.votes if level.verdict else ()))
        self._usage += tree.usage
        self._judging += tree_counts(tree)

    def figures(self, seconds: float) -> dict[str, object]:
        """The counts by name."""
        return {
            "problems": self._ends.total(),
            **{f"  {name}": count for name, count in self._ends.most_common()},
            "levels": self._outcomes.total(),
            "  preference pairs": self._outcomes[PAIR],
            **{f"  no pair: {why}": n for why, n in self._outcomes.most_common() if why != PAIR},
            "comparisons": self._votes.total(),
            **{f"  {name}": count for name, count in self._votes.most_common()},
            "requests": self._usage.requests,
            "prompt tokens": self._usage.prompt_tokens,
            "sampled tokens": self._usage.completion_tokens,
            "seconds": round(seconds, 1),
            **self._judging.figures(),
        }
