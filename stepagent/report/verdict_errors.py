"""The wrong verdicts of a judge on labelled items, to be read: both steps, the label, and the judge's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepagent.errors import StepagentError
from stepagent.files.labelled_rows import Labelled, LabelledSolution, read_labelled
from stepagent.files.rows import load_labelled_pairs
from stepagent.report.folder import ReportFolder
from stepagent.report.reading import typed_file, typed_rows
from stepagent.report.shapes import ItemVote, JudgedItem, JudgeSource
from stepagent.types import StepPair

_SHOWN = 10  # wrong verdicts of each model


@dataclass(frozen=True, slots=True)
class WrongVerdict:
    """One labelled item on which the judge was wrong; `pair` or `solution` is the item, None where the labelled file
    cannot be read here; `predicted` is the step of a solution that the judge called wrong."""

    model: str
    index: int
    pair: StepPair | None
    solution: LabelledSolution | None
    predicted: int | None
    votes: list[ItemVote]


@dataclass(frozen=True, slots=True)
class JudgeRecord:
    """A judge's record on labelled items: their number, those it got right, and the first wrong ones."""

    model: str
    items: int
    right: int
    consistent: int
    positions: int
    wrong: list[WrongVerdict]


def judge_records(folder: ReportFolder) -> list[JudgeRecord]:
    """Return the record of every model that judged labelled items."""
    return [_record(folder, model, path) for model, path in folder.judge_items()]


def _record(folder: ReportFolder, model: str, path: Path) -> JudgeRecord:
    items = list(typed_rows(path, JudgedItem, folder.gaps))
    wrong_items = [item for item in items if not item.right]
    labelled = _labelled(folder, path) if wrong_items else ()
    wrong = [_wrong(model, item, labelled) for item in wrong_items[:_SHOWN]]
    positions = [item.consistent for item in items if item.consistent is not None]
    return JudgeRecord(model, len(items), len(items) - len(wrong_items), sum(positions), len(positions), wrong)


def _wrong(model: str, item: JudgedItem, labelled: Sequence[Labelled]) -> WrongVerdict:
    source = labelled[item.index] if 0 <= item.index < len(labelled) else None
    return WrongVerdict(
        model=model,
        index=item.index,
        pair=source if isinstance(source, StepPair) else None,
        solution=source if isinstance(source, LabelledSolution) else None,
        predicted=item.predicted,
        votes=[vote for verdict in item.verdicts for vote in verdict.votes],
    )


def _labelled(folder: ReportFolder, path: Path) -> Sequence[Labelled]:
    """Return the labelled items that a file of verdicts numbers; none if they are not on this machine."""
    evaluate = folder.config.evaluate
    origin = JudgeSource(data=evaluate.pairs or "" if evaluate else "")
    if path.name == "items.jsonl":
        origin = typed_file(path.with_name("metrics.json"), JudgeSource, folder.gaps) or origin
    if not Path(origin.data).is_file():
        return ()
    try:
        if path.name == "items.jsonl":
            return read_labelled(origin.data, origin.sample, origin.seed)
        return load_labelled_pairs(origin.data)
    except StepagentError as error:
        folder.gaps.add(Path(origin.data), f"its labelled items cannot be shown ({error})")
        return ()
