"""Tokenizers and chat templates that cannot be used: one sentence each, and no code of a stranger runs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from dialects import CHATML, VOCABULARY, WITHOUT_END, write_model, write_tokenizer
from model_faults import (
    DOORS,
    LFS_POINTER,
    Fault,
    Spoil,
    all_of,
    assert_refused,
    cases,
    copy_of,
    cut,
    edit_json,
    with_config,
    with_file,
    without_files,
)

from stepagent import Message, ModelError
from stepagent.models.tokenizer import ChatTokenizer

TOKENIZER_AGAIN = "tokenizer.json.*(copy|download)|(copy|download).*tokenizer.json"
PARTS_ONLY = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role }}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
)


def component(part: str, **content: object) -> Spoil:
    return lambda folder: edit_json(folder / "tokenizer.json", **{part: content})


def template(text: str) -> Spoil:
    return with_file("chat_template.jinja", text)


def named_templates(**templates: str) -> Spoil:
    """Return a fault that keeps several templates in tokenizer_config.json, as folders before 2025 do."""
    entries = [{"name": name, "template": text} for name, text in templates.items()]
    keep = without_files("chat_template.jinja")
    return all_of(keep, lambda folder: edit_json(folder / "tokenizer_config.json", chat_template=entries))


def speaks(text: str, eos: str | None) -> Spoil:
    return lambda folder: write_tokenizer(folder, text, eos)


TOKENIZERS = [
    Fault("no tokenizer", without_files("tokenizer*"), TOKENIZER_AGAIN),
    Fault("Git LFS pointer", with_file("tokenizer.json", LFS_POINTER), "git lfs pull"),
    Fault("Git LFS pointer of SentencePiece", with_file("tokenizer.model", LFS_POINTER), "git lfs pull"),
    Fault("Git LFS pointer of the template", template(LFS_POINTER), "git lfs pull"),
    Fault(
        "a newer model",
        component("model", type="Bytes", vocab={}),
        "upgrade.*(tokenizers|transformers)",
    ),
    Fault(
        "a newer splitter",
        component("pre_tokenizer", type="Sentences"),
        "upgrade.*(tokenizers|transformers)",
    ),
    Fault(
        "a newer decoder",
        component("decoder", type="Sentences"),
        "upgrade.*(tokenizers|transformers)",
    ),
    Fault("cut", cut("tokenizer.json", 0.5), TOKENIZER_AGAIN),
    Fault("no JSON", with_file("tokenizer.json", "<!doctype html>"), TOKENIZER_AGAIN),
    Fault("empty", with_file("tokenizer.json", ""), TOKENIZER_AGAIN),
    Fault("an empty object", with_file("tokenizer.json", "{}"), TOKENIZER_AGAIN),
    Fault("settings are cut", cut("tokenizer_config.json", 0.5), "tokenizer_config.json"),
    Fault("settings are a list", with_file("tokenizer_config.json", "[]"), "tokenizer_config.json"),
]
TEMPLATES = [
    Fault("no template", without_files("chat_template.jinja"), "no chat template; add chat_template.jinja"),
    Fault("an empty template", template(""), "chat template.*chat_template.jinja"),
    Fault("a syntax error", template("{% for message in %}"), "template fails.*mend chat_template.jinja"),
    Fault("an open block", template("{% for message in messages %}"), "template fails.*mend chat_template.jinja"),
    Fault("an unknown filter", template("{{ messages | shout }}"), "template fails.*mend chat_template.jinja"),
    Fault("an unknown function", template("{{ shout(messages) }}"), "template fails.*mend chat_template.jinja"),
    Fault("refuses all", template("{{ raise_exception('no') }}"), "template fails.*mend chat_template.jinja"),
    Fault("adds text to a number", template("{{ messages | length + 'x' }}"), "template fails.*chat_template.jinja"),
    Fault(
        "divides by zero",
        template("{{ 1 / 0 }}"),
        "template fails.*chat_template.jinja",
    ),
    Fault(
        "takes parts, not text",
        template(PARTS_ONLY),
        "template.*chat_template.jinja",
    ),
    Fault("several templates without a default", named_templates(tools=CHATML, rag=CHATML), "template.*default"),
]
ENDS = [
    Fault("nothing ends a turn", speaks(WITHOUT_END, None), "set eos_token in tokenizer_config.json"),
    Fault(
        "an end beyond the embeddings",
        lambda folder: write_model(folder, embeddings=260),
        "embeddings.*tokenizer|tokenizer.*embeddings",
        doors=("search",),
    ),
]


@pytest.mark.parametrize(("fault", "door"), cases([*TOKENIZERS, *TEMPLATES, *ENDS]))
def test_a_faulty_tokenizer_or_template_is_refused_in_one_sentence(
    byte_model: Path, tmp_path: Path, fault: Fault, door: str
) -> None:
    folder = copy_of(byte_model, tmp_path / "m", fault.spoil)
    assert_refused(lambda: DOORS[door](folder), folder, fault.remedy)


CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Mine(LlamaConfig):
    model_type = "mine"
class Model(LlamaForCausalLM):
    config_class = Mine
class Tokenizer(PreTrainedTokenizerFast): ...
"""
CUSTOM = {
    "tokenizer": lambda folder: edit_json(
        folder / "tokenizer_config.json",
        tokenizer_class="MineTokenizer",
        auto_map={"AutoTokenizer": [None, "mine.Tokenizer"]},
    ),
    "config": with_config(model_type="mine", auto_map={"AutoConfig": "mine.Mine"}),
    "model": with_config(model_type="mine", auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}),
    "a known family": with_config(auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}),
}


@pytest.mark.parametrize(
    "spoil",
    [pytest.param(spoil, id=name) for name, spoil in CUSTOM.items()],
)
@pytest.mark.parametrize("door", DOORS)
def test_custom_code_neither_runs_nor_asks(
    byte_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Spoil, door: str
) -> None:
    """Transformers asks on the terminal whether custom code may run: a run in the background must not wait for that,
    and text on its standard input must not say yes."""
    questions: list[str] = []

    def answer(question: str = "") -> str:
        questions.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    folder = copy_of(byte_model, tmp_path / "m", spoil)
    (folder / "mine.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    with suppress(ModelError):
        DOORS[door](folder)
    assert not questions
    assert not (tmp_path / "ran").exists()


GOOD = {
    "the template in tokenizer_config.json": all_of(
        without_files("chat_template.jinja"),
        lambda folder: edit_json(folder / "tokenizer_config.json", chat_template=CHATML),
    ),
    "several templates": named_templates(default=CHATML, tools="{{ 1 / 0 }}"),
    "a tokenizer class of the future": lambda folder: edit_json(
        folder / "tokenizer_config.json", tokenizer_class="MineTokenizer"
    ),
    "padded embeddings": lambda folder: write_model(folder, embeddings=VOCABULARY + 40),
    "unused tokens beyond the embeddings": lambda folder: write_model(folder, embeddings=262),
}


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in GOOD.items()])
@pytest.mark.parametrize("door", DOORS)
def test_other_forms_of_a_good_tokenizer_are_taken(byte_model: Path, tmp_path: Path, change: Spoil, door: str) -> None:
    folder = copy_of(byte_model, tmp_path / "m", change)
    DOORS[door](folder)
    tokenizer = ChatTokenizer(folder)
    assert tokenizer.prompt_ids([Message("user", "q")]) == (259, *b"user\nq", 260, 10, 259, *b"assistant\n")
    assert tokenizer.end_id == 260
