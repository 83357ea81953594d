"""Stage: how good a judge is on labelled data, before anybody pays for its verdicts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepagent.assembly.components import Components
from stepagent.config.settings import Config
from stepagent.console import table
from stepagent.errors import ConfigError
from stepagent.files.jsonl import write_atomic
from stepagent.files.labelled_rows import Labelled, LabelledPair, LabelledSolution
from stepagent.files.resumable import append_all, resume
from stepagent.files.rows import plain_step
from stepagent.interfaces import Judge
from stepagent.judges.measuring import JudgeCounts, measure, score_pair
from stepagent.report.shares import share
from stepagent.seeds import derive_seed
from stepagent.types import Problem, Score, Usage, Verdict

_BINS = 10
_RIGHT = 0.5  # the score below which a step counts as wrong


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """One labelled item and what the judge said. Pairs: `right` in both seats, `consistent` (the same in both
    seats; None for judges without seats). Solutions: `scores` of the steps up to the first that is called
    wrong, `predicted` its index (None: no step is), `right` if that is the label."""

    index: int
    right: bool
    consistent: bool | None = None
    verdicts: tuple[Verdict, ...] = ()
    scores: tuple[Score, ...] = ()
    predicted: int | None = None


def quality_stage(
    components: Components, config: Config, items: Sequence[Labelled], name: str, out: Path
) -> None:
    """Judge the `items` of the data `name` into `out`/items.jsonl; continues what it holds. Writes
    metrics.json and prints the table. Raises ConfigError for a judge that cannot score single steps where the
    data label those."""
    path = out / "items.jsonl"
    done = resume(path, JudgedItem, lambda item: item.index, _failed)

    async def ask(index: int, item: Labelled) -> JudgedItem:
        seed = derive_seed(config.seed, "labelled item", index)
        if isinstance(item, LabelledPair):
            return await _pair(components.judge, index, item, seed)
        return await _solution(components.judge, index, item, seed)

    indexed = dict(enumerate(items))
    asked = append_all(path, "labelled items", config.concurrency, indexed, done, ask)
    components.resources.run(asked)
    figures = metrics(items, [done[index] for index in indexed])
    if config.prices:
        figures["cost of the run so far"] = components.resources.budget.money
    write_atomic(out / "metrics.json", json.dumps(figures, indent=2) + "\n")
    table(f"Judge: {config.judge.kind} on {name}", figures)


def _failed(item: JudgedItem) -> bool:
    return any(verdict.status == "error" for verdict in item.verdicts)


async def _pair(judge: Judge, index: int, item: LabelledPair, seed: int) -> JudgedItem:
    candidates = [plain_step(item.first), plain_step(item.second)]
    prefix = [plain_step(text) for text in item.prefix]
    verdict = await judge.judge(Problem(str(index), item.question), prefix, candidates, seed)
    expected = {"first": 0, "second": 1}.get(item.winner)
    right, consistent = score_pair(verdict, 0, 1, expected)
    return JudgedItem(index, right, consistent, (verdict,))


async def _solution(judge: Judge, index: int, item: LabelledSolution, seed: int) -> JudgedItem:
    steps = [plain_step(text) for text in item.steps]
    scores: list[float] = []
    verdicts: list[Verdict] = []
    for place, step in enumerate(steps):
        problem = Problem(str(index), item.question)
        verdict = await judge.judge(problem, steps[:place], [step], derive_seed(seed, place))
        if verdict.status == "error":
            return JudgedItem(index, False, None, (*verdicts, verdict), tuple(scores))
        if verdict.votes or not verdict.scores or not 0 <= verdict.scores[0] <= 1:
            if verdict.scores and math.isnan(verdict.scores[0]):
                verdicts.append(verdict)
                return JudgedItem(index, False, None, tuple(verdicts), tuple(scores))
            raise ConfigError(
                "judge.kind: these data label single steps; a judge that compares cannot say whether one is "
                "right: use prm, pointwise or rollouts"
            )
        verdicts.append(verdict)
        scores.append(verdict.scores[0])
        if scores[-1] < _RIGHT:
            break
    predicted = len(scores) - 1 if scores and scores[-1] < _RIGHT else None
    return JudgedItem(index, predicted == item.first_wrong, None, tuple(verdicts), tuple(scores), predicted)


def metrics(items: Sequence[Labelled], judged: Sequence[JudgedItem]) -> dict[str, object]:
    """The figures of a table; shares come with their 95 % interval (Wilson)."""
    both = list(zip(items, judged, strict=True))
    pairs = [(item, one) for item, one in both if isinstance(item, LabelledPair)]
    solutions = [(item, one) for item, one in both if isinstance(item, LabelledSolution)]
    figures: dict[str, object] = {}
    if pairs:
        figures |= _pair_figures(pairs)
    if solutions:
        figures |= _solution_figures(solutions)
    usage = sum((verdict.usage for one in judged for verdict in one.verdicts), Usage())
    verdicts = max(1, sum(len(one.verdicts) for one in judged))
    return {
        **figures,
        "requests per verdict": usage.requests / verdicts,
        "prompt tokens per verdict": usage.prompt_tokens / verdicts,
        "sampled tokens per verdict": usage.completion_tokens / verdicts,
    }


def _pair_figures(pairs: Sequence[tuple[LabelledPair, JudgedItem]]) -> dict[str, object]:
    counts = JudgeCounts()
    confusion: Counter[tuple[str, str]] = Counter()
    confident: list[tuple[float, bool]] = []
    for item, one in pairs:
        verdict = one.verdicts[0]
        counts += measure(verdict, [plain_step(item.first), plain_step(item.second)])
        if verdict.best is None or item.winner == "tie":
            continue
        chosen = ("first", "second")[verdict.best]
        confusion[item.winner, chosen] += 1
        confident.append((verdict.margin or 0.5, chosen == item.winner))
    consistent = [one.consistent for _, one in pairs if one.consistent is not None]
    return {
        "pairs": len(pairs),
        "right (in both seats)": share(sum(one.right for _, one in pairs), len(pairs)),
        "decided": share(len(confident), len(pairs)),
        "right where decided": share(sum(right for _, right in confident), len(confident)),
        "macro F1": _macro_f1(confusion, [item.winner for item, _ in pairs]),
        **({"both seats agree": share(sum(consistent), len(consistent))} if consistent else {}),
        "calibration error of the margin": calibration_error(confident),
        **{name: value for name, value in counts.figures().items() if name != "both seats agree"},
    }


def _solution_figures(solutions: Sequence[tuple[LabelledSolution, JudgedItem]]) -> dict[str, object]:
    """ProcessBench's measure (arXiv 2412.06559): the harmonic mean of the accuracies on wrong and on right
    solutions."""
    wrong = [one.right for item, one in solutions if item.first_wrong is not None]
    right = [one.right for item, one in solutions if item.first_wrong is None]
    a, b = (sum(part) / len(part) if part else math.nan for part in (wrong, right))
    return {
        "solutions": len(solutions),
        "first wrong step found": share(sum(wrong), len(wrong)),
        "right solutions passed": share(sum(right), len(right)),
        "F1 (ProcessBench)": 2 * a * b / (a + b) if a + b > 0 else 0.0,
        "without a score": sum(
            any(math.isnan(verdict.scores[0]) for verdict in one.verdicts if verdict.scores)
            for _, one in solutions
        ),
    }


def _macro_f1(confusion: Counter[tuple[str, str]], winners: Sequence[str]) -> float:
    scores = []
    for kind, other in (("first", "second"), ("second", "first")):
        hits = confusion[kind, kind]
        said, there = hits + confusion[other, kind], winners.count(kind)
        scores.append(2 * hits / (said + there) if said + there else 0.0)
    return sum(scores) / len(scores)


def calibration_error(confident: Sequence[tuple[float, bool]]) -> float:
    """Expected calibration error over margins in [0.5, 1]: in each of 10 bins, how far the mean margin is
    from the share that is right, weighted by the bin's size."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for margin, right in confident:
        bins.setdefault(min(_BINS - 1, int((margin - 0.5) * 2 * _BINS)), []).append((margin, right))
    gaps = [
        abs(sum(margin for margin, _ in part) - sum(right for _, right in part)) for part in bins.values()
    ]
    return sum(gaps) / len(confident) if confident else math.nan
