"""From labelled and judged pairs to EFT files: what is left out, with a count and a reason; ties, the split
by problem, the funnel."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from stepagent.config.prompts import Labels
from stepagent.config.settings import Config, EftSettings
from stepagent.console import table
from stepagent.data.eft_pairs import SiblingPair, is_test, seat_row
from stepagent.errors import DataError
from stepagent.files.jsonl import iter_json, write_atomic, write_rows
from stepagent.files.problems import held_out_keys, question_key
from stepagent.files.rows import EftRow
from stepagent.files.texts import unusable_text

Kept = list[tuple[SiblingPair, list[EftRow]]]
"""Pairs with a row for each seat: `one` first, then `other` first."""

_PAIR = TypeAdapter(SiblingPair)
_MORE_TIES = "more ties than asked for"


@dataclass(slots=True)
class Funnel:
    """What each filter removed, in the order of the filters, and the rows themselves with the reason."""

    removed: Counter[str] = field(default_factory=Counter)
    aside: list[dict[str, object]] = field(default_factory=list)

    def remove(self, reason: str, row: object) -> None:
        self.removed[reason] += 1
        self.aside.append({"reason": reason, "row": row})


def screened(
    config: Config, settings: EftSettings, labels: Labels, labelled: Path, out: Path, funnel: Funnel
) -> tuple[dict[str, SiblingPair], list[SiblingPair]]:
    """The pairs to be judged, by id, and the unfiltered ones of test problems."""
    held_out = held_out_keys(config, out)
    ties = labels.tie is not None and settings.ties > 0
    found: list[SiblingPair] = []
    said: dict[str, set[str | None]] = {}
    for _, row in iter_json(labelled):
        if "reason" in row:
            funnel.remove(row["reason"], row)
            continue
        pair = _PAIR.validate_python(row)
        found.append(pair)
        said.setdefault(pair.id, set()).add(None if pair.tie else pair.one)
    pairs: dict[str, SiblingPair] = {}
    unfiltered: dict[str, SiblingPair] = {}
    for pair in found:
        reason = _unfit(pair, held_out, ties)
        if reason is None and len(said[pair.id]) > 1:
            reason = "labelled in two ways"
        if reason is None and is_test(pair.question, settings.test_share, config.seed):
            unfiltered.setdefault(pair.id, pair)
        if reason is None and pair.id in pairs:
            reason = "the same pair again"
        if reason is None and not pair.tie and pair.margin < settings.min_margin:
            reason = f"margin below {settings.min_margin}"
        if reason:
            funnel.remove(reason, pair)
        else:
            pairs[pair.id] = pair
    few = _fewer_ties(pairs.values(), settings.ties)
    for pair in [pair for pair in pairs.values() if pair.id not in few]:
        funnel.remove(_MORE_TIES, pair)
        del pairs[pair.id]
    return pairs, list(unfiltered.values())


def _unfit(pair: SiblingPair, held_out: set[int], ties: bool) -> str | None:
    """Why a pair is for nobody, if it is."""
    if not all(text.strip() for text in (pair.question, pair.one, pair.other)):
        return "an empty question or step"
    if flaw := unusable_text("".join((pair.question, *pair.prefix, pair.one, pair.other))):
        return flaw
    if question_key(pair.question) in held_out:
        return "a problem that evaluate.problems holds"
    if pair.one.split() == pair.other.split():
        return "alike but for white space or the end"
    return "equal, and no ties are asked for" if pair.tie and not ties else None


def _fewer_ties(pairs: Iterable[SiblingPair], share: float) -> set[str]:
    """The ids of all pairs, with only so many ties that they are `share` of them; drawn by id, which is a
    hash."""
    pairs = list(pairs)
    decisive = [pair.id for pair in pairs if not pair.tie]
    ties = sorted(pair.id for pair in pairs if pair.tie)
    return {*decisive, *ties[: int(len(decisive) * share / (1 - share))]}


def write_eft(
    settings: EftSettings,
    seed: int,
    out: Path,
    kept: Kept,
    unfiltered: list[SiblingPair],
    funnel: Funnel,
) -> dict[str, object]:
    """Write the files of `eft_stage` and print the funnel. Raises DataError if nothing is left to learn
    from."""
    sides: dict[bool, Kept] = {True: [], False: []}
    for pair, rows in kept:
        sides[is_test(pair.question, settings.test_share, seed)].append((pair, rows))
    for side, found in sides.items():
        few = _fewer_ties([pair for pair, _ in found], settings.ties)
        for pair, rows in found:
            if pair.id not in few:
                funnel.remove(_MORE_TIES, rows[0])
        sides[side] = [(pair, rows) for pair, rows in found if pair.id in few]
    train = [row for _, rows in sides[False] for row in rows]
    random.Random(seed).shuffle(train)
    test = [replace(rows[_seat(pair)], judgement="") for pair, rows in sides[True]]
    write_rows(out / "eft.jsonl", train)
    write_rows(out / "test.jsonl", test)
    write_rows(out / "test_unfiltered.jsonl", (seat_row(pair, bool(_seat(pair))) for pair in unfiltered))
    write_rows(out / "set_aside.jsonl", funnel.aside)
    winners = Counter(row.winner for row in train)
    left = len(sides[False]) + len(sides[True])
    report: dict[str, object] = {
        "levels and pairs": left + funnel.removed.total(),
        **{f"  − {reason}": count for reason, count in funnel.removed.items()},
        "pairs kept": left,
        "rows to learn from, both seats": len(train),
        **{f"  winner: {who}": count for who, count in sorted(winners.items())},
        "test pairs, of other problems": len(test),
        "test pairs, unfiltered": len(unfiltered),
    }
    write_atomic(out / "funnel.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    table("EFT: what became of judged levels and labelled pairs", report)
    if not train:
        raise DataError(f"{out}: no pair is left to learn from; {out / 'set_aside.jsonl'} says why")
    return report


def _seat(pair: SiblingPair) -> int:
    """Which row of a pair a test set holds: a coin thrown by its texts."""
    return int(pair.id, 16) % 2
