"""A process that runs commands, and the certificate that a row needs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from imitation import Server
from row_commands import command_of, prepared, run_of
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
