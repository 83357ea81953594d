"""Commands, configs and code of the pages work as they say."""

from __future__ import annotations

import asyncio
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from docs_world import write_world

from stepagent import Backend, Problem
from stepagent.assembly.binding import bind
from stepagent.assembly.components import JUDGE, TYPES, Binder
from stepagent.backends.scripted import Rule, ScriptedBackend
from stepagent.config.component import Component
from stepagent.config.loading import load_config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / name / "README.md" for name in ("examples", "recipes"))]) + sorted(
    (ROOT / "docs").glob("*.md")
)
NEEDS = ("needs: a GPU", "needs: a key", "needs: a vLLM server", "needs: Docker")
PLACES = {
    "laptop --out config.yaml": "laptop --out new.yaml",
    "--budget 1500": "--budget 40",
    "--sample 500": "--sample 4",
    "sample=300": "sample=4",
    "--problem ID": "--problem problems-00000",
    "FOLDER": "M_1",
}
"""Words of the pages' commands, and those of the small world in their place."""


class Block(NamedTuple):
    """A fenced block of a page: its place, its language, the comment above it, its text."""

    place: str
    language: str
    comment: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in re.finditer(r"^(?:<!-- ([^\n]*) -->\n)?```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        line = text[: match.start()].count("\n") + 1
        yield Block(f"{page.relative_to(ROOT)}:{line}", match[2], match[1] or "", match[3])


def python_of(page: str) -> str:
    return "\n\n".join(block.text for block in blocks(ROOT / page) if block.language == "python")


ALL = [block for page in PAGES for block in blocks(page)]


def test_every_block_has_a_test_or_says_what_it_needs() -> None:
    """Commands are run below, unless a comment above them says what they need, or which test runs them."""
    assert sum(page.read_text().count("\n```") for page in PAGES) == 2 * len(ALL)
    for block in ALL:
        assert block.language in ("", "yaml", "python", "json"), block.place
        assert block.language == "" or not block.comment, block.place
        if block.comment and block.comment not in NEEDS:
            runner = ROOT / block.comment.removeprefix("run by: ")
            assert runner.is_file(), block.place
            commands = [line.split()[1] for line in block.text.splitlines() if line.startswith("stepagent ")]
            assert all(re.search(rf"\b{command}\b", runner.read_text()) for command in commands), block.place


def run_line(line: str, stepagent: Callable[..., Any]) -> None:
    """Run a line of a shell: `stepagent` in this process; `make` and `pip`, which CI runs, without their work."""
    for words, others in PLACES.items():
        line = line.replace(words, others)
    program, *arguments = shlex.split(line, comments=True)
    if program.endswith("stepagent"):
        result = stepagent(*arguments)
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
    elif program == "make":
        subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    else:
        assert program == "pip", f"'{program}' is no command that a test runs: mark the block"
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\[(.*?)\]", line)) <= extras.keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_command_of_the_pages_works(
    tmp_path: Path, base_model: Path, stepagent: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a small world: docs/commands.md makes its models and runs, and each page works on a copy of it."""
    world = tmp_path / "world"
    world.mkdir()
    write_world(world, base_model)
    commands = [block for block in ALL if block.language == "" and not block.comment]
    order = sorted(commands, key=lambda block: "docs/commands.md" not in block.place)
    for page in dict.fromkeys(block.place.partition(":")[0] for block in order):
        folder = world
        if page != "docs/commands.md":
            folder = tmp_path / Path(page).stem
            shutil.copytree(world, folder)
            (folder / "new.yaml").unlink()  # each page makes its own
            shutil.rmtree(folder / "M_2")
            shutil.copytree(folder / "runs/my-run", folder / "runs/demo")
        monkeypatch.chdir(folder)
        for block in order:
            if block.place.startswith(f"{page}:"):
                for line in block.text.replace("\\\n", " ").splitlines():
                    run_line(line, stepagent)


def test_every_command_is_on_the_page_of_commands() -> None:
    from stepagent.commands.main import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    text = (ROOT / "docs/commands.md").read_text()
    assert set(re.findall(r"(?:^|`)stepagent ([a-z-]+)", text, re.MULTILINE)) == commands


def configs(block: Block) -> Iterator[str]:
    """Yield the configs of a YAML block: one, or, where lines give a section several times, one for each of them."""
    lines = block.text.splitlines()
    keys = [line.partition(":")[0] for line in lines]
    if len(lines) > 1 and len(set(keys)) == 1:
        yield from lines
    else:
        yield block.text


def test_every_config_shown_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stepagent.stages.deploy import make_servers

    (tmp_path / "my_judges.py").write_text(python_of("CONTRIBUTING.md"))
    (tmp_path / "my_graders.py").write_text(python_of("docs/graders.md"))
    (tmp_path / "my_parts.py").write_text(python_of("docs/own_parts.md"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "judge.yaml").write_text("judge: {kind: pairwise}\n")
    monkeypatch.chdir(tmp_path)
    files = [path for path in (ROOT / "recipes").glob("*.yaml") if path.name != "fsdp2.yaml"]
    assert {"smollm2-word-problems", "smollm2-gsm8k", "hosted-judge"} < {path.stem for path in files}
    assert all(load_config(path).name == path.stem for path in files)
    shown = [(block.place, text) for block in ALL if block.language == "yaml" for text in configs(block)]
    assert len(shown) > 10
    for place, text in [*shown, *((path.name, path.read_text()) for path in files)]:
        keys = {line.partition(":")[0] for line in text.splitlines()}
        missing = "".join(f"{key}: x.jsonl\n" for key in ("model", "problems") if key not in keys)
        path = tmp_path / "c.yaml"
        path.write_text(missing + text)
        config = load_config(path)
        servers = make_servers(config, tmp_path)
        assert Binder(config, serves=any(server.managed for server in servers)).search(), place


def test_every_row_shown_is_a_problem(tmp_path: Path) -> None:
    from stepagent.config.settings import ProblemSettings
    from stepagent.files.problems import ProblemFile

    shown = [block for block in ALL if block.language == "json"]
    assert shown
    for block in shown:
        path = tmp_path / "problems.jsonl"
        path.write_text(block.text)
        assert len(ProblemFile.of(ProblemSettings(path=str(path)), tmp_path)) == len(block.text.splitlines())


def test_parts_of_your_own_are_short_and_work() -> None:
    """Every class of the page under 15 lines, named as a config names it, and used in a search."""
    code = python_of("docs/own_parts.md")
    names: dict[str, Any] = {}
    exec(code, names)
    classes = re.findall(r"^class (\w+).*?(?=^\S|\Z)", code, re.DOTALL | re.MULTILINE)
    texts = re.findall(r"^class \w+.*?(?=^\S|\Z)", code, re.DOTALL | re.MULTILINE)
    assert classes == ["ShortestStep", "PlainLines", "UntilItEnds"]
    assert all(len(text.rstrip().splitlines()) < 15 for text in texts)
    backend = ScriptedBackend([Rule(r"long\n|short\n", ("=4",)), Rule("", ("a long\nx", "short\nx"))])
    generator = names["PlainLines"](backend)
    strategy = names["UntilItEnds"](generator, names["ShortestStep"](), attempts=2)
    tree = asyncio.run(strategy.search(Problem("1", "q"), seed=0))
    assert tree.status == "ended"
    assert tree.solution()[0].text == "short\n"


def test_the_judge_in_contributing_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "documented_judge.py").write_text(python_of("CONTRIBUTING.md"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    component = Component(kind="documented_judge:Shortest", params={"bonus": 1})
    judge = bind("judge", component, JUDGE, types=TYPES, offers={"backend": Backend}).make(backend=ScriptedBackend())
    assert judge.bonus == 1.0


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
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
