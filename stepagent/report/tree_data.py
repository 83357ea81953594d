"""Step trees as the compact data that the page's script draws: texts are kept once and named by number."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from stepagent.console import visible
from stepagent.preferences import level_outcome
from stepagent.report.folder import TreeFile
from stepagent.report.reading import tree_at
from stepagent.report.tree_choice import reading_order
from stepagent.report.tree_facts import FILTERS, TreeFacts
from stepagent.tree import Level, StepTree
from stepagent.types import Verdict

BUDGET = 2_500_000  # characters of all trees of a report: it stays well under 5 MB
_LONGEST = 4_000  # characters of a step, a reply or a question
_OUTCOMES = ("first", "second", "tie", "unparsed", "error")


class TreeData:
    """The trees of a page: `texts` and `trees`, as plain data. The script reads the keys that `_tree` writes."""

    def __init__(self, files: Sequence[TreeFile], budget: int = BUDGET) -> None:
        self.texts: list[str] = []
        self.trees: list[dict[str, Any]] = []
        self._files = files
        self._numbers: dict[str, int] = {}
        self._left = budget

    def fill(self, facts: Sequence[TreeFacts]) -> None:
        """Take trees, problem by problem, until the budget is used up; a problem comes with all its trees."""
        for group in reading_order(facts):
            for tree_facts in group:
                tree = tree_at(self._files[tree_facts.file].path, tree_facts.position)
                if tree is None or (tree.problem.id, tree.problem.question) != tree_facts.problem:
                    continue  # the file was written anew while the report was made
                self.add(tree, tree_facts)
            if self._left <= 0:
                return

    def add(self, tree: StepTree, facts: TreeFacts) -> None:
        """Take one tree."""
        row = self._tree(tree, facts)
        self._left -= len(json.dumps(row))
        self.trees.append(row)

    def as_json(self) -> str:
        """Return the data of the page as JSON that is safe between script tags: no markup is left in it."""
        places = [{"place": visible(file.place), "model": visible(file.model)} for file in self._files]
        data = {"texts": self.texts, "trees": self.trees, "files": places, "filters": FILTERS}
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")

    def _text(self, text: str) -> int:
        """Return the number of a text; a long one is cut in its middle, where it says so."""
        if len(text) > _LONGEST:
            half = _LONGEST // 2
            text = f"{text[:half]} […{len(text) - _LONGEST:,} characters are left out…] {text[-half:]}"
        key = visible(text)
        if key not in self._numbers:
            self._numbers[key] = len(self.texts)
            self.texts.append(key)
            self._left -= len(key) + 3
        return self._numbers[key]

    def _tree(self, tree: StepTree, facts: TreeFacts) -> dict[str, Any]:
        return {
            "id": visible(tree.problem.id),
            "question": self._text(tree.problem.question),
            "file": facts.file,
            "status": tree.status,
            "right": facts.right,
            "margin": None if facts.margin is None else round(facts.margin, 3),
            "length": facts.length,
            "flags": [name for name in FILTERS if name in facts.flags],
            "rollbacks": tree.rollbacks,
            "usage": [tree.usage.requests, tree.usage.prompt_tokens, tree.usage.completion_tokens],
            "seconds": round(tree.seconds, 2),
            "error": self._text(tree.error) if tree.error else None,
            "levels": [self._level(tree, level) for level in tree.levels],
        }

    def _level(self, tree: StepTree, level: Level) -> dict[str, Any]:
        return {
            "depth": len(tree.path_to(level.parent)) + 1,
            "outcome": level_outcome(level),
            "abandoned": level.abandoned,
            "chosen": None if level.chosen is None else level.nodes.index(level.chosen),
            "steps": [self._step(tree, node) for node in level.nodes],
            "judged": [level.nodes.index(node) for node in level.judged],
            "verdict": self._verdict(level.verdict) if level.verdict else None,
        }

    def _step(self, tree: StepTree, node: int) -> list[Any]:
        """Return text, count, log-probability, tokens, whether it ends the solution, and flaws."""
        candidate = tree.nodes[node].candidate
        step = candidate.step
        tokens = None if step.token_ids is None else len(step.token_ids)
        logprob = _number(step.logprob)
        return [self._text(step.content), step.count, logprob, tokens, int(step.ends), list(candidate.flaws)]

    def _verdict(self, verdict: Verdict) -> dict[str, Any]:
        return {
            "status": verdict.status,
            "best": verdict.best,
            "worst": verdict.worst,
            "margin": _number(verdict.margin),
            "scores": [_number(score) for score in verdict.scores],
            "error": self._text(verdict.error) if verdict.error else None,
            "votes": [
                [vote.first, vote.second, _OUTCOMES.index(vote.outcome), self._text(vote.reply)]
                for vote in verdict.votes
            ],
        }


def _number(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else round(number, 3)
