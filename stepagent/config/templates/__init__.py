"""Configs to start from, one file for each place where a model may run."""

from __future__ import annotations

from pathlib import Path


def template(name: str) -> str:
    """Return the text of the config called `name`: vllm, hosted or laptop."""
    return (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
