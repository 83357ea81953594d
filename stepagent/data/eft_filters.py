"""From labelled and judged pairs to EFT files: the pairs left out, with a count and a reason; ties, the split by
problem, the funnel."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from stepagent.config.settings import EftSettings
from stepagent.console import table
from stepagent.data.eft_pairs import is_test
from stepagent.errors import DataError
from stepagent.files.jsonl import iter_json, write_json, write_rows
from stepagent.files.problems import question_key
from stepagent.files.texts import unusable_text
from stepagent.types import StepPair

_PAIR = TypeAdapter(StepPair)
_MORE_TIES = "more ties than asked for"


@dataclass(frozen=True, slots=True)
class TaughtPair:
    """A labelled pair and its EFT rows: the judged pair in its order, then in swapped order."""

    pair: StepPair
    rows: tuple[StepPair, StepPair]


@dataclass(slots=True)
class Funnel:
    """The rows that each filter removed, counted by reason, in the order of the filters."""

    removed: Counter[str] = field(default_factory=Counter)
    rows: list[dict[str, object]] = field(default_factory=list)

    def remove(self, reason: str, row: object) -> None:
        """Count a row and keep it with the reason."""
        self.removed[reason] += 1
        self.rows.append({"reason": reason, "row": row})


@dataclass(frozen=True, slots=True)
class Filters:
    """The rules by which pairs are left out. `held_out` are the keys of questions that the config evaluates on;
    `ties`: pairs labelled as equal are wanted."""

    settings: EftSettings
    seed: int
    held_out: set[int]
    ties: bool

    def screen(self, labelled: Path, funnel: Funnel) -> tuple[dict[str, StepPair], list[StepPair]]:
        """Return the pairs of the file `labelled` that are to be judged, by id, and the unfiltered ones of test
        problems."""
        labelled_pairs: list[StepPair] = []
        winners: dict[str, set[str | None]] = {}
        for _, row in iter_json(labelled):
            if "reason" in row:
                funnel.remove(row["reason"], row)
                continue
            pair = _PAIR.validate_python(row)
            labelled_pairs.append(pair)
            winners.setdefault(pair.id, set()).add(None if pair.winner == "tie" else pair.first)
        pairs: dict[str, StepPair] = {}
        unfiltered: dict[str, StepPair] = {}
        for pair in labelled_pairs:
            reason = self._unfit(pair)
            if reason is None and len(winners[pair.id]) > 1:
                reason = "labelled in two ways"
            if reason is None and is_test(pair.question, self.settings.test_share, self.seed):
                unfiltered.setdefault(pair.id, pair)
            if reason is None and pair.id in pairs:
                reason = "the same pair again"
            if reason is None and pair.winner != "tie" and (pair.margin or 0.0) < self.settings.min_margin:
                reason = f"margin below {self.settings.min_margin}"
            if reason:
                funnel.remove(reason, pair)
            else:
                pairs[pair.id] = pair
        chosen_ids = _with_fewer_ties(pairs.values(), self.settings.ties)
        for pair in [pair for pair in pairs.values() if pair.id not in chosen_ids]:
            funnel.remove(_MORE_TIES, pair)
            del pairs[pair.id]
        return pairs, list(unfiltered.values())

    def _unfit(self, pair: StepPair) -> str | None:
        """Return the reason why nothing can be learnt from a pair, or None."""
        if not all(text.strip() for text in (pair.question, pair.first, pair.second)):
            return "an empty question or step"
        if flaw := unusable_text("".join((pair.question, *pair.prefix, pair.first, pair.second))):
            return flaw
        if question_key(pair.question) in self.held_out:
            return "a problem that evaluate.problems holds"
        if pair.first.split() == pair.second.split():
            return "alike but for white space or the end"
        return "equal, and no ties are asked for" if pair.winner == "tie" and not self.ties else None

    def write(
        self, out: Path, taught_pairs: list[TaughtPair], unfiltered: list[StepPair], *, funnel: Funnel
    ) -> dict[str, object]:
        """Write the files of `make_eft` and print the funnel. Raises DataError if nothing is left to learn from."""
        test_side, train_side = (
            self._balanced([pair for pair in taught_pairs if self._tests(pair.pair) == side], funnel)
            for side in (True, False)
        )
        train = [row for pair in train_side for row in pair.rows]
        random.Random(self.seed).shuffle(train)
        test = [replace(pair.rows[_position(pair.pair)], judgement="") for pair in test_side]
        write_rows(out / "eft.jsonl", train)
        write_rows(out / "test.jsonl", test)
        orders = ((pair, pair.swapped())[_position(pair)] for pair in unfiltered)
        write_rows(out / "test_unfiltered.jsonl", orders)
        write_rows(out / "set_aside.jsonl", funnel.rows)
        winners = Counter(str(row.winner) for row in train)
        remaining = len(train_side) + len(test_side)
        report: dict[str, object] = {
            "levels and pairs": remaining + funnel.removed.total(),
            **{f"  − {reason}": count for reason, count in funnel.removed.items()},
            "pairs kept": remaining,
            "rows to learn from, both positions": len(train),
            **{f"  winner: {winner}": count for winner, count in sorted(winners.items())},
            "test pairs, of other problems": len(test),
            "test pairs, unfiltered": len(unfiltered),
        }
        write_json(out / "funnel.json", report)
        brief = ("levels and pairs", "pairs kept", "rows to learn from, both positions")
        table("EFT: judged levels and labelled pairs, filter by filter", report, brief)
        if not train:
            raise DataError(f"{out}: no pair is left to learn from; {out / 'set_aside.jsonl'} says why")
        return report

    def _tests(self, pair: StepPair) -> bool:
        return is_test(pair.question, self.settings.test_share, self.seed)

    def _balanced(self, side: list[TaughtPair], funnel: Funnel) -> list[TaughtPair]:
        chosen_ids = _with_fewer_ties([pair.pair for pair in side], self.settings.ties)
        for pair in side:
            if pair.pair.id not in chosen_ids:
                funnel.remove(_MORE_TIES, pair.rows[0])
        return [pair for pair in side if pair.pair.id in chosen_ids]


def _with_fewer_ties(pairs: Iterable[StepPair], share: float) -> set[str]:
    """Return the ids of all pairs, with no more ties than are `share` of them; drawn by id, which is a hash."""
    pairs = list(pairs)
    decisive = [pair.id for pair in pairs if pair.winner != "tie"]
    ties = sorted(pair.id for pair in pairs if pair.winner == "tie")
    return {*decisive, *ties[: int(len(decisive) * share / (1 - share))]}


def _position(pair: StepPair) -> int:
    """Return the order in which a test set shows a pair, 0 or 1: a coin thrown by its texts."""
    return int(pair.id, 16) % 2
