"""Commands, configs and code of the pages work as they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stepagent import Backend
from stepagent.assembly.binding import bind
from stepagent.assembly.components import JUDGE, TYPES, Binder
from stepagent.backends.scripted import ScriptedBackend
from stepagent.config.component import Component
from stepagent.config.loading import load_config

ROOT = Path(__file__).parents[1]


def test_the_judge_in_contributing_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    code = re.search(r"```python\n# my_judges\.py\n(.*?)```", text, re.DOTALL)
    assert code
    (tmp_path / "documented_judge.py").write_text(code[1])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    component = Component(kind="documented_judge:Shortest", params={"bonus": 1})
    judge = bind("judge", component, JUDGE, types=TYPES, offers={"backend": Backend}).make(backend=ScriptedBackend())
    assert judge.bonus == 1.0


def test_every_command_of_the_readme_exists() -> None:
    from stepagent.commands.main import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    mentions = set(re.findall(r"(?:^|`|bin/)stepagent ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert mentions <= commands
    assert commands <= mentions


def test_every_config_shown_loads(tmp_path: Path) -> None:
    from stepagent.stages.deploy import make_server

    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    files = [path for path in (ROOT / "recipes").glob("*.yaml") if path.name != "fsdp2.yaml"]
    assert {"smollm2-word-problems", "smollm2-gsm8k", "hosted-judge"} < {path.stem for path in files}
    assert all(load_config(path).name == path.stem for path in files)
    for block in [*blocks, *(path.read_text() for path in files)]:
        path = tmp_path / "c.yaml"
        path.write_text(block)
        config = load_config(path)
        server = make_server(config, tmp_path)
        Binder(config, serves=server is not None and server.managed).search()


def test_every_section_shown_in_the_data_and_rounds_pages_loads(tmp_path: Path) -> None:

    blocks = [
        block
        for name in ("data", "rounds")
        for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / f"{name}.md").read_text(), re.DOTALL)
    ]
    assert len(blocks) == 3
    for block in blocks:
        (tmp_path / "c.yaml").write_text(f"model: m\nproblems: p.jsonl\n{block}")
        load_config(tmp_path / "c.yaml")


@pytest.mark.slow
def test_the_commands_of_the_data_page_make_what_init_takes(tmp_path: Path) -> None:
    from stepagent.demo.run import demo_config
    from stepagent.stages.train import sft_rows

    folder = tmp_path / "runs" / "demo"
    small = ["eft.problems.sample=60", "init.epochs=0.2"]
    demo_config(folder, small)
    block = re.search(
        r"```\n(stepagent data ift runs/demo/demo\.yaml.*?)```",
        (ROOT / "docs/data.md").read_text(),
        re.DOTALL,
    )
    assert block
    *making, last = block[1].strip().splitlines()
    assert last.startswith("stepagent iterate")
    for line in making:
        command = [sys.executable, "-m", *line.partition("#")[0].split()]
        if "--source" not in command:
            command += [part for change in small for part in ("--set", change)]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    config = load_config(folder / "demo.yaml")
    assert config.init
    assert len(sft_rows(config, config.init)) > 1500


def test_accelerate_takes_the_sharding_config() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    loaded = load_config_from_file(str(ROOT / "recipes/fsdp2.yaml"))
    assert loaded.distributed_type == "FSDP"
    assert loaded.fsdp_config["fsdp_version"] == 2


def test_links_between_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
