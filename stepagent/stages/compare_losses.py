"""Stage: several `optimize` sections from the same preferences, at equal step tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.box import SIMPLE_HEAD
from rich.table import Table

from stepagent.assembly.components import check_in_process
from stepagent.assembly.session import Session
from stepagent.config.loading import apply_override, validate
from stepagent.config.settings import Config, OptimizeSettings
from stepagent.console import closing_table_only, console, output, percent, warn
from stepagent.errors import ConfigError, DataError
from stepagent.files.jsonl import read_rows, write_json
from stepagent.models.divergence import mean_kl
from stepagent.models.folders import unless_made
from stepagent.models.loading import load_config
from stepagent.models.spans import context_limit
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.report.comparison import plot_losses
from stepagent.report.shares import paired_gain
from stepagent.stages.evaluate import Evaluation, evaluate, held_out_settings, read_evaluation
from stepagent.stages.train import CURVE, solve_prompt, train_on_pairs, training_identity, training_inputs
from stepagent.stages.watch import watch
from stepagent.training.environment import process_count
from stepagent.training.pairs import load_pairs
from stepagent.training.trainer import work_folder
from stepagent.tree import StepTree
from stepagent.types import ModelVersion

START = "start"
_KL_PROBLEMS = 100  # held-out problems on whose greedy solutions the divergence is measured


@dataclass(frozen=True, slots=True)
class Arm:
    """An `optimize` section under its name: a loss, or the settings in which it differs from the config's."""

    name: str
    settings: OptimizeSettings

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return "".join(character if character.isalnum() else "_" for character in self.name)


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """An arm on the held-out problems. `gain` over the start model, paired; `kl` to it, in nats a token of the arm's
    own greedy solutions; `drift` are the ways in which it drifted from it, None if nothing is watched. `seconds` of
    training, None where a killed one went on."""

    name: str
    epochs: float
    solved: int
    problems: int
    gain: float
    low: float
    high: float
    kl: float | None
    drift: tuple[str, ...] | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class _Trained:
    seconds: float | None


def read_arms(config: Config, variants: str) -> list[Arm]:
    """Return the arms of a comma-separated list; each is a loss (`likelihood`), or settings of `optimize` with blanks
    between them (`ipo beta=0.05`). Raises ConfigError."""
    arms = []
    for text in filter(None, (" ".join(variant.split()) for variant in variants.split(","))):
        data: dict[str, Any] = config.optimize.model_dump()
        for word in text.split():
            if word.startswith("pairs="):
                raise ConfigError(f"--compare {text}: a search decides the pairs; search again with optimize.{word}")
            apply_override(data, word if "=" in word else f"loss={word}")
        arms.append(Arm(text, validate(OptimizeSettings, data, f"--compare {text}")))
    if not arms:
        raise ConfigError("--compare: name the losses, such as --compare sigmoid,likelihood")
    folders = [arm.folder for arm in arms]
    if len(set(folders)) < len(folders) or START in folders:
        raise ConfigError(
            "--compare: an arm is named twice" if START not in folders else "--compare: an arm is 'start'"
        )
    return arms


def compare_losses(session: Session, model: ModelVersion, data: str, variants: str, *, out: Path) -> list[ArmFigures]:
    """Train every arm from `model` on the pairs of `data`, for as many step tokens as the config's own `optimize`
    section takes, and measure it on the held-out problems; writes losses.json and losses.png and prints the table.
    Continues what `out` holds. Raises ConfigError, DataError or ModelError."""
    config, settings = session.config, held_out_settings(session).without_search()
    arms = read_arms(config, variants)
    if config.backend.kind != "transformers" or process_count() > 1:
        raise ConfigError(
            "optimize --compare: measures each model in this process; set backend.kind: transformers, without torchrun"
        )
    check_in_process(config)
    budget, epochs = _equal_epochs(config, model, data, arms)
    figures = []
    with closing_table_only():
        evaluate(session, model, out / START, settings=settings)
        watch(session, model, START, START)
        before = read_evaluation(out / START)
        for arm, arm_epochs in zip(arms, epochs, strict=True):
            equal = arm.settings.model_copy(update={"epochs": arm_epochs})
            training = session.using(config.model_copy(update={"optimize": equal}))
            trained = _train(training, model, data, folder=out / arm.folder, name=arm.name)
            measured_in = out / arm.folder / "evaluation"
            evaluate(session, trained, measured_in, settings=settings)
            after = read_evaluation(measured_in)
            gain, low, high = _gain(before, after)
            training_report = (out / arm.folder / "optimize.json").read_bytes()
            figures.append(
                ArmFigures(
                    arm.name,
                    arm_epochs,
                    **_count(after),
                    gain=gain,
                    low=low,
                    high=high,
                    kl=_divergence(session, model, trained, measured_in),
                    drift=tuple(watch(session, trained, arm.folder, START)) if config.watch.problems else None,
                    seconds=TypeAdapter(_Trained).validate_json(training_report).seconds,
                )
            )
    rows = [asdict(row) for row in figures]
    write_json(out / "losses.json", {"step_tokens": budget, START: _count(before), "arms": rows})
    _print(before, figures, budget)
    if plot_losses(rows, before.greedy_accuracy, out / "losses.png"):
        console.print(f"plot: {out / 'losses.png'}", highlight=False, soft_wrap=True)
    warn(f"{row.name}: {way}" for row in figures for way in row.drift or ())
    session.keep_config()
    return figures


def _count(figures: Evaluation) -> dict[str, int]:
    """Return how many problems were solved, and how many were graded: a grader that fails has no say."""
    graded = [right for right in figures.solved if right is not None]
    return {"solved": sum(graded), "problems": len(graded)}


def _gain(before: Evaluation, after: Evaluation) -> tuple[float, float, float]:
    """Return the paired gain over the problems that were graded both times. Raises DataError without one."""
    graded = [
        (first, last)
        for first, last in zip(before.solved, after.solved, strict=True)
        if first is not None and last is not None
    ]
    if not graded:
        raise DataError(f"no held-out solution was graded both times ({after.grade_error}); nothing can be compared")
    return paired_gain([first for first, _ in graded], [last for _, last in graded])


def _equal_epochs(config: Config, model: ModelVersion, data: str, arms: Sequence[Arm]) -> tuple[int, list[float]]:
    """Return the step tokens that the config's own section learns from, and the epochs for which each arm has to be
    trained to learn from as many: likelihood sees the chosen steps alone."""
    tokenizer, outline = ChatTokenizer(model.path), load_config(model.path)
    window = context_limit(outline, config.optimize.max_context)
    pairs = load_pairs(
        data, tokenizer, window, vocabulary=outline.get_text_config().vocab_size, solve=solve_prompt(config)
    )

    def tokens(settings: OptimizeSettings) -> int:
        targets = (target for unit in pairs.units for target in (unit[:1] if settings.loss == "likelihood" else unit))
        return sum(len(target.ids) - target.start for target in targets)

    budget = config.optimize.epochs * tokens(config.optimize)
    return round(budget), [budget / tokens(arm.settings) for arm in arms]


def _train(session: Session, model: ModelVersion, data: str, *, folder: Path, name: str) -> ModelVersion:
    """Train one arm, unless its folder holds the model already; a killed training goes on."""
    config, out = session.config, folder / "model"

    def work() -> None:
        goes_on, start = work_folder(out).exists(), time.monotonic()
        report = train_on_pairs(config, model.path, data, out=out, seed=config.seed, label=name, curve=folder / CURVE)
        write_json(folder / "optimize.json", {**report, "seconds": None if goes_on else time.monotonic() - start})

    folder.mkdir(parents=True, exist_ok=True)
    session.run_folder.stage(
        session.stage_name("optimize", folder),
        inputs=training_inputs(config, model, Path(data)),
        outputs={"model": out},
        identity=training_identity(config),
        work=lambda: unless_made(out, work),
    )
    return ModelVersion(None, str(out))


def _divergence(session: Session, model: ModelVersion, trained: ModelVersion, measured_in: Path) -> float | None:
    """Return the KL of a trained model to the start model on its greedy solutions, which are on disk."""
    path = measured_in / "kl.json"
    greedy = measured_in / "greedy.jsonl"

    def work() -> None:
        trees = [tree for tree in read_rows(greedy, StepTree)[:_KL_PROBLEMS] if tree.nodes]
        # the solution as it was written: one that ran on has no path
        texts = [(tree.context_ids or (), tree.step(0).token_ids or ()) for tree in trees]
        write_json(path, {"kl": mean_kl(trained.path, model.path, texts)})

    session.run_folder.stage(
        session.stage_name("kl", measured_in),
        inputs={"model": Path(trained.path), "start": Path(model.path), "greedy": greedy},
        outputs={"kl": path},
        identity=_KL_PROBLEMS,
        work=work,
    )
    return TypeAdapter(dict[str, float | None]).validate_json(path.read_bytes())["kl"]


def _print(before: Evaluation, figures: Sequence[ArmFigures], budget: int) -> None:
    title = f"Greedy accuracy on held-out problems, each after {budget:,} step tokens; KL in nats a token"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("arm", overflow="fold")
    for name in ("accuracy", "gain (95 %)", "KL", "drift", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(START, percent(before.greedy_accuracy), "", "", "", "")
    for row in figures:
        table.add_row(
            row.name,
            percent(row.solved / row.problems),
            f"{100 * row.gain:+.1f} ({100 * row.low:+.1f} to {100 * row.high:+.1f})",
            "–" if row.kl is None else f"{row.kl:.3g}",
            "–" if row.drift is None else str(len(row.drift) or "none"),
            "–" if row.seconds is None else f"{row.seconds:.0f}",
        )
    output.print(table)
