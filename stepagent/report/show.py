"""One problem's tree in print: the steps that were proposed, judged and kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from stepagent.console import visible
from stepagent.errors import DataError
from stepagent.files.jsonl import read_rows
from stepagent.judges.comparisons import winner
from stepagent.preferences import PAIR, level_outcome
from stepagent.tree import Level, StepTree


def render_tree(tree: StepTree, replies: bool = False) -> RenderableType:
    """Return the tree's levels in the order of the search, each candidate with its count, score and fate.

    `replies` adds the judge's text for every comparison.
    """
    head = Text.assemble(
        (visible(f"{tree.problem.id}  "), "bold"),
        visible(tree.problem.question),
        (
            f"\n{tree.status}, {len(tree.path)} steps, {tree.rollbacks} roll-backs, "
            f"{tree.usage.requests} requests, {tree.usage.completion_tokens} sampled tokens, "
            f"{tree.seconds:.2f} s",
            "dim",
        ),
    )
    root = Tree(head)
    for number, level in enumerate(tree.levels, start=1):
        depth = len(tree.prefix(level.parent)) + 1
        branch = root.add(Text(f"turn {number}, step {depth}: {level_outcome(level)}", style="bold cyan"))
        for node in level.nodes:
            branch.add(_candidate(tree, level, node))
        for line in _votes(level, replies):
            branch.add(line)
    legend = Text("✓ kept  ✗ worst of its pair  ×n sampled n times  a vote counts if both positions agree", "dim")
    if tree.error:
        fate = "failed" if tree.status == "failed" else "without a vote"
        return Group(root, Text(visible(f"{fate}: {tree.error}"), "red"))
    return Group(root, legend)


def _candidate(tree: StepTree, level: Level, node: int) -> Text:
    candidate = tree.nodes[node].candidate
    verdict = level.verdict
    mark, style = " ", ""
    score = ""
    if node in level.judged and verdict is not None:
        index = level.judged.index(node)
        score = f"  score {verdict.scores[index]:g}"
        if index == verdict.worst:
            mark, style = "✗", "red"
    if node == level.chosen:
        mark, style = "✓", "dim green" if level.abandoned else "green"
    number = level.judged.index(node) + 1 if node in level.judged else "-"
    ends = "  (ends)" if candidate.step.ends else ""
    flaws = f"  [{', '.join(candidate.flaws)}]" if candidate.flaws else ""
    return Text(
        f"{mark} {number}. {visible(candidate.step.content)}{ends}  ×{candidate.step.count}{score}{flaws}", style
    )


def _votes(level: Level, replies: bool) -> list[Text]:
    if level.verdict is None:
        return []
    if replies:
        return [
            Text(f"{vote.first + 1} against {vote.second + 1}: {vote.outcome}\n{visible(vote.reply)}", "dim")
            for vote in level.verdict.votes
        ]
    counts: Counter[str] = Counter()
    for vote in level.verdict.votes:
        choice = winner(vote)
        counts[vote.outcome if choice is None else f"for {choice + 1}"] += 1
    margin = level.verdict.margin
    text = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    return [Text(f"votes: {text}" + (f"; margin {margin:.2f}" if margin else ""), "dim")]


def find_tree(run: Path, problem: str | None) -> StepTree:
    """Return the tree of a problem in a run's folder (newest round first), a round's folder or a file.

    Without an id it is the first tree that made a pair. Raises DataError, which names a few problems that are
    there.
    """
    files = [run] if run.is_file() else sorted(run.glob("**/trees.jsonl"), key=_newest_round_first)
    if not files:
        raise DataError(f"{run}: no trees.jsonl here; give a run's folder")
    names: list[str] = []
    for file in files:
        for tree in read_rows(file, StepTree):
            if tree.problem.id == problem or (
                problem is None and any(level_outcome(level) == PAIR for level in tree.levels)
            ):
                return tree
            names.append(tree.problem.id)
    if problem is None:
        raise DataError(f"{run}: no tree made a pair; name one of {', '.join(names[:5])} with --problem")
    examples = ", ".join(names[:5])
    raise DataError(f"{run}: no tree of problem '{problem}'; there are {examples}, ...")


def _newest_round_first(path: Path) -> tuple[int, str]:
    number = path.parent.name.removeprefix("round_")
    return (-int(number) if number.isdigit() else 0, str(path))
