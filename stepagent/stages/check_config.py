"""Stage: everything that is wrong with a config file, each fault with its place. Asks no server, loads no model and
writes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepagent.assembly.binding import Bound, place_of
from stepagent.assembly.component_types import ComponentType
from stepagent.assembly.components import (
    BACKEND,
    GENERATOR,
    GRADER,
    JUDGE,
    SEARCH,
    Binder,
    check_serving,
)
from stepagent.assembly.factories import load_outline
from stepagent.backends.budget import Budget
from stepagent.config.component import KINDS, Component
from stepagent.config.faults import STAND_IN, line_of, located, usable_settings
from stepagent.config.loading import Place, apply_override, config_text, read_mapping, validate
from stepagent.config.prompts import load_prompt
from stepagent.config.settings import Config, ProblemSettings
from stepagent.config.yaml_text import key_lines
from stepagent.errors import ConfigError, DataError, Fault, collected
from stepagent.files.presets import PRESETS
from stepagent.files.problems import ProblemFile, count_problems
from stepagent.files.rows import load_eft, load_labelled_pairs, read_ift
from stepagent.files.tables import may_be_dataset
from stepagent.models.folders import check_folder

_COMPONENTS: dict[str, ComponentType] = {
    "backend": BACKEND,
    "generator": GENERATOR,
    "judge": JUDGE,
    "search": SEARCH,
    "grader": GRADER,
    "eft.labels": JUDGE,
    "eft.generator": GENERATOR,
    "eft.search": SEARCH,
    "eft.teacher": JUDGE,
    "verify": JUDGE,
}


@dataclass(slots=True)
class CheckedConfig:
    """A config as far as it can be used: its settings without the wrong ones, its bound components by place, the number
    of rows of each file by place (None for a data set, which is not fetched), all faults, and notes."""

    config: Config
    bound: dict[str, Bound] = field(default_factory=dict)
    rows: dict[str, int | None] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_config(path: Path, overrides: Sequence[str] = ()) -> tuple[CheckedConfig, list[str]]:
    """Check a config file with its `--set` overrides. Returns it, and the sentence for each fault with file and line.
    Raises ConfigError for a file that is no YAML mapping."""
    text = config_text(path)
    try:
        data = read_mapping(text, path)
        lines = key_lines(text)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; a config has a few levels") from None
    places: dict[Place, str] = {}
    faults: list[Fault] = []
    for override in overrides:
        with collected(faults, (override,)):
            places[apply_override(data, override)] = override
    config, further = usable_settings(data)
    checked = CheckedConfig(config, faults=faults + further)
    _bind(checked, data)
    _check_files(checked)
    _check_sections(checked)
    ordered = sorted(dict.fromkeys(checked.faults), key=lambda fault: (line_of(fault.place, lines), str(fault.place)))
    return checked, list(dict.fromkeys(located(fault, path, lines, places=places) for fault in ordered))


def _bind(checked: CheckedConfig, data: dict[str, Any]) -> None:
    """Bind each component of the file, also those beside wrong keys."""
    binder = Binder(checked.config, serves=True, load=_load)
    for role, type_ in _COMPONENTS.items():
        *parents, key = role.split(".")
        section = data.get(parents[0]) if parents else data
        settings = section.get(key) if isinstance(section, dict) else None
        if isinstance(settings, str) and type_ is JUDGE:  # the path of a file, which the settings hold already
            holder = getattr(checked.config, parents[0]) if parents else checked.config
            component = getattr(holder, key)
            settings = {"kind": component.kind, **component.arguments()} if component else None
        if settings is None and not parents and (default := getattr(checked.config, key)):
            settings = {"kind": default.kind}
        if isinstance(settings, dict):
            kind = KINDS[type_.name if type_ is not SEARCH else "search"]
            with collected(checked.faults, place_of(role)):
                component = validate(Component, {"kind": kind, **settings}, role, place=place_of(role))
                checked.bound[role] = binder.part(role, component, type_)


def _load(role: str, target: str, remedy: str | None = None) -> Any:
    try:
        return load_outline(role, target, remedy)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 (a module of the user's may raise anything)
        raise ConfigError(f"{role}: importing '{target}' raises {type(error).__name__}: {error}; mend it") from None


@contextmanager
def _file(checked: CheckedConfig, role: str) -> Iterator[None]:
    """Collect the faults of the file that stands at `role`."""
    try:
        with collected(checked.faults, place_of(role)):
            yield
    except OSError as error:
        checked.faults.append(Fault(place_of(role), f"'{role}' {error.filename}: {error.strerror}"))
    except (ValueError, RecursionError) as error:  # a name that no path can have, a row that is nested too deeply
        checked.faults.append(Fault(place_of(role), f"'{role}' cannot be read: {error}"))


def _check_files(checked: CheckedConfig) -> None:
    """Read every file that the config names, row by row."""
    config = checked.config
    init, eft, evaluate = config.init, config.eft, config.evaluate
    _check_problems(checked, "problems", config.problems)
    _check_problems(checked, "eft.problems", eft.problems if eft else None)
    _check_problems(checked, "evaluate.problems", evaluate.problems if evaluate else None, answers=True)
    judge = checked.bound.get("judge")
    labels = judge.judge_template()[1].all() if judge else ("",)
    files: dict[str, tuple[Path | None, str, Callable[[Path], Iterable[object]]]] = {
        "init.ift": (init.ift if init else None, "`stepagent data ift` makes it", read_ift),
        "init.eft": (
            init.eft if init else None,
            "`stepagent data eft` makes it",
            lambda path: load_eft(path, labels),
        ),
        "eft.pairs": (eft.pairs if eft else None, "`stepagent data import` makes it", load_labelled_pairs),
        "evaluate.pairs": (
            evaluate.pairs if evaluate else None,
            "`stepagent data eft` makes it, as test.jsonl",
            load_labelled_pairs,
        ),
    }
    for role, (path, remedy, reader) in files.items():
        if path is not None and str(path) != STAND_IN:
            with _file(checked, role):
                _refuse_missing(role, str(path), f"{remedy} (docs/data.md)")
                checked.rows[role] = sum(1 for _ in reader(path)) if path.is_file() else None
    if config.model != STAND_IN:
        with _file(checked, "model"):
            check_folder(config.model)


def _check_problems(
    checked: CheckedConfig, role: str, source: ProblemSettings | None, *, answers: bool = False
) -> None:
    if source is None or source.path == STAND_IN:
        return
    with _file(checked, role):
        if source.path and source.path not in PRESETS:
            _refuse_missing(role, source.path, f"make it, or name a data set ({', '.join(PRESETS)}, or a hub id)")
        checked.rows[role] = count = count_problems(source)
        if answers and count and source.path.endswith(".jsonl"):
            ProblemFile(Path(source.path)).held_out(checked.config.grader.kind)


def _refuse_missing(role: str, path: str, remedy: str) -> None:
    """Raise DataError for a file that does not exist. Data sets on the hub are not looked for."""
    if not Path(path).exists() and (Path(path).suffix or not may_be_dataset(path)):
        raise DataError(f"'{role}' there is no file '{path}'; {remedy}")


def _check_sections(checked: CheckedConfig) -> None:
    """Check the settings that sections have in common."""
    config, faults = checked.config, checked.faults
    available = checked.rows.get("problems")
    counts = config.problems_per_round
    if counts is not None:
        demand = sum(counts[: config.rounds])
        if len(counts) < config.rounds:
            sentence = f"problems_per_round has {len(counts)} numbers for {config.rounds} rounds; give one each"
            faults.append(Fault(("problems_per_round",), sentence))
        elif available is not None and demand > available:
            sentence = f"{config.problems.source}: {available} problems, but problems_per_round asks for {demand}"
            faults.append(Fault(("problems_per_round",), sentence))
    if config.replay:
        try:
            config.replay.files(config.init)
        except ConfigError as error:
            faults.append(Fault(("replay",), str(error)))
    if config.init and not config.init.mix.ift and not (config.init.eft and config.init.mix.eft):
        sentence = "init.mix: weighs both sets with 0; nothing is left to learn from"
        faults.append(Fault(("init", "mix"), sentence))
    if config.evaluate and config.evaluate.check_step:
        with collected(faults, ("evaluate", "check_step")):
            _load("evaluate.check_step", config.evaluate.check_step)
    _check_teacher(checked)
    if "backend" in checked.bound:
        several = isinstance(config.backend.arguments().get("base_url"), list)
        if not several:
            with collected(faults, ("serve",) if config.serve else ("backend",)):
                check_serving(config)
        if several or (config.backend.kind == "transformers" and "model" in config.backend.arguments()):
            checked.notes.append("stepagent iterate takes one address and no backend.model; search and evaluate do")
        _check_prices(checked)


def _check_teacher(checked: CheckedConfig) -> None:
    eft, judge = checked.config.eft, checked.bound.get("judge")
    if eft is None:
        return
    if eft.teacher is None:
        with collected(checked.faults, ("eft", "template")):
            load_prompt(eft.template, ("label",))
        return
    teacher, kind = checked.bound.get("eft.teacher"), eft.teacher.kind
    if kind != "pairwise" and ":" not in kind:
        sentence = f"eft.teacher.kind: a teacher writes judgements, as pairwise does, not '{kind}'"
        checked.faults.append(Fault(("eft", "teacher", "kind"), sentence))
    elif teacher and judge and ":" not in kind:
        words = [" ".join(part.judge_template()[1].all()) for part in (teacher, judge)]
        if words[0] != words[1]:
            sentence = f"eft.teacher.prompt: its verdict labels {words[0]} are not those of judge.prompt, {words[1]}"
            checked.faults.append(Fault(("eft", "teacher", "prompt"), sentence))


def _check_prices(checked: CheckedConfig) -> None:
    """Check that each model has a price where money is limited, and note the API keys that are not set."""
    config = checked.config
    budget = Budget(config.budget, config.prices)
    for backend in asked_backends(checked):
        if (model := priced_model(backend, config)) != STAND_IN:
            with collected(checked.faults, ("prices",)):
                budget.check_price(model)
        variable = backend.arguments.get("api_key_env", "OPENAI_API_KEY")
        if str(backend.arguments.get("base_url")).startswith("https://") and variable not in os.environ:
            checked.notes.append(f"the environment variable {variable} of {backend.role} is not set")


def asked_backends(checked: CheckedConfig) -> Iterator[Bound]:
    """Return the backends that the bound components ask, wherever they stand."""
    pending = list(checked.bound.values())
    while pending:
        bound = pending.pop(0)
        if bound.type is BACKEND:
            yield bound
        for part in bound.parts.values():
            pending.extend(part if isinstance(part, tuple) else [part])


def priced_model(backend: Bound, config: Config) -> str:
    """Return the name under which a backend's model is priced."""
    on_server = config.serve and backend.kind == "openai" and "base_url" not in backend.arguments
    default = config.serve.name if config.serve and on_server else config.model
    return str(backend.arguments.get("model", default))
