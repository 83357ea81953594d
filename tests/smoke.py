"""Try an installed stepagent from outside its checkout: `python smoke.py [bare] [view] [report] [ray] [tasks] [train]`.

It runs with the Python of an environment into which a wheel was installed, needs nothing that the named parts do not,
and exits 1 at the first part that does not work.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

CONFIG = """
model: m
problems: {folder}/problems.jsonl
backend: {{kind: openai, base_url: "{url}"}}
generator: {{boundary: line, prompt: demo_solve, temperature: 1.0, max_tokens: 40}}
judge: {{kind: random}}
search: {{width: 2, max_iterations: 8}}
"""
SFT = """
model: "{base}"
problems: {folder}/problems.jsonl
generator: {{boundary: line, prompt: demo_solve, max_tokens: 12}}
judge: {{prompt: demo_judge, max_tokens: 64}}
init: {{ift: {folder}/ift.jsonl, lora: {{rank: 2, alpha: 4}}, token_budget: 256}}
"""


def stepagent(*arguments: object) -> str:
    """Run the command of this environment; returns its output."""
    command = [str(Path(sys.executable).with_name("stepagent")), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with {result.returncode}:\n{result.stdout}{result.stderr}")
    return result.stdout


def say(context: str, seed: int) -> str:
    """Return a line of a sum, and its end after the second one: the model of the stub server."""
    lines = context.rpartition("<assistant>")[2].count("\n")
    return f"{seed % 4}=" if lines == 2 else f"{seed % 4}+{lines}\nmore\n"


def try_bare(folder: Path) -> None:
    """The command, the prompts in the wheel, and a search on the stub server, which torch has no part in."""
    assert stepagent("--version").split()[-1] == importlib.metadata.version("stepagent")
    help_text = stepagent("--help")
    assert all(name in help_text for name in ("search", "judge", "iterate", "push"))
    for command in ("search", "judge", "evaluate", "data", "report", "view", "show", "push"):
        stepagent(command, "--help")
    import stepagent as package
    from stepagent.config.prompts import load_prompt
    from stepagent.testing.stub_server import Stub, serve

    root = Path(package.__file__).parent
    assert "site-packages" in root.parts, f"{root}: not the installed wheel"
    assert load_prompt("solve", ("question",)).path.is_relative_to(root / "prompts")
    rows = [{"id": str(i), "question": f"{i}+1"} for i in range(8)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.environ["OPENAI_API_KEY"] = "none"
    with serve(Stub(say)) as url:
        (folder / "c.yaml").write_text(CONFIG.format(folder=folder, url=url))
        stepagent("search", folder / "c.yaml", "--out", folder / "round_1")
    assert len((folder / "round_1" / "trees.jsonl").read_text().splitlines()) == len(rows)
    assert (folder / "round_1" / "preferences.jsonl").stat().st_size
    stepagent("show", folder / "round_1")
    stepagent("report", folder / "round_1")
    assert (folder / "round_1" / "report.html").read_text().startswith("<!")


def try_view(folder: Path) -> None:
    """The live view answers to the one who has its address, and to nobody else."""
    command = [str(Path(sys.executable).with_name("stepagent")), "view", str(folder / "round_1")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    try:
        address = next(match[0] for line in process.stdout if (match := re.search(r"http://[\d.:]+/\S+/", line)))
        assert b"<html" in urllib.request.urlopen(address, timeout=30).read()
        try:
            urllib.request.urlopen(address.rsplit("/", 2)[0] + "/", timeout=30)
            sys.exit("the view answered without its token")
        except urllib.error.HTTPError as error:
            assert error.code in (403, 404), error
    finally:
        process.terminate()
        process.wait()


def try_report(folder: Path) -> None:
    """Plots are drawn with matplotlib."""
    from stepagent.report.summary import plot

    assert plot([{"name": f"M_{i}", "greedy_accuracy": i / 2} for i in (0, 1)], folder / "plot.png")
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")


def try_ray(folder: Path) -> None:
    """A search on one of Ray's workers."""
    from stepagent.testing.stub_server import Stub, serve

    with serve(Stub(say)) as url:
        (folder / "c.yaml").write_text(CONFIG.format(folder=folder, url=url))
        stepagent("search", folder / "c.yaml", "--out", folder / "ray", "--runner", "ray", "--workers", 1)
    assert len((folder / "ray" / "trees.jsonl").read_text().splitlines()) == 8


def try_tasks(folder: Path) -> None:
    """A search on generated problems."""
    from stepagent.testing.stub_server import Stub, serve

    with serve(Stub(say)) as url:
        (folder / "c.yaml").write_text(CONFIG.format(folder=folder, url=url))
        source = "problems={env: reasoning_gym, name: leg_counting, size: 4}"
        stepagent("search", folder / "c.yaml", "--out", folder / "tasks", "--set", source)
    assert len((folder / "tasks" / "trees.jsonl").read_text().splitlines()) == 4


def try_train(folder: Path) -> None:
    """The demo's model, which lies in the wheel, learns from two rows and is merged."""
    import stepagent as package

    base = Path(package.__file__).parent / "demo" / "base"
    rows = [
        {"question": "12+34", "steps": ["12+34=46\n", "=46"]},
        {"question": "11+22", "steps": ["11+22=33\n", "=33"]},
    ]
    (folder / "ift.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sft.yaml").write_text(SFT.format(base=base, folder=folder))
    stepagent("init", folder / "sft.yaml", "--out", folder / "M_1")
    assert (folder / "M_1" / "model.safetensors").is_file()
    stepagent("check-model", folder / "M_1")


def main(parts: Sequence[str]) -> None:
    """Try each part, in a temporary folder."""
    if "train" not in parts and "ray" not in parts:
        assert importlib.util.find_spec("torch") is None, "torch came along with an extra that does not name it"
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        for part in ("bare", *parts):
            globals()[f"try_{part}"](Path(name))
            print(f"{part}: works", flush=True)


if __name__ == "__main__":
    main([part for part in sys.argv[1:] if part != "bare"])
