"""One tracker for a whole run: the figures that its stages wrote go to tensorboard, wandb, trackio or mlflow.

The tracker reads the run's files after each stage and sends what it has not sent yet, so that the stages know nothing
of it, and a run that is started again goes on where it was. A tracker that is down or not logged in is a warning, once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from stepagent.config.settings import Config
from stepagent.console import warn
from stepagent.errors import ConfigError
from stepagent.files.jsonl import iter_json, write_json

_SENT = "tracked.json"
_FILES = {
    "evaluation": "evaluation/M_*/metrics.json",
    "search": "round_*/search.json",
    "training": "round_*/training.jsonl",
    "optimize": "round_*/optimize.json",
    "watch": "watch/M_*.json",
}


class Tracker:
    """Sender of a run's figures. `update` sends those of the files that are new; each row has the number of its round.
    A config with `tracker: none` sends nothing. Raises ConfigError for a tracker that is not installed."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._folder = folder
        self._sender: Any = None
        if config.tracker == "none":
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS
        from transformers.integrations import get_available_reporting_integrations

        if config.tracker not in get_available_reporting_integrations():
            raise ConfigError(f"tracker: '{config.tracker}' is not installed; pip install {config.tracker}")
        if config.tracker == "wandb":  # one run on the server, however often the command is started
            os.environ.setdefault("WANDB_RUN_ID", sha256(str(folder.resolve()).encode()).hexdigest()[:16])
            os.environ.setdefault("WANDB_RESUME", "allow")
        kind = LOGGER_TYPE_TO_CLASS[config.tracker]
        place = {"logging_dir": str(folder / "tracker")} if kind.requires_logging_directory else {}
        self._attempt(lambda: self._start(kind, config, place))

    def update(self) -> None:
        """Send the figures of all files that were not sent yet."""
        if self._sender is None:
            return
        ledger = self._ledger()
        for kind, pattern in _FILES.items():
            for path in sorted(self._folder.glob(pattern)):
                name = path.relative_to(self._folder).as_posix()
                if name not in ledger["files"]:
                    self._attempt(lambda kind=kind, path=path: self._send(kind, path, ledger))
                    if self._sender is None:
                        return
                    ledger["files"].append(name)
                    write_json(self._folder / _SENT, ledger)

    def close(self) -> None:
        """Send what is left and end the connection."""
        self.update()
        if self._sender is not None:
            self._attempt(self._sender.finish)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self, kind: Any, config: Config, place: Mapping[str, str]) -> None:
        sender = kind(config.name, **place)
        if hasattr(sender, "start"):
            sender.start()
        self._sender = sender

    def _send(self, kind: str, path: Path, ledger: dict[str, Any]) -> None:
        number = int(re.findall(r"(?:round|M)_(\d+)", path.as_posix())[-1])
        for row in _rows(path):
            figures = {f"{kind}/{name.strip()}": value for name, value in row.items() if _is_figure(value)}
            ledger["rows"] += 1
            self._sender.log({**figures, "round": number}, step=ledger["rows"])
            for warning in row.get("warnings") or ():
                self._alert(f"{path.parent.name}: {warning}")

    def _alert(self, text: str) -> None:
        """Send an alert if the tracker has them (wandb, trackio); else the warning is on the terminal alone."""
        alert = getattr(self._sender.tracker, "alert", None)
        if alert:
            alert(title="stepagent", text=text)

    def _ledger(self) -> dict[str, Any]:
        try:
            ledger: dict[str, Any] = json.loads((self._folder / _SENT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            ledger = {}
        return {"files": [], "rows": 0, **ledger}

    def _attempt(self, work: Any) -> None:
        """Do `work`; if the tracker fails, say so and go on without it."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 (whatever a tracker raises, the run goes on)
            self._sender = None
            warn(
                [f"tracker: {type(error).__name__}: {error}; the run goes on without it, its figures are in the files"]
            )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".jsonl":
        yield from (row for _, row in iter_json(path))
    else:
        yield json.loads(path.read_text(encoding="utf-8"))


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
