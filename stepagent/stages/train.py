"""Stages that train: M_0 + IFT and EFT rows -> M_1, and M_i + preferences.jsonl -> M_{i+1}. Loads torch."""

from __future__ import annotations

import random
import re
from pathlib import Path

from stepagent.assembly.components import Binder
from stepagent.assembly.session import Session
from stepagent.config.prompts import (
    PromptTemplate,
    comparison_values,
    load_solve_prompt,
    prompt_path,
)
from stepagent.config.settings import Config, InitSettings
from stepagent.console import Bar, bar, percent, table, warn
from stepagent.errors import ConfigError, DataError
from stepagent.files.jsonl import dump_row, write_json
from stepagent.files.problems import ProblemFile
from stepagent.files.rows import IftRow, load_eft, read_ift
from stepagent.files.runs import hash_path
from stepagent.generators.boundaries import BoundaryKind, boundary_kind, join, split
from stepagent.models.folders import unless_made
from stepagent.seeds import derive_seed
from stepagent.stages.evaluate import evaluate, read_evaluation
from stepagent.stages.own_judgements import own_judgements
from stepagent.training.dpo import Replay, optimize_model
from stepagent.training.environment import process_count
from stepagent.training.memory import give_back_memory
from stepagent.training.merge import refuse_existing
from stepagent.training.sft import SftRow, sft
from stepagent.types import ModelVersion

CURVE = "training.jsonl"
"""The metrics of every optimizer step: in a round's folder those of its step-DPO, in the run's those of M_1."""


class _BarMonitor:
    """Shows a training on a progress bar, with some of its metrics, collects its warnings, and appends the metrics of
    every step to the file `curve`. A training that goes on writes the steps after its checkpoint again."""

    def __init__(self, progress: Bar, metrics: str, curve: Path | None = None) -> None:
        self.warnings: list[str] = []
        self._progress = progress
        self._metrics = metrics
        self._curve = curve
        progress.advance(0, "loading the model, and comparing ways to score it")

    def step(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        """See Monitor."""
        self._progress.total(steps)
        self._progress.advance(step, self._metrics.format(**metrics))
        if self._curve:
            with self._curve.open("a", encoding="utf-8") as file:
                file.write(dump_row({"step": step, "steps": steps, **metrics}))

    def warn(self, warning: str) -> None:
        """See Monitor. Said at once: a training of hours may be stopped for it."""
        self.warnings.append(warning)
        warn([warning])


def sft_rows(config: Config, init: InitSettings) -> list[SftRow]:
    """Return the rows of one epoch of SFT: IFT and EFT rows, as often as `mix` says, rendered with the very prompts
    that the generator and the judge will use.

    Raises ConfigError or DataError.
    """
    rng = random.Random(derive_seed(config.seed, "mix"))
    solutions = _times(ift_rows(config, init.ift), init.mix.ift, rng)
    judgements = _times(eft_rows(config, init.eft), init.mix.eft, rng) if init.eft else []
    if not solutions and not judgements:
        raise ConfigError("init.mix: weighs both sets with 0; nothing is left to learn from")
    return [*solutions, *judgements]


def ift_rows(config: Config, path: Path) -> list[SftRow]:
    """Solutions, each after its question in the generator's prompt. Raises ConfigError or DataError."""
    generator = Binder(config).generator()
    solve = load_solve_prompt(generator.prompt("solve"))
    boundary = boundary_kind(generator.arguments.get("boundary"))
    return [
        SftRow(solve.messages({"question": row.question}), _solution(place, row, boundary))
        for place, row in read_ift(path)
    ]


def _solution(place: str, row: IftRow, boundary: BoundaryKind | None) -> str:
    """Return a row's solution as the generator will write it: hand-made steps get the terminator that they lack.
    Raises DataError if the joined text does not give the steps back, since step search could not tell them apart."""
    if not row.steps or boundary is None:
        return row.text
    mark = r"\AStep \d+:\s*" if boundary == "marker" else r"\A\s*"
    contents = [re.sub(mark, "", step.strip()) for step in row.steps]
    if split(boundary, row.text) == contents:
        return row.text
    text = "".join(join(boundary, contents) or ())
    if [step.split() for step in split(boundary, text) or ()] != [step.split() for step in contents]:
        raise DataError(
            f"{place}: its steps cannot be told apart with generator.boundary: {boundary}; cut them anew "
            "with stepagent data ift, or choose another boundary"
        )
    return text


def eft_rows(config: Config, path: Path) -> list[SftRow]:
    """Judgements, each after its pair in the judge's prompt. Raises ConfigError or DataError."""
    template, labels = Binder(config, serves=True).judge().judge_template()
    return [
        SftRow(
            template.messages(comparison_values(pair.question, "".join(pair.prefix), pair.first, second=pair.second)),
            pair.judgement,
        )
        for pair in load_eft(path, labels.all())
    ]


def solve_prompt(config: Config) -> PromptTemplate:
    """Return the prompt that the config's generator puts a question in. Raises ConfigError."""
    return load_solve_prompt(Binder(config, serves=True).generator().prompt("solve"))


def _times(rows: list[SftRow], weight: float, rng: random.Random) -> list[SftRow]:
    whole = int(weight)
    return rows * whole + rng.sample(rows, round((weight - whole) * len(rows)))


def replay_of(config: Config, purpose: str, pairs: Path | None = None) -> Replay | None:
    """Return the rows that a round learns beside its pairs: as many for each pair as `replay` says, of each set without
    repetition, drawn by seed and `purpose`; and the votes on the file `pairs`. None if the config replays nothing.
    Raises ConfigError or DataError."""
    settings = config.replay
    if settings is None or not (settings.ift or settings.eft or settings.judged):
        return None
    files = settings.files(config.init)
    sets = [(settings.ift, ift_rows(config, files["ift"]))] if "ift" in files else []
    if "eft" in files:
        sets.append((settings.eft, eft_rows(config, files["eft"])))
    judgements = own_judgements(config, pairs) if pairs and settings.judged else []

    def draw(count: int) -> list[SftRow]:
        rng = random.Random(derive_seed(config.seed, "replay", purpose))
        sample = [row for share, rows in sets for row in rng.sample(rows, min(len(rows), round(share * count)))]
        return [*sample, *judgements[: round(settings.judged * count)]]

    return Replay(draw, settings.weight)


def initialize(config: Config, init: InitSettings, out: Path, *, curve: Path | None = None) -> None:
    """Train M_0 on its IFT and EFT rows and write M_1 to `out`, which must not exist yet, and the metrics of every step
    to the file `curve`."""
    rows = sft_rows(config, init)
    with bar("init: SFT of M_0", None) as progress:
        monitor = _BarMonitor(progress, "loss {loss:.3f}", curve)
        report = sft(config.model, rows, out, settings=init, seed=config.seed, monitor=monitor)
    give_back_memory()
    table("Initialisation: M_0 -> M_1", report, ("rows", "steps", "loss_first", "loss_last"))


def init(session: Session, settings: InitSettings, model: ModelVersion) -> ModelVersion:
    """Stage: train M_0 into the folder of `model`, M_1, unless it is there. Returns M_1."""
    config, folder = session.config, Path(model.path)

    def work() -> None:
        if session.served:
            session.served.rest()
        initialize(config, settings, folder, curve=session.folder / CURVE)

    session.run_folder.stage(
        "init",
        inputs=_init_inputs(config, settings),
        outputs={"model": folder},
        identity=_init_identity(config, settings),
        work=lambda: unless_made(folder, work),
    )
    return model


def _init_inputs(config: Config, settings: InitSettings) -> dict[str, Path]:
    return {"model": Path(config.model), **settings.files()}


def _init_identity(config: Config, settings: InitSettings) -> list[object]:
    binder = Binder(config, serves=True)
    judging, _ = binder.judge().judge_template()
    prompts = [prompt_path(binder.generator().prompt("solve")), judging.path]
    criteria = [judging.criteria] if judging.criteria else []
    # the files count by their content, as inputs: a run that was moved is the same run
    dump = settings.model_dump(mode="json", exclude=set(settings.files()))
    return [dump, config.seed, *map(hash_path, prompts), *criteria]


def init_command(config: Config, settings: InitSettings, out: Path) -> None:
    """Train M_1 into `out`. If the config names held-out data and asks its model in process, M_0 and M_1 are measured
    on them, into `out`-evaluation: greedy solutions, their form, and labelled pairs. The same command finishes the
    work of a killed one."""
    if config.evaluate is None or config.backend.kind != "transformers" or process_count() > 1:
        initialize(config, settings, out)
        return
    folder = out.with_name(f"{out.name}-evaluation")
    first, trained = ModelVersion(0, config.model), ModelVersion(1, str(out))
    measured = config.evaluate.without_search()
    with Session(config, folder) as session:
        if not session.run_folder.begun("init", _init_inputs(config, settings), _init_identity(config, settings)):
            refuse_existing(out)
        ProblemFile.of(measured.problems, folder).held_out(config.grader.kind)
        sft_rows(config, settings)
        evaluate(session, first, folder / first.name, settings=measured)
        init(session, settings, trained)
        evaluate(session, trained, folder / trained.name, settings=measured)
    base_figures, trained_figures = (read_evaluation(folder / model.name) for model in (first, trained))
    rows = {
        name.replace("_", " "): f"{percent(getattr(base_figures, name))} -> {percent(getattr(trained_figures, name))}"
        for name in ("valid_format", "greedy_accuracy", "judge_accuracy", "judge_consistency")
        if getattr(trained_figures, name) is not None
    }
    table("M_0 -> M_1", rows)


def optimize(session: Session, model: ModelVersion, preferences: Path, *, trained: ModelVersion) -> ModelVersion:
    """Stage: step-wise DPO of `model` on the pairs of a round, with the rows that the config replays, unless
    `trained` is there. Writes optimize.json and training.jsonl beside the pairs. Returns `trained`."""
    config, round_folder, out = session.config, preferences.parent, Path(trained.path)
    label = round_folder.name.replace("_", " ")
    seed = config.seed + (trained.index or 0) - 1

    def work() -> None:
        if session.served:
            session.served.rest()
        curve = round_folder / CURVE
        report = train_on_pairs(config, model.path, preferences, out=out, seed=seed, label=label, curve=curve)
        write_json(round_folder / "optimize.json", report)

    session.run_folder.stage(
        session.stage_name("optimize", round_folder),
        inputs=training_inputs(config, model, preferences),
        outputs={"model": out},
        identity=training_identity(config),
        work=lambda: unless_made(out, work),
    )
    return trained


def training_inputs(config: Config, model: ModelVersion, preferences: Path) -> dict[str, Path]:
    """Return the files that step-wise DPO of a model on some pairs reads, by name."""
    inputs = {"model": Path(model.path), "preferences": preferences}
    if config.replay:
        inputs |= config.replay.files(config.init)
    if config.replay and config.replay.judged:
        inputs["trees"] = preferences.with_name("trees.jsonl")
    return inputs


def training_identity(config: Config) -> list[object]:
    """Return all that decides the outcome of a training beside its inputs."""
    # the files count by their content, as inputs
    replay = config.replay.model_dump(mode="json", exclude={"ift_data", "eft_data"}) if config.replay else None
    settings = config.optimize.model_dump(mode="json", exclude={"pairs"})  # these decide the preferences
    return [settings, config.seed, hash_path(solve_prompt(config).path), replay]


def optimize_command(config: Config, model: str, data: str, *, out: Path) -> dict[str, object]:
    """Step-wise DPO of `model` on `data` into the folder `out`, with the rows that the config replays. Returns the
    closing figures."""
    return train_on_pairs(config, model, data, out=out, seed=config.seed, label="alone")


def train_on_pairs(
    config: Config, model: str, data: str | Path, *, out: Path, seed: int, label: str, curve: Path | None = None
) -> dict[str, object]:
    """Train with a progress bar and a closing table; the metrics of every step go to the file `curve`. Returns the
    figures and the guards' warnings."""
    with bar(f"step-DPO, {label}", None) as progress:
        monitor = _BarMonitor(progress, "margin {margin:.2f} accuracy {accuracy:.2f}", curve)
        figures = optimize_model(
            model,
            data,
            out,
            settings=config.optimize,
            seed=seed,
            monitor=monitor,
            solve=solve_prompt(config),
            replay=replay_of(config, label, Path(data)),
        )
    give_back_memory()
    table(f"Step-wise DPO, {label}", figures, ("pairs", "steps", "margin", "accuracy"))
    return {**figures, "warnings": monitor.warnings}
