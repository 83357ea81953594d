"""What settings are made of, and the settings of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Component(BaseModel):
    """`kind` names a built-in or `module:Class`; every other key is an argument of its constructor.

    `params: {...}` is the same as writing its keys beside `kind`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: str
    params: dict[str, Any] = {}

    def arguments(self) -> dict[str, Any]:
        return {**(self.model_extra or {}), **self.params}


KINDS = {"backend": "transformers", "generator": "sample", "judge": "pairwise", "search": "step"}
"""The kind of a component whose settings name none."""


def with_kinds(data: dict[str, Any], kinds: Mapping[str, str]) -> dict[str, Any]:
    """`data` in which the components named in `kinds` have one."""
    if not isinstance(data, dict):
        return data
    filled = {
        role: {"kind": kind, **data[role]} for role, kind in kinds.items() if isinstance(data.get(role), dict)
    }
    return {**data, **filled}


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
    """What SFT and step-DPO share. `batch_size` is global: pairs (rows) per optimizer step, on all
    processes together. `token_budget` bounds one forward pass. `lora: null` trains all weights.
    `serving_dtype` adds a copy of the merged model in that precision, in its folder serving/.
    `report_to` names a tracker of transformers.Trainer (tensorboard, wandb, trackio)."""

    learning_rate: Rate = 1e-5
    epochs: Rate = 1.0
    batch_size: Positive = 32
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    max_grad_norm: Rate = 1.0
    token_budget: Positive = 4096
    max_context: Positive | None = None
    lora: LoraSettings | None = LoraSettings()
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    serving_dtype: Literal["bfloat16", "float16"] | None = None
    save_steps: Positive | None = 200
    report_to: str = "none"


class MixSettings(Settings):
    """How often an epoch sees each set: 1 is once, 0.5 half of it (by seed), 3 three times."""

    ift: Annotated[float, Field(ge=0)] = 1.0
    eft: Annotated[float, Field(ge=0)] = 1.0


class InitSettings(TrainSettings):
    """SFT of M_0 on IFT {x, y} and EFT {x, s_1..s_{l-1}, s^1, s^2, judge}. Without `eft` it learns to solve
    only: a policy to make EFT data with."""

    ift: Path
    eft: Path | None = None
    mix: MixSettings = MixSettings()

    def files(self) -> dict[str, Path]:
        """The data files, by name."""
        return {"ift": self.ift, **({"eft": self.eft} if self.eft else {})}


class GuardSettings(Settings):
    """When a run is said to go wrong: chosen log-probabilities this many nats below the reference, this
    accuracy within the first tenth of the steps, the longer step winning more than this share of pairs.
    `stop` ends the run with an error instead of a warning."""

    chosen_fall: Rate = 5.0
    saturation: Annotated[float, Field(gt=0, le=1)] = 0.99
    longer_wins: Annotated[float, Field(gt=0, le=1)] = 0.8
    stop: bool = False


class OptimizeSettings(TrainSettings):
    """Step-wise DPO (arXiv 2503.03746, 1.6): `beta` is the paper's. Optional terms: `nll_alpha` weighs the
    NLL of the chosen step per token (arXiv 2404.19733); `margin_smoothing` smooths each pair's label by
    the judge's margin; `length_normalized` averages log-probabilities over a step's tokens."""

    learning_rate: Rate = 5e-7
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    beta: Rate = 0.1
    nll_alpha: Annotated[float, Field(ge=0)] = 0.0
    margin_smoothing: bool = False
    length_normalized: bool = False
    guards: GuardSettings = GuardSettings()

    @model_validator(mode="after")
    def _ipo_takes_no_smoothing(self) -> OptimizeSettings:
        if self.loss == "ipo" and self.margin_smoothing:
            raise ValueError("loss: ipo takes no margin_smoothing; set one of them")
        return self
