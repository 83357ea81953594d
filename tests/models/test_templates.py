"""Chat templates of real families: which token ends a turn, and what a text already brings is written once."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from dialects import CHATML, DATED, GEMMA, SPECIAL, THINK, THINKING, THOUGHT, WITHOUT_END, WITHOUT_SYSTEM, write_model

from stepagent import Message
from stepagent.backends.transformers import TransformersBackend
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.pairs import load_pairs
from stepagent.training.sft import SftRow, encode
from stepagent.types import Prompt, Sampling

START, TEXT_END = SPECIAL["<s>"], SPECIAL["<|endoftext|>"]
IM_START, IM_END = SPECIAL["<|im_start|>"], SPECIAL["<|im_end|>"]
TURN, TURN_END = SPECIAL["<start_of_turn>"], SPECIAL["<end_of_turn>"]

Speaker = Callable[..., Path]

PHI = CHATML.replace("{% endif %}", "{% else %}{{ eos_token }}{% endif %}")
PLAIN_END = WITHOUT_END.replace("+ '\\n' }}", "}}{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}", 1)
CHAT = (IM_START, *b"user\nq", IM_END, *b"\n", IM_START, *b"assistant\n")
GEMMA_CHAT = (START, TURN, *b"user\nq", TURN_END, *b"\n", TURN, *b"model\n")

ENDS = [
    # template, eos_token, the end of a turn
    ("an instruct model", CHATML, "<|im_end|>", IM_END),
    ("ChatML on a base model", CHATML, "<|endoftext|>", IM_END),
    ("Gemma", GEMMA, "<|endoftext|>", TURN_END),
    ("an end of text behind the end of the turn", PHI, "<|endoftext|>", IM_END),
    ("a template that writes eos_token", PLAIN_END, "<|endoftext|>", TEXT_END),
    ("a template that ends no turn", WITHOUT_END, "<|endoftext|>", TEXT_END),
    ("no eos_token", CHATML, None, IM_END),
]


@pytest.mark.parametrize(("template", "eos", "end"), [pytest.param(*row[1:], id=row[0]) for row in ENDS])
def test_the_token_that_the_template_writes_is_trained(speaker: Speaker, template: str, eos: str, end: int) -> None:
    tokenizer = ChatTokenizer(speaker(template, eos))
    target = encode(tokenizer, SftRow((Message("user", "q"),), "2"))
    assert target.ids[target.start :] == (*b"2", end)


@pytest.mark.parametrize(("template", "eos", "end"), [pytest.param(*row[1:], id=row[0]) for row in ENDS])
async def test_the_token_that_the_template_writes_stops_sampling(
    speaker: Speaker, template: str, eos: str | None, end: int
) -> None:
    for token in {end, SPECIAL[eos or "<|im_end|>"]}:
        folder = speaker(template, eos)
        write_model(folder, says=token)
        backend = TransformersBackend(str(folder))
        replies = await backend.complete(Prompt((Message("user", "q"),)), Sampling(max_tokens=5))
        assert (replies.choices[0].token_ids, replies.choices[0].finish_reason) == ((token,), "end")


async def test_an_end_of_the_generation_config_stops_sampling(speaker: Speaker) -> None:
    folder = speaker()
    write_model(folder, says=TURN_END)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [TEXT_END, TURN_END]}))
    replies = await TransformersBackend(str(folder)).complete(Prompt((Message("user", "q"),)), Sampling(max_tokens=5))
    assert replies.choices[0].token_ids == (TURN_END,)


SYSTEM = [
    # template, ids of a chat with the system's text S and the question q
    ("a place for it", CHATML, (IM_START, *b"system\nS", IM_END, *b"\n", *CHAT)),
    ("refused", GEMMA, (START, TURN, *b"user\nS\n\nq", TURN_END, *b"\n", TURN, *b"model\n")),
    ("dropped", WITHOUT_SYSTEM, (IM_START, *b"user\nS\n\nq", IM_END, *b"\n", IM_START, *b"assistant\n")),
]


@pytest.mark.parametrize(("template", "ids"), [pytest.param(*row[1:], id=row[0]) for row in SYSTEM])
def test_the_text_of_a_system_turn_is_never_lost(speaker: Speaker, template: str, ids: tuple[int, ...]) -> None:
    tokenizer = ChatTokenizer(speaker(template))
    assert tokenizer.prompt_ids([Message("system", "S"), Message("user", "q")]) == ids


def test_a_system_text_that_the_question_repeats_is_not_lost(speaker: Speaker) -> None:
    tokenizer = ChatTokenizer(speaker(WITHOUT_SYSTEM))
    text = tokenizer.render([Message("system", "Add."), Message("user", "Add. 1+1")])
    assert text.count("Add.") == 2


def test_the_start_is_written_once(speaker: Speaker) -> None:
    tokenizer = ChatTokenizer(speaker(GEMMA, adds_start=True))
    assert tokenizer.prompt_ids([Message("user", "q")]) == GEMMA_CHAT
    assert tokenizer.opening_ids("1") == tokenizer.opening_ids("<s>1") == (START, *b"1")


REPLIES = [
    # template, eos_token, reply, its ids
    ("plain", CHATML, "<|im_end|>", "2", (*b"2", IM_END)),
    ("with its end", CHATML, "<|im_end|>", "2<|im_end|>", (*b"2", IM_END)),
    ("with its end and a line", CHATML, "<|im_end|>", "2<|im_end|>\n", (*b"2", IM_END)),
    ("with the end of text", CHATML, "<|endoftext|>", "2<|endoftext|>", (*b"2", IM_END)),
    ("a thought", THINKING, "<|im_end|>", "<think>\na</think>2", (*b"a", THOUGHT, *b"2", IM_END)),
    ("a thought behind lines", THINKING, "<|im_end|>", "\n<think>a</think>2", (*b"a", THOUGHT, *b"2", IM_END)),
    ("the rest of a thought", THINKING, "<|im_end|>", "a</think>2", (*b"a", THOUGHT, *b"2", IM_END)),
    ("a thought of its own", CHATML, "<|im_end|>", "<think>a</think>2", (THINK, *b"a", THOUGHT, *b"2", IM_END)),
]


@pytest.mark.parametrize(
    ("template", "eos", "reply", "ids"),
    [pytest.param(*row[1:], id=row[0]) for row in REPLIES],
)
def test_a_reply_is_trained_with_one_end_and_one_opening(
    speaker: Speaker, template: str, eos: str, reply: str, ids: tuple[int, ...]
) -> None:
    target = encode(ChatTokenizer(speaker(template, eos)), SftRow((Message("user", "q"),), reply))
    assert target.ids[target.start :] == ids


def turns(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


ASKED = [{"role": "user", "content": "q"}]
THINK_CHAT = (*CHAT, THINK, *b"\n")
PAIRS = [
    # template, row of preferences, ids of the context, of the chosen and of the rejected step
    ("a chat", CHATML, (ASKED, turns("2"), turns("9")), CHAT, (*b"2", IM_END), (*b"9", IM_END)),
    (
        "a chat with its ends",
        CHATML,
        (ASKED, turns("2<|im_end|>"), turns("9<|im_end|>")),
        CHAT,
        (*b"2", IM_END),
        (*b"9", IM_END),
    ),
    (
        "a chat with its ends and lines",
        CHATML,
        (ASKED, turns("2<|im_end|>\n"), turns("9<|im_end|>\n")),
        CHAT,
        (*b"2", IM_END),
        (*b"9", IM_END),
    ),
    (
        "a chat with thoughts that the template opens",
        THINKING,
        (ASKED, turns("<think>\na</think>2"), turns("<think>\nb</think>9")),
        THINK_CHAT,
        (*b"a", THOUGHT, *b"2", IM_END),
        (*b"b", THOUGHT, *b"9", IM_END),
    ),
    ("Gemma", GEMMA, (ASKED, turns("2"), turns("9")), GEMMA_CHAT, (*b"2", TURN_END), (*b"9", TURN_END)),
    ("plain text", GEMMA, ("1+1=", "2", "9"), (START, *b"1+1="), (*b"2", TURN_END), (*b"9", TURN_END)),
    (
        "plain text with its start",
        GEMMA,
        ("<s>1+1=", "2", "9"),
        (START, *b"1+1="),
        (*b"2", TURN_END),
        (*b"9", TURN_END),
    ),
    (
        "a chat as text",
        GEMMA,
        ("<s><start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\n", "2<end_of_turn>", "9<end_of_turn>\n"),
        GEMMA_CHAT,
        (*b"2", TURN_END),
        (*b"9", TURN_END),
    ),
]


@pytest.mark.parametrize(
    ("template", "row", "context", "chosen", "rejected"),
    [pytest.param(*row[1:], id=row[0]) for row in PAIRS],
)
def test_the_texts_of_a_pair_become_these_ids(
    speaker: Speaker,
    tmp_path: Path,
    template: str,
    row: tuple[object, object, object],
    context: tuple[int, ...],
    chosen: tuple[int, ...],
    rejected: tuple[int, ...],
) -> None:
    tokenizer = ChatTokenizer(speaker(template, adds_start=template == GEMMA))
    data = tmp_path / "p.jsonl"
    data.write_text(json.dumps(dict(zip(("prompt", "chosen", "rejected"), row, strict=True))))
    ((first, second),) = load_pairs(data, tokenizer, 200, vocabulary=len(tokenizer)).units
    assert (first.ids[: first.start], first.ids[first.start :]) == (context, chosen)
    assert (second.ids[: second.start], second.ids[second.start :]) == (context, rejected)


@pytest.mark.parametrize("template", [DATED, DATED.replace("%d %b %Y", "%Y-%m-%d %H:%M")])
def test_a_template_with_the_date_renders_alike_on_any_day(
    speaker: Speaker, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    folder = speaker(template)

    def rendered(year: int) -> str:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: object = None) -> Clock:
                return cls(year, 5, 17, 13, 21)

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
        return ChatTokenizer(folder).render([Message("user", "q")])

    assert rendered(2025) == rendered(2031)
