"""Stage: rows of other projects in, rows for other trainers out; one row at a time in memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from stepagent.cutting import unusable_text
from stepagent.errors import DataError
from stepagent.exports import ADD_NO_END, PREFERENCES, TREES
from stepagent.formats import FORMATS as PREFERENCE_FORMATS
from stepagent.formats import preference
from stepagent.jsonl import dump_row, iter_numbered, write_rows
from stepagent.labelled import FORMATS as LABELLED_FORMATS
from stepagent.labelled import LabelledPair, LabelledSolution, labelled_items
from stepagent.pipeline.progress import bar, table
from stepagent.seeds import derive_seed
from stepagent.tables import read_raw
from stepagent.tree import StepTree
from stepagent.types import StepPreference

ImportTo = Literal["pairs", "solutions", "steps"]


def import_stage(source: str, to: ImportTo, out: Path) -> None:
    """Write what `source` holds to `out`, and rows that give nothing of that kind, with the reason, beside it
    to NAME.set_aside.jsonl.

    pairs      preference rows, PRM800K, labelled pairs -> {question, prefix, first, second, winner}
    solutions  labelled solutions without a wrong step -> {question, solution}, for `data ift` to cut
    steps      labelled solutions -> {prompt, completions, labels} up to the first wrong step
    Raises DataError if nothing is left, and for a source that cannot be read.
    """
    kept = 0
    reasons: Counter[str] = Counter()
    aside = out.with_suffix(".set_aside.jsonl")
    out.parent.mkdir(parents=True, exist_ok=True)
    with aside.open("w", encoding="utf-8") as bad:

        def rows() -> Iterator[dict[str, Any]]:
            nonlocal kept
            with bar(f"import {out.name}", None) as progress:
                for where, row in read_raw(source):
                    progress.advance()
                    found, reason = _imported(where, row, to)
                    kept += len(found)
                    yield from found
                    if reason:
                        reasons[reason] += 1
                        bad.write(dump_row({"where": where, "reason": reason, "row": row}))

        write_rows(out, rows())
    shown = {f"  {reason}": count for reason, count in reasons.most_common()}
    table(f"Import: {source}", {f"{to} written": kept, "rows set aside": reasons.total(), **shown})
    if not kept:
        raise DataError(f"{source}: no {to} in it; {aside} says why, row by row")


def _imported(where: str, row: dict[str, Any], to: ImportTo) -> tuple[list[dict[str, Any]], str]:
    """What a row becomes, and the reason if that is nothing."""
    try:
        items = _items(where, row)
    except DataError as error:
        return [], str(error).removeprefix(f"{where}: ").partition(";")[0]
    if flaw := next(filter(None, (unusable_text(text) for item in items for text in _texts(item))), None):
        return [], flaw
    if to == "pairs":
        made = [_pair_row(item) for item in items if isinstance(item, LabelledPair)]
        return made, "" if made else "holds no pair"
    solutions = [item for item in items if isinstance(item, LabelledSolution) and item.steps]
    if to == "steps":
        return [_stepwise_row(item) for item in solutions], "" if solutions else "holds no labelled steps"
    right = [item for item in solutions if item.first_wrong is None]
    made = [{"question": item.question, "solution": _text(item.steps)} for item in right]
    return made, "" if made else "has a wrong step" if solutions else "holds no labelled steps"


def _items(where: str, row: dict[str, Any]) -> list[LabelledPair | LabelledSolution]:
    if not {"chosen", "rejected"} <= row.keys():
        try:
            return list(labelled_items(where, row))
        except DataError as error:
            if "not a row of" not in str(error):
                raise
            raise DataError(f"not a row of {LABELLED_FORMATS}, nor of {PREFERENCE_FORMATS}") from None
    read = preference(where, row)
    if isinstance(read, StepPreference):
        question, prefix = read.question or read.prompt, read.prefix
    else:
        turns = "\n\n".join(turn.content for turn in read.turns)
        question, prefix = (turns, _pieces(read.prefix)) if turns else (read.prefix, ())
    good, bad = read.chosen.strip(), read.rejected.strip()
    if good == bad:
        raise DataError("chosen equals rejected")
    first_wins = derive_seed(question, *prefix, *sorted((good, bad))) % 2 == 0
    seats = (good, bad) if first_wins else (bad, good)
    return [LabelledPair(question, prefix, *seats, "first" if first_wins else "second")]


def _pieces(prefix: str) -> tuple[str, ...]:
    """The steps of a prefix, each with the mark of the next one, as a generator of marked steps leaves it."""
    return tuple(piece for piece in re.split(r"(?<=Step \d:)|(?<=Step \d\d:)", prefix) if piece)


def _texts(item: LabelledPair | LabelledSolution) -> tuple[str, ...]:
    if isinstance(item, LabelledPair):
        return (item.question, *item.prefix, item.first, item.second)
    return (item.question, *item.steps)


def _pair_row(item: LabelledPair) -> dict[str, Any]:
    return {
        "question": item.question,
        "prefix": list(item.prefix),
        "first": item.first,
        "second": item.second,
        "winner": item.winner,
    }


def _stepwise_row(item: LabelledSolution) -> dict[str, Any]:
    end = len(item.steps) if item.first_wrong is None else item.first_wrong + 1
    labels = [place != item.first_wrong for place in range(end)]
    return {"prompt": item.question, "completions": list(item.steps[:end]), "labels": labels}


def _text(steps: tuple[str, ...]) -> str:
    return ("" if all(step.endswith("\n") for step in steps[:-1]) else "\n\n").join(steps).strip()


def export_stage(source: Path, to: str, end: str | None, out: Path) -> None:
    """Write the rows of a preferences.jsonl or (prm, sft) of a trees.jsonl as `to` wants them. `end` is the
    text of the model's end-of-turn token, for trainers that add none. Raises DataError for a bad row, with
    file and line, and where `end` is needed and missing."""
    count = read = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal count, read
        with bar(f"export {out.name}", None) as progress:
            if to in TREES:
                for _, tree in iter_numbered(source, StepTree):
                    progress.advance()
                    read += 1
                    for row in TREES[to](tree):
                        count += 1
                        yield row
                return
            for line, pair in iter_numbered(source, StepPreference, "; export takes a preferences.jsonl"):
                progress.advance()
                read += 1
                if end is None and to in ADD_NO_END and (pair.chosen_ends or pair.rejected_ends):
                    raise DataError.at(
                        source,
                        line,
                        f"this step ends the solution, and {to} adds no end of turn; give its text, such as "
                        f"--end "
                        "'<|im_end|>'",
                    )
                count += 1
                yield PREFERENCES[to](pair, end or "")

    write_rows(out, rows())
    table(f"Export: {source}", {"rows read": read, f"rows for {to}": count})
    if not count:
        raise DataError(f"{source}: no row for {to} in it")
