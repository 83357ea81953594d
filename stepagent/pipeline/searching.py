"""Stage: problems -> trees.jsonl -> preferences.jsonl."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from stepagent.config import Config
from stepagent.errors import BackendError
from stepagent.jsonl import dump_row, write_rows
from stepagent.judges.measuring import JudgeCounts, measure
from stepagent.pipeline.appending import resume
from stepagent.pipeline.components import Components
from stepagent.pipeline.progress import bar, console, table
from stepagent.preferences import PAIR, collect
from stepagent.search.runner import search_all
from stepagent.tree import StepTree
from stepagent.types import Problem, Usage


def search_problems(
    components: Components,
    problems: Sequence[Problem],
    trees: Path,
    config: Config,
    round_index: int,
    label: str,
) -> list[StepTree]:
    """Search what `trees` does not hold yet, appending a line as each tree finishes; returns all trees.

    What a killed run had finished is kept; a torn last line and failed trees are searched again. Raises
    BackendError if every tree failed: then the cause is not the problems.
    """
    done = resume(trees, StepTree, lambda tree: tree.problem.id, lambda tree: tree.status == "failed")
    left = [problem.without_answer() for problem in problems if problem.id not in done]
    _say_most(components, len(left))
    steps = 0
    with bar(label, len(problems)) as progress, trees.open("a", encoding="utf-8") as file:
        progress.advance(len(done))

        def finished(tree: StepTree) -> None:
            nonlocal steps
            tree.round = round_index
            tree.generator = config.generator.kind
            tree.judge = config.judge.kind
            tree.judging = asdict(tree_counts(tree))
            file.write(dump_row(tree))
            file.flush()
            done[tree.problem.id] = tree
            steps += len(tree.path)
            budget = components.resources.budget
            progress.advance(note=f"{steps} steps, {budget.note()}")

        components.resources.run(
            search_all(components.strategy, left, config.seed, config.concurrency, finished)
        )
    grown = [done[problem.id] for problem in problems]
    if all(tree.status == "failed" for tree in grown):
        raise BackendError(f"all {len(grown)} problems failed, the first with: {grown[0].error}")
    return grown


def _say_most(components: Components, problems: int) -> None:
    """What endpoints may have to sample, before they are asked."""
    most: dict[str, Usage] = getattr(components.strategy, "most", dict)()
    if not components.resources.asks_endpoints or not most or not problems:
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
    problems: Sequence[Problem],
    trees: Path,
    preferences: Path,
    config: Config,
    round_index: int,
) -> dict[str, object]:
    """Search, write both files, print what became of every level. Returns the counts."""
    start = time.monotonic()
    grown = search_problems(components, problems, trees, config, round_index, f"search, round {round_index}")
    rows, outcomes = collect(grown)
    write_rows(preferences, rows)
    report = describe(grown, outcomes, time.monotonic() - start)
    resources = components.resources
    if replayed := resources.replayed():
        report["requests answered by the store"] = replayed
    if config.prices:
        report["cost of the run so far"] = resources.budget.money
    table(f"Search, round {round_index}", report)
    return report


def tree_counts(tree: StepTree) -> JudgeCounts:
    """What the judge did on a tree's levels."""
    counts = [
        measure(level.verdict, [tree.step(node) for node in level.judged])
        for level in tree.levels
        if level.verdict is not None
    ]
    return sum(counts, JudgeCounts())


def describe(trees: Sequence[StepTree], outcomes: Counter[str], seconds: float) -> dict[str, object]:
    """The closing figures of a search: how trees ended, pairs kept, levels dropped and why, cost, and how
    the judge behaved."""
    usage = sum((tree.usage for tree in trees), Usage())
    ends = Counter(tree.status for tree in trees)
    votes = [v for tree in trees for lv in tree.levels if lv.verdict for v in lv.verdict.votes]
    asked = Counter(vote.outcome for vote in votes)
    return {
        "problems": len(trees),
        **{f"  {name}": count for name, count in ends.most_common()},
        "levels": sum(outcomes.values()),
        "  preference pairs": outcomes[PAIR],
        **{f"  no pair: {why}": n for why, n in outcomes.most_common() if why != PAIR},
        "comparisons": len(votes),
        **{f"  {name}": count for name, count in asked.most_common()},
        "requests": usage.requests,
        "prompt tokens": usage.prompt_tokens,
        "sampled tokens": usage.completion_tokens,
        "seconds": round(seconds, 1),
        **sum((tree_counts(tree) for tree in trees), JudgeCounts()).figures(),
    }
