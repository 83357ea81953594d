"""Rows of other projects in, rows for other trainers out; one row at a time in memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from stepagent.console import bar, table
from stepagent.errors import DataError
from stepagent.files.exports import ADD_NO_END, PREFERENCES, TREES
from stepagent.files.jsonl import dump_any, iter_numbered, write_rows
from stepagent.files.labelled_rows import LABELLED_FORMATS, LabelledSolution, UnknownRowError, labelled_items
from stepagent.files.preference_rows import PREFERENCE_FORMATS, preference
from stepagent.files.tables import read_raw
from stepagent.files.texts import unusable_text
from stepagent.seeds import derive_seed
from stepagent.tree import StepTree
from stepagent.types import StepPair, StepPreference

ImportTo = Literal["pairs", "solutions", "steps"]
_DETAIL = 300  # characters of the reason given for a row


def import_rows(source: str, to: ImportTo, out: Path) -> None:
    """Write the items of `source` to `out`, and rows that give nothing of that kind, with the reason, beside it to
    NAME.set_aside.jsonl.

    pairs      preference rows, PRM800K, labelled pairs -> {question, prefix, first, second, winner}
    solutions  labelled solutions without a wrong step -> {question, solution}, for `data ift` to cut
    steps      labelled solutions -> {prompt, completions, labels} up to the first wrong step
    Raises DataError if nothing is left, and for a source that cannot be read.
    """
    count = 0
    reasons: Counter[str] = Counter()
    _check_target(source, out)
    aside = out.with_suffix(".set_aside.jsonl")
    with aside.open("w", encoding="utf-8") as aside_file:

        def rows() -> Iterator[dict[str, Any]]:
            nonlocal count
            with bar(f"import {out.name}", None) as progress:
                for place, row in read_raw(source):
                    progress.advance()
                    imported, reason, detail = _imported(place, row, to)
                    count += len(imported)
                    yield from imported
                    if reason:
                        reasons[reason] += 1
                        entry = {"where": place, "reason": reason, "detail": detail[:_DETAIL], "row": row}
                        aside_file.write(dump_any(entry))

            if not count:
                raise DataError(f"{source}: no {to} in it; {aside} says why, row by row")

        write_rows(out, rows())
    by_reason = {f"  {reason}": rows for reason, rows in reasons.most_common()}
    table(f"Import: {source}", {f"{to} written": count, "rows set aside": reasons.total(), **by_reason})


def _check_target(source: str, out: Path) -> None:
    if not out.name or out.is_dir():
        raise DataError(f"--out {out}: a folder; name a JSONL file to write")
    if Path(source).exists() and out.resolve() == Path(source).resolve():
        raise DataError(f"--out {out}: is the source itself; name another file")
    out.parent.mkdir(parents=True, exist_ok=True)


def _imported(place: str, row: dict[str, Any], to: ImportTo) -> tuple[list[dict[str, Any]], str, str]:
    """Return the rows made of a foreign one; the reason, and its detail, if there are none."""
    try:
        items = _items(place, row)
    except UnknownRowError:
        formats = f"not a row of {LABELLED_FORMATS}, nor of {PREFERENCE_FORMATS}"
        return [], "a row of no known format", f"{formats}; it holds {', '.join(row) or 'nothing'}"
    except DataError as error:
        return [], "not a whole row of its format", str(error).removeprefix(f"{place}: ")
    for item in items:
        if flaw := next(filter(None, map(unusable_text, _texts(item))), None):
            return [], flaw, ""
    if to == "pairs":
        pairs = [item for item in items if isinstance(item, StepPair)]
        if any(not text.strip() for pair in pairs for text in (pair.question, pair.first, pair.second)):
            return [], "an empty question or step", ""
        rows = [_pair_row(pair) for pair in pairs if pair.first.split() != pair.second.split()]
        return rows, "" if rows else "both steps are the same" if pairs else "holds no pair", ""
    solutions = [item for item in items if isinstance(item, LabelledSolution)]
    if any(not text.strip() for item in solutions for text in _texts(item)):
        return [], "an empty question or step", ""
    solutions = [item for item in solutions if item.steps]
    if to == "steps":
        return [_stepwise_row(item) for item in solutions], "" if solutions else "holds no labelled steps", ""
    right = [item for item in solutions if item.first_wrong is None]
    rows = [{"question": item.question, "solution": _text(item.steps), "steps": list(item.steps)} for item in right]
    return rows, "" if rows else "has a wrong step" if solutions else "holds no labelled steps", ""


def _items(place: str, row: dict[str, Any]) -> list[StepPair | LabelledSolution]:
    if not {"chosen", "rejected"} <= row.keys():
        return list(labelled_items(place, row))
    foreign = preference(place, row)
    if isinstance(foreign, StepPreference):
        question, steps = foreign.question or foreign.prompt, foreign.prefix
    elif foreign.question:  # a row of `data export`
        question, steps = foreign.question, foreign.steps
    else:
        turns = "\n\n".join(turn.content for turn in foreign.turns if turn.role != "system")
        question, steps = (turns, _pieces(foreign.prefix)) if turns else (foreign.prefix, ())
    pair = StepPair(question, steps, foreign.chosen.strip(), second=foreign.rejected.strip(), winner="first")
    # a coin thrown by the texts, so that the better step stands first in half of the rows
    first_wins = derive_seed(question, *steps, *sorted((pair.first, pair.second))) % 2 == 0
    return [pair if first_wins else pair.swapped()]


def _pieces(prefix: str) -> tuple[str, ...]:
    """Return the steps of a prefix, each with the mark of the next one, as a generator of marked steps leaves it."""
    return tuple(piece for piece in re.split(r"(?<=Step \d:)|(?<=Step \d\d:)", prefix) if piece)


def _texts(item: StepPair | LabelledSolution) -> tuple[str, ...]:
    if isinstance(item, StepPair):
        return (item.question, *item.prefix, item.first, item.second)
    return (item.question, *item.steps)


def _pair_row(item: StepPair) -> dict[str, Any]:
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


def export_rows(source: Path, to: str, end: str | None, *, out: Path) -> None:
    """Write the rows of a preferences.jsonl or (prm, sft) of a trees.jsonl as `to` wants them. `end` is the
    text of the model's end-of-turn token, for trainers that add none. Raises DataError for a bad row, with
    file and line, and where `end` is needed and missing."""
    counts: Counter[str] = Counter()
    _check_target(str(source), out)

    def rows() -> Iterator[dict[str, Any]]:
        with bar(f"export {out.name}", None) as progress:
            for exported in _from_trees(source, to) if to in TREES else _from_pairs(source, to, end):
                progress.advance()
                counts["read"] += 1
                counts["exported"] += len(exported)
                counts["without"] += not exported
                yield from exported
        if not counts["exported"]:
            raise DataError(f"{source}: no row for {to} in it")

    write_rows(out, rows())
    kind = "trees" if to in TREES else "pairs"
    without = {"prm": "trees without a step that has a value", "sft": "trees that did not end"}
    report: dict[str, object] = {f"{kind} read": counts["read"], f"rows for {to}": counts["exported"]}
    if to in TREES:
        report[without[to]] = counts["without"]
    table(f"Export: {source}", report)


def _from_trees(source: Path, to: str) -> Iterator[list[dict[str, Any]]]:
    for line, tree in iter_numbered(source, StepTree, f"; {to} takes a trees.jsonl"):
        try:
            yield list(TREES[to](tree))
        except IndexError:
            raise DataError.at(source, line, "not a whole step tree: it names a node it does not hold") from None


def _from_pairs(source: Path, to: str, end: str | None) -> Iterator[list[dict[str, Any]]]:
    for line, pair in iter_numbered(source, StepPreference, f"; {to} takes a preferences.jsonl"):
        if end is None and to in ADD_NO_END and (pair.chosen_ends or pair.rejected_ends):
            raise DataError.at(
                source,
                line,
                f"this step ends the solution, and {to} adds no end of turn; give its text, such as --end '<|im_end|>'",
            )
        yield [PREFERENCES[to](pair, end or "")]
