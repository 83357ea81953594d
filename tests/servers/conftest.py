"""A process that runs commands, and the folders and files that a row needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from imitation import Server
from rows import Row, Run

Start = Callable[..., list[Run]]
Forker = Callable[[dict[str, Any]], list[int | None]]


@pytest.fixture(scope="session")
def forker() -> Iterator[Forker]:
    """Runner of a job in the warm process of forker.py."""
    environment = {name: text for name, text in os.environ.items() if "proxy" not in name.lower()}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-u", Path(__file__).with_name("forker.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    tasks, replies = process.stdin, process.stdout
    assert replies.readline() == "ready\n"

    def run(job: dict[str, Any]) -> list[int | None]:
        print(json.dumps(job), file=tasks, flush=True)
        codes: list[int | None] = json.loads(replies.readline())
        return codes

    yield run
    tasks.close()
    process.wait()
    replies.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a key and a certificate for it that nobody has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there to make a certificate")
    path = tmp_path_factory.mktemp("certificate") / "self-signed.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    subprocess.run([*command.split(), "-keyout", path, "-out", path], check=True, capture_output=True)
    return str(path)


@pytest.fixture
def start(forker: Forker, tmp_path: Path) -> Start:
    """Starter of a row's command against running servers, `count` times at once; returns each run."""

    def started(row: Row, servers: Sequence[Server], count: int = 1, patience: float | None = None) -> list[Run]:
        arguments = prepared(row, servers, tmp_path)
        commands = [command_of(row, arguments, tmp_path, number=number, delay=number / 2) for number in range(count)]
        for server in servers:
            server.begin()
        codes = forker({"commands": commands, "hasten": row.hasten, "patience": patience or row.patience})
        ended = zip(codes, commands, strict=True)
        return [run_of(command, code, tmp_path / "out", servers) for code, command in ended]

    return started


def command_of(row: Row, arguments: list[str], folder: Path, *, number: int, delay: float) -> dict[str, Any]:
    """Return a command of a job for the forker, whose words go to files of `folder`."""
    files = {name: str(folder / f"{name}.{number}") for name in ("out", "err")}
    return {"arguments": arguments, "env": {"OPENAI_API_KEY": "sk-test", **row.env}, **files, "delay": delay}


def run_of(command: Mapping[str, Any], code: int | None, out: Path, servers: Sequence[Server]) -> Run:
    """Return the run of a command that has ended."""
    stdout, stderr = (Path(str(command[name])).read_text(errors="replace") for name in ("out", "err"))
    return Run(code, stdout, stderr, out, servers)


def prepared(row: Row, servers: Sequence[Server], folder: Path) -> list[str]:
    """Write the files that a row needs, and return its command's arguments."""
    write(folder / "problems.jsonl", ({"id": f"p{i}", "question": question(i)} for i in range(row.items)))
    urls = [server.url for server in servers]
    settings: dict[str, Any] = {
        "model": "none",
        "problems": str(folder / "problems.jsonl"),
        "concurrency": 4,
        "backend": {"kind": "openai", "base_url": urls[0] if len(urls) == 1 else urls, "model": "m"},
        "generator": {"max_tokens": 64},
        "judge": {"max_tokens": 96},
        "search": {"width": 2, "max_iterations": 5},
    }
    if row.command == "serve":
        del settings["backend"]["base_url"]
    merge(settings, row.settings)
    text = json.dumps(settings).replace("{url}", urls[0]).replace("{port}", str(servers[0].port))
    text = text.replace("{last_url}", urls[-1]).replace("{python}", sys.executable)
    (folder / "c.yaml").write_text(text.replace("{folder}", str(folder)))
    config, out = str(folder / "c.yaml"), str(folder / "out")
    if row.command == "iterate":
        write(folder / "problems.jsonl", ({"id": f"p{i}", "question": f"{i + 3}+{i + 4}"} for i in range(row.items)))
        return ["iterate", config, "--runs", str(folder)]
    if row.command == "search":
        return ["search", config, "--out", out]
    if row.command == "serve":
        (folder / "run").mkdir(exist_ok=True)
        (folder / "run" / "config.yaml").write_text((folder / "c.yaml").read_text())
        return ["serve", str(folder / "run")]
    good, bad = "Step 1: a good step", "Step 1: a bad step"
    if row.command == "judge":
        rows = ({"id": f"r{i}", "question": question(i), "candidates": [good, bad]} for i in range(row.items))
        write(folder / "candidates.jsonl", rows)
        return ["judge", config, "--data", str(folder / "candidates.jsonl"), "--out", out]
    if row.command == "judge trees":
        return ["judge", config, "--trees", str(folder / "searched" / "trees.jsonl"), "--out", out]
    pair = {"prefix": [], "first": good, "second": bad, "winner": "first"}
    write(folder / "pairs.jsonl", ({"question": question(i), **pair} for i in range(row.items)))
    return ["judge", config, "--evaluate", str(folder / "pairs.jsonl"), "--out", out]


def question(number: int) -> str:
    return f"What is 1+1? (item {number})"


def write(path: Path, rows: Any) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def merge(settings: dict[str, Any], others: Mapping[str, Any]) -> None:
    """Put other settings into these, section by section; one without a value goes."""
    for name, value in others.items():
        if isinstance(value, Mapping) and isinstance(settings.get(name), dict):
            merge(settings[name], value)
        elif value is None:
            settings.pop(name, None)
        else:
            settings[name] = value
