"""The wheel holds what a user needs: the command, the prompts, the demo's model."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_search_and_judge_with_an_endpoint_need_no_torch() -> None:
    code = (
        "import sys; import stepagent.commands.main, stepagent.stages.search, stepagent.stages.judge; "
        "import stepagent.backends.openai; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_wheel_carries_prompts_demo_and_command(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    prompts = {f"stepagent/prompts/{path.name}" for path in (ROOT / "prompts").glob("*.md")}
    assert len(prompts) >= 4
    assert prompts <= names
    assert {
        "stepagent/demo/base/model.safetensors",
        "stepagent/demo/demo.yaml",
        "stepagent/py.typed",
    } <= names
    (entry,) = (name for name in names if name.endswith("entry_points.txt"))
    assert b"stepagent = stepagent.commands.main:run" in zipfile.ZipFile(wheel).read(entry)
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)],
        check=True,
    )
    code = "from stepagent.config.prompts import load_prompt; print(load_prompt('solve', ('question',)).path)"
    path = subprocess.check_output(
        [sys.executable, "-c", code], text=True, cwd=tmp_path, env={"PYTHONPATH": str(target)}
    )
    assert path.strip() == str(target / "stepagent" / "prompts" / "solve.md")
