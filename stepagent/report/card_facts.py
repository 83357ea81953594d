"""The facts of a run that its cards on the Hub tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepagent.report.folder import stages_of
from stepagent.report.page import Counted, count_folder
from stepagent.report.private import without_keys
from stepagent.report.reading import typed_file, yaml_file
from stepagent.report.results import ModelResult, model_results
from stepagent.report.shapes import StageEntry, Summary
from stepagent.report.tree_facts import TreeCounts


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything that both cards of a run tell. `base` is M_0 as the config names it, `parents` the model that each one
    was made from, `rounds` the counts of each round's trees."""

    run: Path
    base: str
    config: Mapping[str, Any]
    results: Sequence[ModelResult]
    summary: Summary
    parents: Mapping[str, str]
    rounds: Mapping[int, TreeCounts]

    @property
    def hub_base(self) -> str | None:
        """The base model's hub id, None if it is a folder."""
        return None if is_local(self.base) else self.base


def card_facts(run: Path) -> CardFacts:
    """Read a run. Raises DataError if there is nothing in it."""
    counted = count_folder(run, facts_too=False)
    config = yaml_file(run / "config.yaml", counted.folder.gaps)
    config = without_keys(config) if isinstance(config, dict) else {}
    return CardFacts(
        run=run,
        base=str(config.get("model", "")),
        config=config,
        results=model_results(counted.folder, counted.by_path()),
        summary=typed_file(run / "summary.json", Summary, counted.folder.gaps) or Summary(),
        parents=_parents(stages_of(run, counted.folder.gaps)),
        rounds=_rounds(counted),
    )


def _rounds(counted: Counted) -> dict[int, TreeCounts]:
    counts = counted.by_path()
    return {
        int(path.name[6:]): counts[trees]
        for path in counted.folder.rounds()
        if (trees := path / "trees.jsonl") in counts
    }


def _parents(stages: Mapping[str, StageEntry]) -> dict[str, str]:
    """Return the name of the model that each model of a run was made from, by the hashes of its stages."""
    names = {"init": "M_1"} | {
        name: f"M_{int(number) + 1}"
        for name in stages
        if (number := name.removeprefix("round_").removesuffix(": optimize")).isdigit()
    }
    children = {stages[stage].outputs.get("model"): name for stage, name in names.items() if stage in stages}
    return {
        name: children.get(stages[stage].inputs.get("model"), "M_0") for stage, name in names.items() if stage in stages
    }


def is_local(model: str) -> bool:
    """Return whether a model's name is a path on this machine and no hub id."""
    path = Path(model)
    return path.is_absolute() or model.startswith((".", "~")) or len(path.parts) != 2 or path.exists()


def made_facts(folder: Path) -> dict[str, str]:
    """Return the facts in the card that a training wrote into a model's folder; none if there is no card."""
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines() if card.is_file() else []
    pairs = (line[2:].split(": ", 1) for line in lines if line.startswith("- "))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
