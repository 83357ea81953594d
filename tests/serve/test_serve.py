"""Serving without vLLM: the proof's rule by hand, and the process around any command."""

from __future__ import annotations

import json
import math
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from stepagent.errors import ServeError
from stepagent.files.jsonl import read_rows
from stepagent.serve.deployment import Deployment, Record
from stepagent.serve.process import Process
from stepagent.serve.proof import Probe, prove
from stepagent.types import ModelVersion

IDS = (5, 6, 7)


def server_of(*values: float) -> object:
    return lambda ids: list(values)


def probe(previous: tuple[float, ...] = (-3.0,)) -> Probe:
    """Position 2 is compared: the new model says -1 there, the previous one -3 (2 nats apart)."""
    return Probe(IDS, (2,), (-1.0,), previous)


def test_a_server_near_the_new_model_is_proven() -> None:
    proof = prove([probe()], server_of(-9.0, -1.1))
    assert (proof.outcome, proof.to_new, proof.to_old) == ("proven", pytest.approx(0.1), pytest.approx(1.9))


@pytest.mark.parametrize(
    ("logprob", "message"),
    [
        (-2.9, r"lies with the previous model: 1\.9 nats per token from the new one, 0\.1 from the previous"),
        (-2.0, "lies with neither model"),
        (-1.6, "lies with neither model"),
        (math.nan, "lies with neither model: inf"),
    ],
)
def test_a_server_elsewhere_is_refused(logprob: float, message: str) -> None:
    with pytest.raises(ServeError, match=message):
        prove([probe()], server_of(0.0, logprob))


def test_models_closer_than_the_servers_noise_are_said_to_be() -> None:
    close = probe(previous=(-1.01,))
    assert prove([close], server_of(0.0, -1.006)).outcome == "indistinct"
    assert prove([close], server_of(0.0, -1.0001)).outcome == "proven"
    with pytest.raises(ServeError, match="lies with neither model"):
        prove([close], server_of(0.0, -1.3))


def test_without_a_previous_model_the_distance_decides() -> None:
    assert prove([probe(previous=())], server_of(0.0, -1.05)).outcome == "near"
    with pytest.raises(ServeError, match=r"0\.5 nats per token away from the model it should serve"):
        prove([probe(previous=())], server_of(0.0, -1.5))


def start(process: Process, port: int, code: str, patience: float = 20) -> None:
    def healthy() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    command = [sys.executable, "-c", code, str(port)]
    process.start(command, {}, "127.0.0.1", port=port, healthy=healthy, patience=patience)


LISTEN = """
import socket, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1]))); s.listen()
time.sleep(600)
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def has_ended(pid: int) -> bool:
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie":
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_a_process_is_stopped_with_its_children_and_keeps_its_log(tmp_path: Path, port: int) -> None:
    process = Process(tmp_path, print)
    start(process, port, LISTEN)
    assert process.alive()
    child = int((tmp_path / "server.log").read_text().split()[-1])
    assert psutil.pid_exists(child)
    process.stop()
    assert not process.alive()
    assert has_ended(child)
    assert not (tmp_path / "server.json").exists()


def test_a_process_that_outlived_its_parent_is_found_and_ended(tmp_path: Path, port: int) -> None:
    first = Process(tmp_path, print)
    start(first, port, LISTEN)
    orphan = json.loads((tmp_path / "server.json").read_text())["pid"]
    second = Process(tmp_path, print)
    start(second, port, LISTEN)
    assert has_ended(orphan)
    second.stop()
    first.stop()


def test_what_keeps_a_server_from_starting_is_said(tmp_path: Path, port: int) -> None:
    process = Process(tmp_path, print)
    with pytest.raises(ServeError, match=r"ended while it started; it said: ValueError: no GPU; .*server"):
        start(process, port, "raise ValueError('no GPU')")
    with pytest.raises(ServeError, match=r"did not answer within 1 s \(serve\.start_seconds\)"):
        start(process, port, "import time; time.sleep(60)", patience=1)
    assert not process.alive()
    with socket.socket() as rival:
        rival.bind(("127.0.0.1", port))
        rival.listen()
        with pytest.raises(ServeError, match=r"is taken by another program; choose another serve\.port"):
            start(process, port, LISTEN)
    with pytest.raises(ServeError, match=r"serve\.command: cannot run 'no-such-program'"):
        process.start(["no-such-program"], {}, "127.0.0.1", port=port, healthy=lambda: True, patience=5)


def test_every_deployment_stays_on_record(tmp_path: Path) -> None:
    """A line that was torn by a kill goes."""
    record, proof = Record(tmp_path), prove([probe()], server_of(-9.0, -1.1))
    history = tmp_path / "deployments.jsonl"
    for index in (1, 2):
        record.write(Deployment("policy", "0", ModelVersion(index, f"M_{index}"), method="reload", proof=proof), [])
        with history.open("a") as file:
            file.write('{"name": "pol')
    record.write(Deployment("policy", "0", ModelVersion(3, "M_3"), method="reload", proof=proof), [])
    assert [row.version.index for row in read_rows(history, Deployment)] == [1, 2, 3]
    current = record.current()
    assert current
    assert current.version.index == 3


def test_a_torn_record_of_probes_proves_nothing_and_is_no_error(tmp_path: Path) -> None:
    record = Record(tmp_path)
    proof = prove([probe()], server_of(-9.0, -1.1))
    record.write(Deployment("policy", "0", ModelVersion(1, "M_1"), method="found", proof=proof), [probe(), probe()])
    assert len(record.probes()) == 2
    file = tmp_path / "probes.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    assert record.probes() == []
    with pytest.raises(ServeError, match="inf nats"):
        prove(record.probes(), server_of(-9.0, -1.1))
