"""Model folders of bytes that the tests of templates and tokenizers copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dialects import CHATML, write_model, write_tokenizer


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of bytes that speaks ChatML."""
    folder = tmp_path_factory.mktemp("bytes") / "m"
    write_model(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture
def speaker(tmp_path: Path) -> Callable[..., Path]:
    """Maker of a tokenizer's folder from a template, an eos_token and whether it opens texts with <s>."""

    def folder(template: str | None = CHATML, eos: str | None = "<|im_end|>", *, adds_start: bool = False) -> Path:
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "m" / "config.json").write_text('{"model_type": "llama"}')
        write_tokenizer(tmp_path / "m", template, eos, adds_start=adds_start)
        return tmp_path / "m"

    return folder
