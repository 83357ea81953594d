"""The settings of a run: one class for each section of the config file.

A component's own settings are its constructor's arguments; `assembly/binding.py` checks those.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stepagent.config.base import Positive as Positive
from stepagent.config.base import Rate
from stepagent.config.base import Settings as Settings
from stepagent.config.component import KINDS, Component, JudgeSection, with_kinds
from stepagent.config.problem_settings import Problems, is_generated
from stepagent.config.problem_settings import ProblemSettings as ProblemSettings
from stepagent.config.training_settings import GuardSettings as GuardSettings
from stepagent.config.training_settings import InitSettings as InitSettings
from stepagent.config.training_settings import LoraSettings as LoraSettings
from stepagent.config.training_settings import LossKind as LossKind
from stepagent.config.training_settings import MixSettings as MixSettings
from stepagent.config.training_settings import OptimizeSettings as OptimizeSettings
from stepagent.config.training_settings import ReplaySettings as ReplaySettings
from stepagent.config.training_settings import TrainSettings as TrainSettings


class EftSettings(Settings):
    """Settings of evaluation fine-tuning (EFT) data. M_0 searches `problems` with `generator` and `search` (the
    config's own, if not given), and the judge `labels` (a stronger model, a process reward model, rollouts) labels
    the siblings; or `pairs` are labelled already. `teacher`, a judge of kind pairwise, writes a judgement of each
    pair in both positions; without one the prompt file `template` does.

    Pairs labelled with less than `min_margin` are left out. At most the share `ties` of all rows are of
    siblings that are labelled as equal, where the judge's prompt has a label for that. `test_share` of the
    problems are kept for the test sets."""

    problems: Problems | None = None
    labels: JudgeSection | None = None
    pairs: Path | None = None
    generator: Component | None = None
    search: Component | None = None
    teacher: JudgeSection | None = None
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
        sources = [name for name in ("problems", "labels", "pairs") if getattr(self, name) is not None]
        if sources not in (["problems", "labels"], ["pairs"]):
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
        """Return the same without the judged search and what is read off its trees."""
        return self.model_copy(update={"search_problems": 0, "check_step": None})


class WatchSettings(Settings):
    """Before its round, and after the last one, each model searches the same `problems` problems (the last of
    the shuffled pool); 0 watches nothing. It has drifted if, against the first model watched, the share of
    judged pairs whose positions agree fell by more than `agreement_fall`, that of solutions that end by more than
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
    """Limits at which a run stops asking models: `tokens` and `money` (in the currency of `prices`) count all that its
    folder has ever paid for; `seconds` count from the start of the command."""

    tokens: Positive | None = None
    money: Rate | None = None
    seconds: Positive | None = None


class Price(Settings):
    """A price per million tokens."""

    prompt: Annotated[float, Field(ge=0)]
    completion: Annotated[float, Field(ge=0)]


class ServeSettings(Settings):
    """The vLLM server of M_i. With a `command` (an interpreter and module, or `docker run ...`) it is
    managed: started with `--model DIR --served-model-name NAME --host HOST --port PORT` and `args` behind it,
    and with `env` added to the environment. Without one it is external, at backend.base_url.

    `redeploy`: reload the merged weights in place, load the adapter under a new name, or restart; auto takes
    the first that the server can do. `while_training`: keep the server as it is, let it sleep, or stop it; auto
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
    """A whole run. `verify` is a second judge that confirms the pairs before they are trained: cheap judgements for all
    siblings, dear ones for what is learnt. `tracker` gets the figures of every stage of `iterate` under one run."""

    name: str = "run"
    seed: int = 0
    model: str
    rounds: Positive = 3
    concurrency: Positive = 64
    problems: Problems
    problems_per_round: tuple[Positive, ...] | None = None
    backend: Component = Component(kind=KINDS["backend"])
    generator: Component = Component(kind=KINDS["generator"])
    judge: JudgeSection = Component(kind=KINDS["judge"])
    search: Component = Component(kind=KINDS["search"])
    grader: Component = Component(kind=KINDS["grader"])
    verify: JudgeSection | None = None
    serve: ServeSettings | None = None
    budget: BudgetSettings | None = None
    prices: dict[str, Price] = Field(default_factory=dict)
    eft: EftSettings | None = None
    init: InitSettings | None = None
    optimize: OptimizeSettings = OptimizeSettings()
    replay: ReplaySettings | None = None
    watch: WatchSettings = WatchSettings()
    tracker: Literal["none", "tensorboard", "wandb", "trackio", "mlflow"] = "none"
    evaluate: EvaluateSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, data: dict[str, Any]) -> dict[str, Any]:
        data = with_kinds(data, {**KINDS, "verify": KINDS["judge"]})
        if isinstance(data, dict) and "grader" not in data and any(map(is_generated, _problem_sections(data))):
            data = {**data, "grader": {"kind": "environment"}}
        return data

    @model_validator(mode="after")
    def _judgements_are_confirmed(self) -> Config:
        if self.verify and self.optimize.pairs != "best_worst":
            raise ValueError(
                "verify confirms the best and the worst sibling of a level: take optimize.pairs: best_worst with it"
            )
        if self.replay and self.replay.judged and self.verify is None:
            raise ValueError(
                "replay.judged teaches votes that a second judge confirmed; name that judge in the section verify"
            )
        return self


def _problem_sections(data: dict[str, Any]) -> Iterator[object]:
    yield data.get("problems")
    for section in (data.get("evaluate"), data.get("eft")):
        yield section.get("problems") if isinstance(section, dict) else getattr(section, "problems", None)
