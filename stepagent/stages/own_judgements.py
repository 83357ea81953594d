"""EFT rows out of a round's own search: the judge's votes on the pairs that a second judge confirmed.

They show the judge what the newest model gets wrong, which M_1's EFT rows cannot.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from stepagent.assembly.components import Binder
from stepagent.config.prompts import comparison_values
from stepagent.config.settings import Config
from stepagent.errors import DataError
from stepagent.files.jsonl import iter_numbered
from stepagent.preferences import preference_levels
from stepagent.seeds import derive_seed
from stepagent.training.sft import SftRow
from stepagent.tree import Level, StepTree, joined_text
from stepagent.types import StepPreference, Vote


def own_judgements(config: Config, pairs: Path) -> list[SftRow]:
    """Return both votes on each pair of the file `pairs` whose two orders agree, each vote after its pair in the
    judge's prompt; the votes are read from trees.jsonl beside it. The pairs that the judge held for nearest come first,
    in an order by seed among equals: of those there is most to learn. Both orders make positions and labels even.

    Raises DataError if there is no such file, or no pair with two written votes.
    """
    template, _ = Binder(config, serves=True).judge().judge_template()
    rows: list[tuple[float, float, list[SftRow]]] = []
    total = 0
    for tree, level, row in _levels(pairs):
        total += 1
        if not (votes := _agreed_votes(level)):
            continue
        rng = random.Random(derive_seed(config.seed, "own judgement", row.problem_id, row.depth))
        prefix = joined_text(tree.prefix(level.parent))
        contents = [tree.step(place).content for place in level.judged]
        examples = [
            SftRow(
                template.messages(
                    comparison_values(row.question, prefix, contents[vote.first], second=contents[vote.second])
                ),
                vote.reply,
            )
            for vote in votes
        ]
        rows.append((row.margin, rng.random(), examples))
    if not rows:
        raise DataError(
            f"{pairs}: none of its {total} pairs has a written vote in both orders that agree, so replay.judged has "
            "nothing to teach; judge with kind pairwise, or leave replay.judged out"
        )
    rows.sort(key=lambda entry: entry[:2])
    return [row for _, _, examples in rows for row in examples]


def _levels(pairs: Path) -> Iterator[tuple[StepTree, Level, StepPreference]]:
    """Yield the levels of the search behind a file of pairs, with those of its pairs that they made."""
    trees = pairs.with_name("trees.jsonl")
    if not trees.is_file():
        raise DataError(f"{trees}: not found; replay.judged reads there how the pairs of {pairs.name} were judged")
    keys = {(row.problem_id, row.depth) for _, row in iter_numbered(pairs, StepPreference)}
    for _, tree in iter_numbered(trees, StepTree):
        for level, row in preference_levels(tree):
            if (row.problem_id, row.depth) in keys:
                yield tree, level, row


def _agreed_votes(level: Level) -> Sequence[Vote]:
    """Return the two votes on a level's best and worst step if both are for the best, in their first reply; else
    none."""
    verdict = level.verdict
    assert verdict is not None
    best, worst = verdict.best, verdict.worst
    votes = [
        vote
        for vote in verdict.votes
        if (vote.first, vote.second, vote.outcome) in ((best, worst, "first"), (worst, best, "second"))
        and vote.reply
        and not vote.asked_again
    ]
    return votes if len(votes) == 2 else ()
