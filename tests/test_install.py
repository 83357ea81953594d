"""The wheel holds what a user needs: the command, the prompts, the demo's model. `make dist` tries more of it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
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


@pytest.mark.parametrize(
    ("file", "extras"),
    [("constraints-minimum.txt", ("view", "report", "ray")), ("constraints-minimum-train.txt", ("train",))],
)
def test_the_minimum_constraints_are_those_of_the_ranges(file: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = [] if "train" in extras else project["dependencies"]
    ranges = [*base, *(text for extra in extras for text in project["optional-dependencies"][extra])]
    minima = dict(re.sub(r"\[.*?\]", "", text).split(">=") for text in ranges)
    constraints = dict(line.split("==") for line in (ROOT / file).read_text().splitlines() if not line.startswith("#"))
    assert constraints.keys() == minima.keys()
    for name in minima.keys() - {"torch"}:  # an old torch is gigabytes
        assert constraints[name] in (minima[name], f"{minima[name]}.0"), name


def test_every_part_that_is_tried_is_an_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import try_dist; print(*try_dist.PARTS)"
    parts = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert set(parts) == {"bare", "minimum", "minimum-train"} | (extras.keys() - {"demo", "dev", "docs"})


@pytest.mark.slow
def test_the_packages_are_built_and_work_without_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 2, "a wheel, and the sdist that it was made of"
    check = [sys.executable, "-m", "twine", "check", "--strict", *map(str, tmp_path.iterdir())]
    subprocess.run(check, check=True, stdout=subprocess.DEVNULL)
    script = [sys.executable, str(ROOT / "tests" / "try_dist.py"), str(tmp_path), "bare"]
    assert "bare: works" in subprocess.check_output(script, text=True)


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
