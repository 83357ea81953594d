"""Finds the parts of a folder that a report shows: a whole run, a round, a search, an evaluation, a comparison."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stepagent.errors import DataError
from stepagent.report.reading import Gaps, config_file, typed_file
from stepagent.report.shapes import ConfigFacts, EvaluationFigures, Manifest, StageEntry

EVALUATION = "held-out problems"
"""The place of trees whose problems have references by design."""


@dataclass(frozen=True, slots=True)
class TreeFile:
    """A file of step trees: where they were searched (`place`), by which model, and the stage of the manifest that
    wrote it. `browsed`: its trees are shown one by one; greedy solutions are only counted."""

    path: Path
    place: str
    model: str
    stage: str
    browsed: bool = True


@dataclass(slots=True)
class ReportFolder:
    """A folder with results, and the config that made them (defaults if the folder holds none)."""

    path: Path
    gaps: Gaps
    config: ConfigFacts

    @classmethod
    def open(cls, path: Path) -> ReportFolder:
        """Return the folder at `path`. Raises DataError if there is nothing to report."""
        if path.is_file() and path.suffix == ".jsonl":
            path = path.parent
        if not path.is_dir():
            raise DataError(f"{path}: no such folder; give the folder of a run, a round, a search or an evaluation")
        gaps = Gaps()
        near = next((place for place in (path, *path.parents[:2]) if (place / "config.yaml").is_file()), path)
        folder = cls(path, gaps, config_file(near / "config.yaml", gaps))
        if not (list(folder.tree_files()) or folder.evaluations() or folder.manifest() or folder.judge_items()):
            raise DataError(f"{path}: nothing to report; there are no trees, evaluations or finished stages in it")
        return folder

    @property
    def name(self) -> str:
        """The name of the folder, which is that of the run."""
        return self.path.resolve().name

    def rounds(self) -> list[Path]:
        """Return the folders of the rounds, in their order."""
        numbers = {int(path.name[6:]): path for path in self.path.glob("round_*") if path.name[6:].isdigit()}
        return [path for _, path in sorted(numbers.items()) if path.is_dir()]

    def training_folders(self) -> list[tuple[str, Path]]:
        """Return the folders that tell of a training, each with the model that came out."""
        places = [("M_1", self.path), *((f"M_{int(path.name[6:]) + 1}", path) for path in self.rounds())]
        if match := re.fullmatch(r"round_(\d+)", self.path.resolve().name):
            places[0] = (f"M_{int(match[1]) + 1}", self.path)
        return [(model, path) for model, path in places if (path / "training.jsonl").is_file() or _trained(path)]

    def evaluations(self) -> list[tuple[str, Path]]:
        """Return the folders with the figures of a model on held-out data, in the order of the models."""
        places = [self.path, *self.path.glob("evaluation/*"), *self.path.glob("M_*")]
        by_model = [
            (figures.name or place.name, place)
            for place in places
            if not (place / "items.jsonl").is_file()
            and (figures := typed_file(place / "metrics.json", EvaluationFigures, self.gaps))
        ]
        return sorted(by_model, key=lambda pair: _model_order(pair[0]))

    def tree_files(self) -> Iterator[TreeFile]:
        """Return every file of trees: those of the rounds first, then held-out, watched, compared ones."""
        for path in self.rounds():
            model = f"M_{path.name[6:]}"
            yield from _existing(
                TreeFile(path / "trees.jsonl", path.name.replace("_", " "), model, f"{path.name}: search")
            )
        for model, path in self.evaluations():
            stage = "evaluate" if path == self.path else f"{path.relative_to(self.path).as_posix()}: evaluate"
            yield from _existing(TreeFile(path / "trees.jsonl", EVALUATION, model, stage))
            yield from _existing(TreeFile(path / "greedy.jsonl", "greedy solutions", model, stage, browsed=False))
        for path in sorted(self.path.glob("watch/M_*.jsonl"), key=lambda path: _model_order(path.stem)):
            yield TreeFile(path, "watched problems", path.stem, f"watch: search with {path.stem}")
        if self.path not in [place for _, place in self.evaluations()]:
            yield from _existing(TreeFile(self.path / "trees.jsonl", "search", self._own_model(), "search"))
        for path in sorted(self.path.glob("*/point.json")):
            trees = path.with_name("trees.jsonl")
            yield from _existing(TreeFile(trees, path.parent.name, "", f"{path.parent.name}: compare"))
        if (eft := self.eft()) and eft != self.path:
            yield from _existing(TreeFile(eft / "trees.jsonl", "EFT search", "", "data/eft: search"))

    def eft(self) -> Path | None:
        """Return the folder of EFT data, if there is one."""
        places = (self.path, self.path / "data" / "eft")
        return next((place for place in places if (place / "funnel.json").is_file()), None)

    def manifest(self) -> dict[str, StageEntry]:
        """Return the manifest's stages by name."""
        return stages_of(self.path, self.gaps)

    def judge_items(self) -> list[tuple[str, Path]]:
        """Return the files with a judge's verdicts on labelled items, each with the model that judged."""
        places = [(self._own_model(), self.path / "items.jsonl")]
        places += [(model, path / "pairs.jsonl") for model, path in self.evaluations()]
        return [(model, path) for model, path in places if path.is_file()]

    def _own_model(self) -> str:
        match = re.fullmatch(r"round_(\d+)", self.path.resolve().name)
        return f"M_{match[1]}" if match else ""


def stages_of(folder: Path, gaps: Gaps) -> dict[str, StageEntry]:
    """Return the stages in the manifest of a folder, by name."""
    manifest = typed_file(folder / "manifest.json", Manifest, gaps)
    return manifest.stages if manifest else {}


def _existing(file: TreeFile) -> Iterator[TreeFile]:
    if file.path.is_file():
        yield file


def _trained(path: Path) -> bool:
    return (path / "optimize.json").is_file()


def _model_order(name: str) -> tuple[int, str]:
    number = name.removeprefix("M_")
    return (int(number) if number.isdigit() else 0, name)
