"""A report names no key that a config holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepagent.report.page import write_report
from stepagent.report.private import without_keys

KEY = "sk-0123456789"
CONFIGS: list[dict[str, Any]] = [
    {"backend": {"headers": {"Authorization": f"Bearer {KEY}", "X-Title": KEY}}},
    {"backend": {"extra_body": {"nested": {"user": KEY}}}},
    {"judge": {"params": {"api_key": KEY}}},
    {"judge": {"params": {"hf_token": KEY, "access-key": KEY, "password": KEY}}},
    {"serve": {"command": ["vllm", "serve", "--api-key", KEY, "--port", "1"]}},
    {"serve": {"command": ["docker", "run", "-e", f"HF_TOKEN={KEY}", f"--api-key={KEY}"]}},
    {"backend": {"base_url": [f"https://me:{KEY}@host/v1"]}},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_key_is_left_out(config: dict[str, Any]) -> None:
    assert KEY not in str(without_keys(config))
    assert "left out" in str(without_keys(config))


def test_other_settings_stay() -> None:
    config = {
        "api_key_env": "OPENAI_API_KEY",
        "max_tokens": 5,
        "budget": {"tokens": 9},
        "token_budget": 3,
        "keys": ["a"],
    }
    assert without_keys(config) == config


def test_a_report_holds_none(run: Path, tables: Callable[[Path], Any]) -> None:
    with (run / "config.yaml").open("a") as file:
        file.write(f"serve: {{command: [vllm, --api-key, {KEY}], headers: {{Authorization: {KEY}}}}}\n")
    page = write_report(run)
    assert KEY not in page.read_text()
    assert "left out: it may hold a key" in tables(page).text
