"""The source of problems: a file, a data set, or an environment that generates them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from stepagent.config.base import Positive, Settings

_GENERATED = ("env", "name", "size", "config")


class ProblemSettings(Settings):
    """The source of problems: `path` names a JSON, CSV, TSV or Parquet file, a dataset folder, a hub id with
    its `subset` and `split`, or a preset (gsm8k, math, math500, numina, aime, olympiadbench). `question`,
    `answer` and `id` name the columns (question, answer and id, if not given); without an id it is the row's
    number. `worked`: the answer column holds worked solutions, whose boxed or ####-marked answer is the
    reference. `sample` is the number of problems to draw by `seed`.

    Or `env` names a library whose environment `name` generates `size` problems by `seed` and `config`, and scores
    their answers (docs/graders.md)."""

    path: str = ""
    subset: str | None = None
    split: str | None = None
    question: str | None = None
    answer: str | None = None
    id: str | None = None
    worked: bool | None = None
    sample: Positive | None = None
    seed: int = 0
    env: Literal["reasoning_gym", "verifiers"] | None = None
    name: str | None = None
    size: Positive | None = None
    config: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_source(self) -> ProblemSettings:
        columns = ("path", "subset", "split", "question", "answer", "id", "worked", "sample")
        generated = [key for key in _GENERATED[1:] if getattr(self, key)]
        if self.env is None and (generated or not self.path):
            raise ValueError(f"'{generated[0]}' needs an 'env'" if generated else "name a 'path' or an 'env'")
        if self.env is not None and (file := [key for key in columns if getattr(self, key)]):
            raise ValueError(f"'env' generates its problems; leave '{file[0]}' out")
        if self.env is not None and not self.name:
            raise ValueError(f"name the environment of {self.env}, such as {{env: {self.env}, name: ...}}")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a file has not, so that it counts as it did before there were environments."""
        data: dict[str, Any] = dump(self)
        return data if self.env else {key: value for key, value in data.items() if key not in _GENERATED}

    @property
    def source(self) -> str:
        """The name of the source for the user."""
        return self.path or f"{self.env} {self.name}"


Problems = Annotated[
    ProblemSettings,
    BeforeValidator(lambda value: {"path": str(value)} if isinstance(value, str | Path) else value),
]
"""A path alone stands for settings with that path."""


def is_generated(problems: object) -> bool:
    """Whether settings of problems, checked or not yet, name an environment."""
    return bool(problems.get("env") if isinstance(problems, dict) else getattr(problems, "env", None))
