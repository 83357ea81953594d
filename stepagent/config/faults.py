"""All faults of a config at once: the settings that can be used in spite of them, and the line of each."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

from stepagent.config.loading import Place, validate
from stepagent.config.settings import Config
from stepagent.errors import ConfigError, Fault

STAND_IN = "none"
"""Value of a required key that is missing or wrong, with which the other keys are checked."""
_MISSING = "field required"


def usable_settings(data: dict[str, Any]) -> tuple[Config, list[Fault]]:
    """Return the settings without the wrong ones, STAND_IN for those that are required, and all faults of `data`."""
    faults: list[Fault] = []
    attempts: Counter[Place] = Counter()
    usable = deepcopy(data)
    while True:
        try:
            return validate(Config, usable, ""), faults
        except ConfigError as error:
            wrong: dict[Place, Fault] = {}
            for fault in error.faults:  # each member of a union complains; the first one is enough
                wrong.setdefault(_existing(usable, fault), fault)
            for place, fault in wrong.items():
                if not _follows(place, fault, attempts):
                    name = "'{}'".format(".".join(map(str, place)))
                    full_name = "'{}'".format(".".join(map(str, fault.place)))
                    faults.append(Fault(place, fault.sentence.replace(full_name, name)))
            for place, fault in wrong.items():
                _mend(usable, place, fault, attempts=attempts)


def _existing(data: Any, fault: Fault) -> Place:
    """Return a fault's place as far as the data go: pydantic also names the members of unions."""
    for depth, key in enumerate(fault.place):
        if key in data if isinstance(data, dict) else isinstance(data, list) and key in range(len(data)):
            data = data[key]
        elif isinstance(data, dict) and _MISSING in fault.sentence:
            return fault.place[: depth + 1]
        else:
            return fault.place[:depth]
    return fault.place


def _follows(place: Place, fault: Fault, attempts: Counter[Place]) -> bool:
    """Return whether a fault is there only because a wrong key was taken out, which has its own sentence."""
    inside = [key for key in attempts if key[: len(place)] == place]
    return any(key == place or _MISSING in fault.sentence or f"'{key[-1]}'" in fault.sentence for key in inside)


def _mend(data: dict[str, Any], place: Place, fault: Fault, *, attempts: Counter[Place]) -> None:
    """Put STAND_IN in the place of a key that is missing, or take a wrong one out; with the section around it if that
    was of no use."""
    *parents, last = place
    section: Any = data
    for key in parents:
        if isinstance(section, dict) and key not in section:
            return  # another fault took the section out already
        section = section[key]
    attempts[place] += 1
    if isinstance(section, dict) and _MISSING in fault.sentence and attempts[place] <= 2:
        section[last] = STAND_IN
    elif isinstance(section, dict) and (attempts[place] == 1 or not parents):
        section.pop(last, None)
    else:
        _mend(data, tuple(parents), Fault(tuple(parents), ""), attempts=attempts)


def line_of(place: Place, lines: dict[Place, int]) -> int:
    """Return the line of a place, or of the nearest key around it; 0 if there is none."""
    for depth in range(len(place), 0, -1):
        for candidate in (place[:depth], (*place[: depth - 1], "params", place[depth - 1])):
            if candidate in lines:
                return lines[candidate]
    return 0


def located(fault: Fault, path: Path, lines: dict[Place, int], *, places: dict[Place, str]) -> str:
    """Return a fault's sentence behind its file and line, or behind the override that it comes from."""
    for place, override in places.items():
        if place == fault.place[: len(place)]:
            return f"--set {override}: {fault.sentence}"
    if fault.sentence.startswith("--set "):
        return fault.sentence
    line = line_of(fault.place, lines)
    return f"{path}:{line}: {fault.sentence}" if line else f"{path}: {fault.sentence}"
