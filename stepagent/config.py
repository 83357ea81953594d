"""One YAML file -> frozen settings. Unknown keys are errors that name the nearest key.

A config is trusted like code: `kind: my_module:MyJudge` imports that class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from stepagent.errors import ConfigError
from stepagent.jsonl import explain
from stepagent.settings import (
    KINDS,
    Component,
    InitSettings,
    OptimizeSettings,
    Positive,
    Rate,
    Settings,
    with_kinds,
)

M = TypeVar("M", bound=BaseModel)


class ProblemSettings(Settings):
    """Where problems come from: `path` names a JSONL, CSV or Parquet file, a dataset folder, a hub id with
    its `subset` and `split`, or a preset (gsm8k, math, math500, numina, aime, olympiadbench). `question`,
    `answer` and `id` name the columns (question, answer and id, if not given); without an id it is the row's
    number. `worked`: the answer column holds worked solutions, whose boxed or ####-marked answer is the
    reference. `sample` draws so many by `seed`."""

    path: str
    subset: str | None = None
    split: str | None = None
    question: str | None = None
    answer: str | None = None
    id: str | None = None
    worked: bool | None = None
    sample: Positive | None = None
    seed: int = 0


Problems = Annotated[
    ProblemSettings,
    BeforeValidator(lambda given: {"path": str(given)} if isinstance(given, str | Path) else given),
]
"""A path alone stands for settings with that path."""


class EftSettings(Settings):
    """How EFT data is made. M_0 searches `problems` with `generator` and `search` (the config's own, if not
    given), and the judge `labels` (a stronger model, a process reward model, rollouts) says which sibling is
    better; or `pairs` are labelled already. `teacher`, a judge of kind pairwise, writes a judgement of each
    pair in both seats; without one the prompt file `template` does.

    Pairs labelled with less than `min_margin` are left out. At most the share `ties` of all rows are of
    siblings that are labelled as equal, where the judge's prompt has a label for that. `test_share` of the
    problems are kept for the test sets."""

    problems: Problems | None = None
    labels: Component | None = None
    pairs: Path | None = None
    generator: Component | None = None
    search: Component | None = None
    teacher: Component | None = None
    template: str = "judgement"
    min_margin: Annotated[float, Field(ge=0.5, le=1)] = 0.5
    ties: Annotated[float, Field(ge=0, lt=1)] = 0.25
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, data: dict[str, Any]) -> dict[str, Any]:
        return with_kinds(data, {**KINDS, "labels": KINDS["judge"], "teacher": KINDS["judge"]})

    @model_validator(mode="after")
    def _one_source(self) -> EftSettings:
        given = [name for name in ("problems", "labels", "pairs") if getattr(self, name) is not None]
        if given not in (["problems", "labels"], ["pairs"]):
            raise ValueError("give 'problems' and 'labels' to search, or 'pairs' that are labelled already")
        return self


class EvaluateSettings(Settings):
    """Held-out data. `search_problems` bounds the judged search, the dearest of the measurements.
    `check_step` names a function (question, step texts before, step) -> right?, for worlds where a single
    step can be checked: it measures the judge on pairs the model itself proposed."""

    problems: Problems
    pairs: Path | None = None
    search_problems: Annotated[int, Field(ge=0)] = 200
    max_tokens: Positive = 2048
    check_step: str | None = None

    def without_search(self) -> EvaluateSettings:
        """The same without the judged search and what is read off its trees."""
        return self.model_copy(update={"search_problems": 0, "check_step": None})


class ReplaySettings(Settings):
    """Rows of init's IFT and EFT sets that a round learns beside its preference pairs: so many for each pair.
    `weight` is a row's (mean NLL per token) against a pair's loss."""

    ift: Annotated[float, Field(ge=0)] = 0.0
    eft: Annotated[float, Field(ge=0)] = 0.0
    weight: Rate = 1.0


class WatchSettings(Settings):
    """Before its round, and after the last one, each model searches the same `problems` problems (the last of
    the shuffled pool); 0 watches nothing. It has drifted if, against the first model watched, the share of
    judged pairs whose seats agree fell by more than `agreement_fall`, that of solutions that end by more than
    `ended_fall`; if pairs per problem fell below the share `pairs_left`; or if steps per solution or tokens
    per step changed by more than the factor `change`, either way. No reference answer is read.

    `then`: stop at the last good model; or roll_back, the next round going on from it; or only warn."""

    problems: Annotated[int, Field(ge=0)] = 64
    agreement_fall: Annotated[float, Field(gt=0, le=1)] = 0.2
    ended_fall: Annotated[float, Field(gt=0, le=1)] = 0.2
    pairs_left: Annotated[float, Field(ge=0, lt=1)] = 0.1
    change: Annotated[float, Field(gt=1)] = 3.0
    then: Literal["stop", "roll_back", "warn"] = "stop"


class BudgetSettings(Settings):
    """When a run stops asking models: `tokens` and `money` (in the currency of `prices`) count all that its
    folder has ever paid for; `seconds` count from the start of the command."""

    tokens: Positive | None = None
    money: Rate | None = None
    seconds: Positive | None = None


class Price(Settings):
    """Per million tokens."""

    prompt: Annotated[float, Field(ge=0)]
    completion: Annotated[float, Field(ge=0)]


class ServeSettings(Settings):
    """The vLLM server of M_i. With a `command` (an interpreter and module, or `docker run ...`) it is
    managed: started with `--model DIR --served-model-name NAME --host HOST --port PORT` and `args` behind it,
    and with `env` added to the environment. Without one it is external, at backend.base_url.

    `redeploy`: reload the merged weights in place, load the adapter under a new name, or restart; auto takes
    the first that the server can do. `while_training`: what the server does while a model is trained; auto
    lets it sleep (or stop) if it stands on this machine's GPU and keeps it otherwise. The API key is read
    from `api_key_env`; a managed server without one gets a random key."""

    command: tuple[str, ...] | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    name: str = "policy"
    host: str = "127.0.0.1"
    port: Positive = 8000
    start_seconds: Positive = 1200
    redeploy: Literal["auto", "reload", "adapter", "restart"] = "auto"
    while_training: Literal["auto", "keep", "sleep", "stop"] = "auto"
    api_key_env: str = "STEPAGENT_API_KEY"


class Config(Settings):
    """A whole run."""

    name: str = "run"
    seed: int = 0
    model: str
    rounds: Positive = 3
    concurrency: Positive = 64
    problems: Problems
    problems_per_round: tuple[Positive, ...] | None = None
    backend: Component = Component(kind=KINDS["backend"])
    generator: Component = Component(kind=KINDS["generator"])
    judge: Component = Component(kind=KINDS["judge"])
    search: Component = Component(kind=KINDS["search"])
    serve: ServeSettings | None = None
    budget: BudgetSettings | None = None
    prices: dict[str, Price] = Field(default_factory=dict)
    eft: EftSettings | None = None
    init: InitSettings | None = None
    optimize: OptimizeSettings = OptimizeSettings()
    replay: ReplaySettings | None = None
    watch: WatchSettings = WatchSettings()
    evaluate: EvaluateSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, data: dict[str, Any]) -> dict[str, Any]:
        return with_kinds(data, KINDS)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config and apply `--set key.sub=value` overrides (values are YAML).

    Raises ConfigError with the file, the key and the nearest known key.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such config file")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML; check indentation and quotes") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys such as 'model:' and 'problems:'")
    for override in overrides:
        _override(data, override)
    return validate(Config, data, str(path))


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key.strip("."):
        raise ConfigError(f"--set {override}: expected key=value, such as --set seed=1")
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(data.get(parent), dict):
            data[parent] = {}
        data = data[parent]
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not valid YAML; quote it") from None


def validate(model: type[M], data: Mapping[str, Any], where: str) -> M:
    """`data` as `model`. Raises ConfigError that names `where`, the key and a remedy."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] != "extra_forbidden":
            raise ConfigError(f"{where}: {explain(error)}") from None
        *parents, key = (str(part) for part in first["loc"])
        fields = _fields(model, parents)
        raise ConfigError(f"{where}: {unknown_key(key, parents, fields)}") from None


def check_base_url(role: str, url: object) -> None:
    """Raise ConfigError for an address that cannot be one."""
    text = str(url)
    if not text.startswith(("http://", "https://")):
        raise ConfigError(f"{role}.base_url: '{text}' is no address; write http://HOST:PORT/v1")
    if not text.rstrip("/").endswith("/v1"):
        raise ConfigError(f"{role}.base_url: '{text}' should end in /v1; add it")


def unknown_key(key: str, parents: Sequence[str], known: Sequence[str]) -> str:
    """The sentence about a key nobody knows, with the nearest one that somebody does."""
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
    name = ".".join([*parents, key])
    return f"unknown key '{name}'; {hint}"


def _fields(model: type[BaseModel], parents: Sequence[str]) -> list[str]:
    for parent in parents:
        found = next(_models_in(model.model_fields[parent].annotation), None)
        if found is None:
            return []
        model = found
    return list(model.model_fields)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The settings that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)
