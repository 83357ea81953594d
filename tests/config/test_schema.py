"""The JSON Schema takes every config that works and refuses typos; the settings page names exactly the settings there
are."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from stepagent.assembly.components import TYPES
from stepagent.assembly.factories import import_object, outline
from stepagent.assembly.schema import NAMES, config_schema
from stepagent.assembly.settings_page import settings_page
from stepagent.config import settings
from stepagent.config.templates import template
from stepagent.config.yaml_text import read_yaml

ROOT = Path(__file__).parents[2]
CONFIGS = [path for path in sorted((ROOT / "recipes").glob("*.yaml")) if path.name != "fsdp2.yaml"]
VALIDATOR = Draft202012Validator(config_schema())
MINIMAL = "model: m\nproblems: p.jsonl\n"


def faults(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(read_yaml(text))]


def test_the_schema_is_one_of_draft_2020_12() -> None:
    Draft202012Validator.check_schema(config_schema())


@pytest.mark.parametrize("path", [*CONFIGS, ROOT / "stepagent/demo/demo.yaml"], ids=lambda path: path.stem)
def test_every_recipe_and_the_demo_are_valid(path: Path) -> None:
    assert faults(path.read_text()) == []


@pytest.mark.parametrize("name", ["vllm", "hosted", "laptop"])
def test_every_config_to_start_from_is_valid(name: str) -> None:
    assert faults(template(name)) == []


@pytest.mark.parametrize(
    "text",
    [
        "sede: 1",
        "rounds: 0",
        "seed: x",
        "search: {kind: panel}",
        "search: {widht: 3}",
        "search: {kind: beam, max_iterations: 3}",
        "search: {width: 0}",
        "judge: {kind: pairwize}",
        "judge: {kind: panel}",
        "judge: {kind: panel, judges: [{kind: pairwise, promt: x}]}",
        "judge: {backend: {kind: openai, base_ulr: x}}",
        "judge: {kind: prm, backend: {kind: openai, model: m}}",
        "generator: {params: {boundry: line}}",
        "generator: {boundary: lines}",
        "optimize: {lora: {rnak: 3}}",
        "optimize: {loss: hinge}",
        "eft: {labels: {kind: step}, problems: p.jsonl}",
        "prices: {m: {prompt: 1}}",
        "evaluate: {}",
    ],
)
def test_typos_and_wrong_kinds_are_refused(text: str) -> None:
    assert faults(MINIMAL) == []
    assert faults(MINIMAL + text)


@pytest.mark.parametrize(
    "text",
    [
        "judge: {kind: 'my_judges:Shortest', bonus: 1}",
        "judge: {kind: panel, judges: [{kind: pairwise}, {kind: 'my:Judge', x: [1]}]}",
        "judge: {kind: panel, params: {judges: [{}]}}",
        "judge: {kind: prm, backend: {kind: prm_tags, model: my/prm}}",
        "search: {params: {width: 3}}",
        "search: {max_rollbacks: 0}",
        "backend: {kind: openai, base_url: ['http://a/v1', 'http://b/v1'], model: m}",
        "optimize: {lora: null}",
        "evaluate: {problems: {path: gsm8k, split: test, sample: 5}}",
    ],
)
def test_own_classes_and_every_way_of_writing_settings_are_allowed(text: str) -> None:
    assert faults(MINIMAL + text) == []


def settings_of_the_code() -> set[tuple[str, str]]:
    """Each setting with its class or kind, read from the classes and constructors themselves."""
    classes = [
        item for item in vars(settings).values() if inspect.isclass(item) and issubclass(item, settings.Settings)
    ]
    pairs = {(item.__name__, name) for item in classes for name in item.model_fields if item is not settings.Settings}
    for type_ in TYPES:
        for kind, target in type_.builtins.items():
            parameters = inspect.signature(import_object("test", target)).parameters
            pairs |= {(f"{NAMES[type_.name]}: {kind}", name) for name in parameters}
    return pairs


CALLABLES = {("backend: openai", "ready"), ("backend: scripted", "reply")}
"""Arguments that are functions, which YAML cannot write."""
BASES = {"TrainSettings"}
"""Classes that no section is made of by itself."""
HEADINGS = {
    "The file": "Config",
    "problems, eft.problems, evaluate.problems": "ProblemSettings",
    "prices.NAME": "Price",
    "init.lora, optimize.lora": "LoraSettings",
    "init.mix": "MixSettings",
    "optimize.guards": "GuardSettings",
}


def settings_of_the_page(page: str) -> set[tuple[str, str]]:
    pairs, heading = set(), ""
    for line in page.splitlines():
        if line.startswith("#"):
            heading = line.strip("# ").removesuffix(" (the default)")
            heading = HEADINGS.get(heading, heading if ": " in heading else f"{heading.capitalize()}Settings")
        elif row := re.match(r"\| `(\w+)` \|", line):
            pairs.add((heading, row[1]))
    return pairs


def test_the_page_names_exactly_the_settings_of_the_code() -> None:
    code = {pair for pair in settings_of_the_code() if pair[0] not in BASES} - CALLABLES
    assert settings_of_the_page((ROOT / "docs/settings.md").read_text()) == code


def test_the_page_is_the_one_that_the_command_prints() -> None:
    assert (ROOT / "docs/settings.md").read_text() == settings_page(), "stepagent schema --page > docs/settings.md"


def test_every_setting_has_a_meaning() -> None:
    definitions: dict[str, Any] = {"Config": config_schema(), **config_schema()["$defs"]}
    blank = [
        f"{name}.{key}"
        for name, definition in definitions.items()
        for key, value in definition.get("properties", {}).items()
        if key != "kind" and name != "Rule" and not value.get("description")
    ]
    assert blank == []


@pytest.mark.parametrize("target", [target for type_ in TYPES[:2] for target in type_.builtins.values()])
def test_an_outline_has_the_signature_of_the_constructor(target: str) -> None:
    read, real = inspect.signature(outline(target)), inspect.signature(import_object("test", target))
    names = [(p.name, p.kind, p.default) for p in real.parameters.values()]
    assert [(p.name, p.kind, p.default) for p in read.parameters.values()] == names


def test_no_meaning_is_left_of_a_setting_that_is_gone() -> None:
    from stepagent.assembly.meanings import COMMON, MEANINGS

    code = {(owner.replace(": ", "."), name) for owner, name in settings_of_the_code()}
    assert {tuple(key.rsplit(".", 1)) for key in MEANINGS} <= code
    assert COMMON.keys() <= {name for _, name in code}


def test_the_command_prints_the_schema_without_torch() -> None:
    script = "import sys; from stepagent.commands.main import run; sys.argv = ['stepagent', 'schema']\n"
    script += "try: run()\nexcept SystemExit: pass\nassert not {'torch', 'openai', 'transformers'} & sys.modules.keys()"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads(json.dumps(config_schema()))


def test_all_sections_are_in_the_schema() -> None:
    sections = {name for name, item in vars(settings).items() if isinstance(item, type) and issubclass(item, BaseModel)}
    assert (
        sections - {"BaseModel", "Settings", "TrainSettings", "Component", "Config"} <= config_schema()["$defs"].keys()
    )
