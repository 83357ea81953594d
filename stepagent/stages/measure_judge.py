"""Stage: a judge measured on labelled data, before anybody pays for its verdicts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepagent.assembly.session import Session
from stepagent.console import table
from stepagent.errors import BackendError, ConfigError
from stepagent.files.jsonl import write_json
from stepagent.files.labelled_rows import Labelled, LabelledSolution, read_labelled
from stepagent.files.resumable import ResumableFile, fill
from stepagent.files.rows import plain_step
from stepagent.interfaces import Judge
from stepagent.judges.measuring import JudgeCounts, measure, score_pair
from stepagent.report.page import finish_with_report
from stepagent.report.shares import share
from stepagent.seeds import derive_seed
from stepagent.types import ModelVersion, Problem, Score, StepPair, Usage, Verdict

_BINS = 10
_RIGHT = 0.5  # the score below which a step counts as wrong


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """One labelled item and the judge's verdicts. Pairs: `right` in both positions, `consistent` (the same in both;
    None for judges without positions). Solutions: `scores` of the steps up to the first that is called wrong,
    `predicted` its index (None: no step is), `right` if that is the label."""

    index: int
    right: bool
    consistent: bool | None = None
    verdicts: tuple[Verdict, ...] = ()
    scores: tuple[Score, ...] = ()
    predicted: int | None = None


def measure_judge(session: Session, model: ModelVersion, data: str, *, sample: int | None, out: Path) -> bool:
    """Measure the config's judge on labelled data (all items, or `sample` of them by seed) into `out`/items.jsonl and
    metrics.json; continues the items that `out` holds. Returns whether there was anything to do.

    Raises DataError, and ConfigError for a judge that cannot score single steps where the data label those.
    """
    items = read_labelled(data, sample, session.config.seed)
    return session.run_folder.stage(
        session.stage_name("judge quality", out),
        inputs={"model": Path(model.path), "data": Path(data)},
        outputs={"items": out / "items.jsonl", "metrics": out / "metrics.json"},
        identity=[*session.bound.judging(), sample],
        work=lambda: _measure(session, model, items, data=data, sample=sample, out=out),
    )


def _measure(
    session: Session, model: ModelVersion, items: Sequence[Labelled], *, data: str, sample: int | None, out: Path
) -> None:
    judge = session.parts(model).judge
    judged = judge_items(session, judge, items, path=out / "items.jsonl", label="labelled items")
    answered = [(item, result) for item, result in zip(items, judged, strict=True) if not failed(result)]
    errors = [verdict.error for result in judged for verdict in result.verdicts[-1:] if failed(result)]
    if not answered:
        raise_failures(errors, len(items))
    figures = {"failed": len(errors), **metrics([item for item, _ in answered], [result for _, result in answered])}
    if session.config.prices:
        figures["cost of the run so far"] = session.resources.budget.money
    origin = {"data": data, "sample": sample, "seed": session.config.seed}
    write_json(out / "metrics.json", {**figures, **origin})
    session.keep_config()
    table(f"Judge: {session.config.judge.kind} on {data}", figures)
    raise_failures(errors, len(items))
    finish_with_report(out)


def judge_items(
    session: Session, judge: Judge, items: Sequence[Labelled], path: Path, *, label: str
) -> list[JudgedItem]:
    """Judge labelled items into the file `path`; continues the rows that it holds."""
    config = session.config

    async def judged(numbered: tuple[int, Labelled]) -> JudgedItem:
        index, item = numbered
        seed = derive_seed(config.seed, "labelled item", index)
        if isinstance(item, StepPair):
            return await _pair(judge, index, item, seed=seed)
        return await _solution(judge, index, item, seed=seed)

    with ResumableFile(path, JudgedItem, key=lambda item: str(item.index), failed=failed) as file:
        keyed = ((str(index), (index, item)) for index, item in enumerate(items))
        total, concurrency = len(items), config.concurrency
        session.run(fill(file, keyed, judged, label=label, total=total, concurrency=concurrency))
        return list(file)


def failed(item: JudgedItem) -> bool:
    """Whether a verdict of an item failed."""
    return any(verdict.failed for verdict in item.verdicts)


def raise_failures(errors: Sequence[str], total: int) -> None:
    """Raise BackendError if verdicts failed, with the words of the last failure."""
    if errors:
        words = next((error for error in reversed(errors) if error), "a reply could not be read")
        raise BackendError(
            f"{len(errors)} of {total} verdicts failed, the last with: {words}; the others are kept, and the same "
            "command asks for the failed ones again"
        )


async def _pair(judge: Judge, index: int, pair: StepPair, *, seed: int) -> JudgedItem:
    candidates = [plain_step(pair.first), plain_step(pair.second)]
    prefix = [plain_step(text) for text in pair.prefix]
    verdict = await judge.judge(Problem(str(index), pair.question), prefix, candidates, seed)
    winner = {"first": 0, "second": 1}.get(pair.winner or "")
    right, consistent = score_pair(verdict, 0, 1, expected=winner)
    return JudgedItem(index, right, consistent, (verdict,))


async def _solution(judge: Judge, index: int, item: LabelledSolution, *, seed: int) -> JudgedItem:
    steps = [plain_step(text) for text in item.steps]
    scores: list[float] = []
    verdicts: list[Verdict] = []
    for number, step in enumerate(steps):
        problem = Problem(str(index), item.question)
        verdict = await judge.judge(problem, steps[:number], [step], derive_seed(seed, number))
        if verdict.status == "error":
            return JudgedItem(index, False, None, verdicts=(*verdicts, verdict), scores=tuple(scores))
        if verdict.votes or not verdict.scores or not 0 <= verdict.scores[0] <= 1:
            if verdict.scores and math.isnan(verdict.scores[0]):
                verdicts.append(verdict)
                return JudgedItem(index, False, None, verdicts=tuple(verdicts), scores=tuple(scores))
            raise ConfigError(
                "judge.kind: these data label single steps; a judge that compares cannot say whether one is "
                "right: use prm, pointwise or rollouts"
            )
        verdicts.append(verdict)
        scores.append(verdict.scores[0])
        if scores[-1] < _RIGHT:
            break
    predicted = len(scores) - 1 if scores and scores[-1] < _RIGHT else None
    return JudgedItem(
        index, predicted == item.first_wrong, None, verdicts=tuple(verdicts), scores=tuple(scores), predicted=predicted
    )


def metrics(items: Sequence[Labelled], judged: Sequence[JudgedItem]) -> dict[str, object]:
    """Return the figures of a table; shares come with their 95 % interval (Wilson)."""
    pairs = [(item, result) for item, result in zip(items, judged, strict=True) if isinstance(item, StepPair)]
    solutions = [
        (item, result) for item, result in zip(items, judged, strict=True) if isinstance(item, LabelledSolution)
    ]
    figures: dict[str, object] = {}
    if pairs:
        figures |= _pair_figures(pairs)
    if solutions:
        figures |= _solution_figures(solutions)
    usage = sum((verdict.usage for item in judged for verdict in item.verdicts), Usage())
    verdicts = max(1, sum(len(item.verdicts) for item in judged))
    return {
        **figures,
        "requests per verdict": usage.requests / verdicts,
        "prompt tokens per verdict": usage.prompt_tokens / verdicts,
        "sampled tokens per verdict": usage.completion_tokens / verdicts,
    }


def _pair_figures(pairs: Sequence[tuple[StepPair, JudgedItem]]) -> dict[str, object]:
    counts = JudgeCounts()
    confusion: Counter[tuple[str, str]] = Counter()
    confident: list[tuple[float, bool]] = []
    for pair, result in pairs:
        verdict = result.verdicts[0]
        counts += measure(verdict, [plain_step(pair.first), plain_step(pair.second)])
        if verdict.best is None or pair.winner is None or pair.winner == "tie":
            continue
        chosen = ("first", "second")[verdict.best]
        confusion[pair.winner, chosen] += 1
        confident.append((verdict.margin or 0.5, chosen == pair.winner))
    consistent = [result.consistent for _, result in pairs if result.consistent is not None]
    return {
        "pairs": len(pairs),
        "right (in both positions)": share(sum(result.right for _, result in pairs), len(pairs)),
        "decided": share(len(confident), len(pairs)),
        "right where decided": share(sum(right for _, right in confident), len(confident)),
        "macro F1": _macro_f1(confusion, [pair.winner for pair, _ in pairs]),
        **({"both positions agree": share(sum(consistent), len(consistent))} if consistent else {}),
        "calibration error of the margin": calibration_error(confident),
        **{name: value for name, value in counts.figures().items() if name != "both positions agree"},
    }


def _solution_figures(solutions: Sequence[tuple[LabelledSolution, JudgedItem]]) -> dict[str, object]:
    """ProcessBench's measure (arXiv 2412.06559): the harmonic mean of the accuracies on wrong and on right
    solutions."""
    wrong = [result.right for solution, result in solutions if solution.first_wrong is not None]
    right = [result.right for solution, result in solutions if solution.first_wrong is None]
    a, b = (sum(part) / len(part) if part else math.nan for part in (wrong, right))
    return {
        "solutions": len(solutions),
        "first wrong step found": share(sum(wrong), len(wrong)),
        "right solutions passed": share(sum(right), len(right)),
        "F1 (ProcessBench)": 2 * a * b / (a + b) if a + b > 0 else 0.0,
        "without a score": sum(
            any(math.isnan(verdict.scores[0]) for verdict in result.verdicts if verdict.scores)
            for _, result in solutions
        ),
    }


def _macro_f1(confusion: Counter[tuple[str, str]], winners: Sequence[str | None]) -> float:
    scores = []
    for kind, opposite in (("first", "second"), ("second", "first")):
        hits = confusion[kind, kind]
        predicted, labelled = hits + confusion[opposite, kind], winners.count(kind)
        scores.append(2 * hits / (predicted + labelled) if predicted + labelled else 0.0)
    return sum(scores) / len(scores)


def calibration_error(confident: Sequence[tuple[float, bool]]) -> float:
    """Return expected calibration error over margins in [0.5, 1]: in each of 10 bins, how far the mean margin is from
    the share that is right, weighted by the bin's size."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for margin, right in confident:
        bins.setdefault(min(_BINS - 1, int((margin - 0.5) * 2 * _BINS)), []).append((margin, right))
    gaps = [abs(sum(margin for margin, _ in part) - sum(right for _, right in part)) for part in bins.values()]
    return sum(gaps) / len(confident) if confident else math.nan
