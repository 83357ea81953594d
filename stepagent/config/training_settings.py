"""The settings of both trainings: SFT of M_0, and step-DPO of a round with the rows that it replays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stepagent.config.base import Positive, Rate, Settings
from stepagent.errors import ConfigError
from stepagent.types import SiblingPairs


class LoraSettings(Settings):
    """Low-rank adapter: plain (arXiv 2106.09685), rank-stabilised (2312.03732) or weight-decomposed
    (2402.09353). `quantize: 4bit` keeps the frozen weights in 4 bits (QLoRA, 2305.14314; CUDA only)."""

    variant: Literal["lora", "rslora", "dora"] = "lora"
    rank: Positive = 16
    alpha: Positive = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str | tuple[str, ...] = "all-linear"
    quantize: Literal["4bit"] | None = None


class TrainSettings(Settings):
    """Settings that SFT and step-DPO share. `batch_size` is global: pairs (rows) per optimizer step, on all
    processes together. `token_budget` bounds one forward pass (null: 4,096 on CUDA, 1,024 on a CPU). `lora: null`
    trains all weights. `serving_dtype` adds a copy of the merged model in that precision, in its folder serving/.
    `report_to` names a tracker of transformers.Trainer (tensorboard, wandb, trackio)."""

    learning_rate: Rate = 1e-5
    epochs: Rate = 1.0
    batch_size: Positive = 32
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    max_grad_norm: Rate = 1.0
    token_budget: Positive | None = None
    max_context: Positive | None = None
    lora: LoraSettings | None = LoraSettings()
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    serving_dtype: Literal["bfloat16", "float16"] | None = None
    save_steps: Positive | None = 200
    report_to: str = "none"


class MixSettings(Settings):
    """The number of times an epoch sees each set: 1 is once, 0.5 half of it (by seed), 3 three times."""

    ift: Annotated[float, Field(ge=0)] = 1.0
    eft: Annotated[float, Field(ge=0)] = 1.0


class InitSettings(TrainSettings):
    """SFT of M_0 on IFT {x, y} and EFT {x, s_1..s_{l-1}, s^1, s^2, judge}. Without `eft` it learns to solve
    only: a policy to make EFT data with."""

    ift: Path
    eft: Path | None = None
    mix: MixSettings = MixSettings()

    def files(self) -> dict[str, Path]:
        """Return the data files, by name."""
        return {"ift": self.ift, **({"eft": self.eft} if self.eft else {})}


class GuardSettings(Settings):
    """Limits beyond which a training is warned about: `chosen_fall` (nats that the chosen steps' log-probability
    falls below the reference's), `saturation` (accuracy within the first tenth of the steps), `longer_wins` (share
    of pairs whose longer step is the chosen one). `stop` ends the run with an error instead of a warning."""

    chosen_fall: Rate = 5.0
    saturation: Annotated[float, Field(gt=0, le=1)] = 0.99
    longer_wins: Annotated[float, Field(gt=0, le=1)] = 0.8
    stop: bool = False


LossKind = Literal["sigmoid", "ipo", "kto", "likelihood"]


class OptimizeSettings(TrainSettings):
    """Step-wise DPO (arXiv 2503.03746, 1.6): `beta` is the paper's. `loss` is the signal of a pair: sigmoid is DPO, ipo
    (arXiv 2310.12036) and kto (2402.01306) are others, likelihood learns the chosen step alone, by its NLL per token
    (RAFT, 2304.06767). Optional terms: `nll_alpha` weighs the same NLL beside a pair's loss (2404.19733);
    `margin_smoothing` smooths each pair's label by the judge's margin; `length_normalized` averages log-probabilities
    over a step's tokens. `pairs` are those that a search exports of each level's siblings: the best and the worst, the
    best and each worse one, or all whose scores differ; those of a level count as much as one pair."""

    learning_rate: Rate = 5e-7
    loss: LossKind = "sigmoid"
    pairs: SiblingPairs = "best_worst"
    beta: Rate = 0.1
    nll_alpha: Annotated[float, Field(ge=0)] = 0.0
    margin_smoothing: bool = False
    length_normalized: bool = False
    guards: GuardSettings = GuardSettings()

    @model_validator(mode="after")
    def _loss_has_its_terms(self) -> OptimizeSettings:
        if self.loss != "sigmoid" and self.margin_smoothing:
            raise ValueError(f"loss: {self.loss} takes no margin_smoothing; set one of them")
        if self.loss == "likelihood" and self.nll_alpha:
            raise ValueError("loss: likelihood is the chosen steps' NLL already; leave nll_alpha out")
        return self

    @property
    def nll_weight(self) -> float:
        """The weight of the chosen step's NLL per token."""
        return 1.0 if self.loss == "likelihood" else self.nll_alpha


class ReplaySettings(Settings):
    """Rows that a round learns beside its preference pairs: `ift` and `eft` are rows for each pair, of `ift_data` and
    `eft_data` or else of init's files; `judged` rows of the round's own judging: the votes on pairs that the judge of
    `verify` confirmed, hard ones first. `weight` is a row's (mean NLL per token) against a pair's loss."""

    ift: Annotated[float, Field(ge=0)] = 0.0
    eft: Annotated[float, Field(ge=0)] = 0.0
    judged: Annotated[float, Field(ge=0)] = 0.0
    weight: Rate = 1.0
    ift_data: Path | None = None
    eft_data: Path | None = None

    @model_validator(mode="after")
    def _files_have_shares(self) -> ReplaySettings:
        for name in ("ift", "eft"):
            if getattr(self, f"{name}_data") and not getattr(self, name):
                raise ValueError(f"{name}_data: none of its rows is replayed; say in {name} how many for each pair")
        return self

    def files(self, init: InitSettings | None) -> dict[str, Path]:
        """Return the files of rows that are replayed, by name: `ift`, `eft`, or neither. Raises ConfigError."""
        files: dict[str, Path] = {}
        for name in ("ift", "eft"):
            if getattr(self, name):
                path: Path | None = getattr(self, f"{name}_data") or getattr(init, name, None)
                if path is None:
                    raise ConfigError(f"replay.{name}: name its rows in replay.{name}_data, or in init.{name}")
                files[name] = path
        return files
