"""A row's command, the folder and files that it needs, and its run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imitation import Server
from rows import Row, Run


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
