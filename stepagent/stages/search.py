"""Stage: problems -> trees.jsonl -> preferences.jsonl."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from stepagent.assembly.session import Session
from stepagent.console import bar, console, table, warn
from stepagent.errors import BackendError
from stepagent.files.jsonl import write_json, write_rows
from stepagent.files.problems import ProblemFile
from stepagent.files.resumable import ResumableFile
from stepagent.interfaces import BoundedSearch, SearchStrategy
from stepagent.judges.measuring import JudgeCounts, measure
from stepagent.preferences import PAIR, level_outcome, tree_preferences
from stepagent.tree import StepTree
from stepagent.types import ModelVersion, Problem, SiblingPairs, StepPreference, Usage

PAIRS = "  preference pairs"
"""The name of their number among the closing figures."""
_IN_A_ROW = 16  # failures without a success between them, after which the cause is not the problems


def search(
    session: Session, model: ModelVersion, problems: ProblemFile, *, out: Path, round_index: int | None = None
) -> bool:
    """Search `problems` with `model` into `out`/trees.jsonl and preferences.jsonl, and its counts into search.json.
    Returns whether there was anything to do. A search outside of rounds is not done while problems have failed: the
    same command searches them again."""

    def work() -> bool:
        report, failed = _search(session, model, problems, out=out, round_index=round_index or 1)
        write_json(out / "search.json", report)
        table(f"Search, round {round_index or 1}", report, ("problems", "levels", PAIRS, "sampled tokens", "seconds"))
        # in a run of rounds, a problem that failed must not turn the models behind it into old ones
        repeats = round_index is None
        if failed:
            warn([f"{failed} problems failed; {'the same command searches them again' if repeats else 'left out'}"])
        return not (failed and repeats)

    return session.run_folder.stage(
        session.stage_name("search", out),
        inputs={"model": Path(model.path), "problems": problems.path},
        outputs={"trees": out / "trees.jsonl", "preferences": out / "preferences.jsonl"},
        identity=[*session.bound.identity(), *exported_pairs(session)],
        work=work,
    )


def _search(
    session: Session, model: ModelVersion, problems: ProblemFile, *, out: Path, round_index: int
) -> tuple[dict[str, object], int]:
    """Search, write both files and count the levels and their fate. Returns the counts, and the number of problems that
    failed."""
    start = time.monotonic()
    parts = session.parts(model)
    cached = session.run(parts.prefix_cache())
    counts = SearchCounts(session.config.optimize.pairs)
    label = f"search, round {round_index}"
    trees = out / "trees.jsonl"
    with searched(session, parts.strategy, problems, trees=trees, label=label, round_index=round_index) as file:
        write_rows(out / "preferences.jsonl", counts.watch(file))
    report = counts.figures(time.monotonic() - start)
    if share := _hit_rate(cached, session.run(parts.prefix_cache())):
        report["prompt tokens from the servers' prefix cache"] = share
    if replayed := session.resources.replayed():
        report["requests answered by the store"] = replayed
    if session.config.prices:
        report["cost of the run so far"] = session.resources.budget.money
    return report, counts.failed


@contextmanager
def searched(
    session: Session,
    strategy: SearchStrategy,
    problems: ProblemFile | Sequence[Problem],
    *,
    trees: Path,
    label: str,
    round_index: int = 0,
) -> Iterator[ResumableFile[StepTree]]:
    """Search those of `problems` that the file `trees` does not hold yet, appending a line as each tree ends; gives
    all trees, in the order of the problems.

    Finished trees of a killed run are kept; a torn last line and failed trees are searched again. Raises
    BackendError once 16 problems in a row, or all, have failed: then the cause is not the problems.
    """
    config, budget = session.config, session.resources.budget
    steps = failures = 0
    with tree_file(trees) as file:
        _print_most(session, strategy, len(problems) - file.earlier)
        with bar(label, len(problems), lambda: f"{steps} steps, {budget.note()}") as progress:
            progress.advance(file.earlier)

            def finished(place: int, tree: StepTree) -> None:
                nonlocal steps, failures
                tree.round = round_index
                tree.generator = config.generator.kind
                tree.judge = config.judge.kind
                tree.judging = asdict(tree_counts(tree))
                file.append(place, tree)
                steps += len(tree.path)
                progress.advance()
                failures = failures + 1 if tree.status == "failed" else 0
                if failures == min(len(problems), _IN_A_ROW):
                    raise BackendError(
                        f"{failures} problems in a row failed, the last with: {tree.error}; finished trees are kept, "
                        "and the same command continues"
                    )

            keyed = ((problem.id, problem.without_answer()) for problem in problems)
            work = session.runner(
                strategy, file.open_items(keyed), config.seed, concurrency=config.concurrency, finished=finished
            )
            session.run(work)
        yield file


def exported_pairs(session: Session) -> list[str]:
    """Return the part of a stage's identity that says which pairs it exports; empty for the default, so that
    stages that were finished before there was a choice stay finished."""
    return [] if session.config.optimize.pairs == "best_worst" else [session.config.optimize.pairs]


def tree_file(path: Path) -> ResumableFile[StepTree]:
    """Return the trees of a search. Raises DataError for a file that holds something else."""
    return ResumableFile(path, StepTree, key=lambda tree: tree.problem.id, failed=lambda tree: tree.status == "failed")


def _print_most(session: Session, strategy: SearchStrategy, problems: int) -> None:
    """Print the most that endpoints may have to sample, before they are asked."""
    bounds = strategy.most() if isinstance(strategy, BoundedSearch) else {}
    if not session.resources.asks_endpoints or not bounds or problems < 1:
        return
    total = sum(bounds.values(), Usage())
    budget = session.resources.budget
    cost = problems * sum(budget.price(model, usage) for model, usage in bounds.items())
    price = f", cost {cost:.4g}" if cost else ""
    console.print(
        f"at most {problems * total.requests:,} requests and {problems * total.completion_tokens:,} tokens sampled "
        f"for {problems} problems{price}; prompts come on top",
        highlight=False,
        soft_wrap=True,
    )


def _hit_rate(before: tuple[float, float] | None, after: tuple[float, float] | None) -> str | None:
    if before is None or after is None or after[1] <= before[1] or after[0] < before[0]:
        return None
    return f"{(after[0] - before[0]) / (after[1] - before[1]):.1%}"


def tree_counts(tree: StepTree) -> JudgeCounts:
    """Return the judge's votes and agreements on a tree's levels."""
    counts = [
        measure(level.verdict, [tree.step(node) for node in level.judged])
        for level in tree.levels
        if level.verdict is not None
    ]
    return sum(counts, JudgeCounts())


class SearchCounts:
    """The closing figures of a search: the ends of its trees, pairs, levels without a pair and the reason, cost, and
    the judge's behaviour. Trees pass through one by one."""

    def __init__(self, pairs: SiblingPairs = "best_worst") -> None:
        self._pairs = pairs
        self._rows = 0
        self._ends: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._votes: Counter[str] = Counter()
        self._usage = Usage()
        self._judging = JudgeCounts()

    def watch(self, trees: Iterable[StepTree]) -> Iterator[StepPreference]:
        """Return the preferences of `trees`, each of which is counted as it passes."""
        for tree in trees:
            self.add(tree)
            for row in tree_preferences(tree, self._pairs):
                self._rows += 1
                yield row

    def add(self, tree: StepTree) -> None:
        """Count one tree."""
        self._ends[tree.status] += 1
        self._outcomes.update(level_outcome(level) for level in tree.levels)
        for level in tree.levels:
            self._votes.update(vote.outcome for vote in (level.verdict.votes if level.verdict else ()))
        self._usage += tree.usage
        self._judging += tree_counts(tree)

    @property
    def failed(self) -> int:
        """The number of problems that failed."""
        return self._ends["failed"]

    def figures(self, seconds: float) -> dict[str, object]:
        """Return the counts by name."""
        return {
            "problems": self._ends.total(),
            **{f"  {name}": count for name, count in self._ends.most_common()},
            "levels": self._outcomes.total(),
            **({"  levels with pairs": self._outcomes[PAIR]} if self._pairs != "best_worst" else {}),
            PAIRS: self._rows,
            **{f"  no pair: {reason}": n for reason, n in self._outcomes.most_common() if reason != PAIR},
            "comparisons": self._votes.total(),
            **{f"  {name}": count for name, count in self._votes.most_common()},
            "requests": self._usage.requests,
            "prompt tokens": self._usage.prompt_tokens,
            "sampled tokens": self._usage.completion_tokens,
            "seconds": round(seconds, 1),
            **self._judging.figures(),
        }
