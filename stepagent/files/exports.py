"""Rows for other trainers. Each docstring says how the trainer treats the end of a step that does not end the
solution, as its code did when it was read: TRL 1.16 (and run), LLaMA-Factory, OpenRLHF and Step-DPO of 2025.

A step's text is the sampled one, with its terminator, so a trainer that adds nothing trains the same tokens as
stepagent's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from stepagent.tree import StepTree, joined_text
from stepagent.types import StepPreference

Row = dict[str, Any]

_AS_IT_STANDS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def text_row(row: StepPreference, end: str) -> Row:
    """TRL's and OpenRLHF's text rows.

    TRL appends the end-of-turn token to every step, also to one that does not end the
    solution: the model learns to stop after it. Prefer trl-conversational. A prompt that opens with the BOS
    text gets a second one if the tokenizer adds BOS. max_length cuts the end of the step.

    OpenRLHF (--prompt_key prompt --chosen_key chosen --rejected_key rejected, without --apply_chat_template) strips
    line ends, appends EOS to every step and cannot be told not to. A row over max_len loses the end of its step; its
    last token becomes EOS."""
    return {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected, **_origin(row, "")}


def trl_conversational(row: StepPreference, end: str) -> Row:
    """TRL, turns that pass through a chat template of their own which adds nothing: no end-of-turn token, no
    BOS; ended steps carry `end`. The trained tokens are stepagent's own. max_length cuts the end of the
    step; a prompt that long drops the row."""
    return {
        "prompt": [{"role": "user", "content": row.prompt}],
        "chosen": [{"role": "assistant", "content": _ended(row.chosen, row.chosen_ends, end)}],
        "rejected": [{"role": "assistant", "content": _ended(row.rejected, row.rejected_ends, end)}],
        "chat_template_kwargs": {"chat_template": _AS_IT_STANDS},
        **_origin(row, end),
    }


def llama_factory(row: StepPreference, end: str) -> Row:
    """LLaMA-Factory, alpaca layout; dataset_info.json: {"ranking": true, "columns": {"prompt": "instruction",
    "chosen": "chosen", "rejected": "rejected"}}. Train with `template: empty`, which adds nothing (releases
    around 0.9.0 may append EOS); ended steps carry `end`. cutoff_len cuts the end of a long prompt, the
    newest steps first: set it above your longest row."""
    return {
        "instruction": row.prompt,
        "chosen": _ended(row.chosen, row.chosen_ends, end),
        "rejected": _ended(row.rejected, row.rejected_ends, end),
        **_origin(row, end),
    }


def step_dpo(row: StepPreference, end: str) -> Row:
    """Step-DPO (dvlab-research): the question in its own template, the steps so far, one step against
    another. It appends no EOS; ended steps carry `end`. Too long rows lose the prompt's beginning or end
    (truncation_mode), then the end of the step."""
    return {
        "prompt": row.question,
        "initial_reason_steps": "".join(row.prefix),
        "chosen": _ended(row.chosen, row.chosen_ends, end),
        "rejected": _ended(row.rejected, row.rejected_ends, end),
        **_origin(row, end),
    }


def _origin(row: StepPreference, end: str) -> Row:
    """Return the problem behind the rendered prompt, which steps ended the solution, and the text `end` that stands
    behind those: no trainer reads them, `data import` and `optimize` do."""
    ends = {"chosen": row.chosen_ends, "rejected": row.rejected_ends}
    return {"question": row.question, "prefix": list(row.prefix), "ends": ends, "end": end}


def _ended(text: str, ends: bool, end: str) -> str:
    return text + end if ends else text


PREFERENCES: dict[str, Callable[[StepPreference, str], Row]] = {
    "trl": text_row,
    "trl-conversational": trl_conversational,
    "llama-factory": llama_factory,
    "openrlhf": text_row,
    "step-dpo": step_dpo,
}
ADD_NO_END = ("trl-conversational", "llama-factory", "step-dpo")
"""The trainers whose rows have to hold the end-of-turn text themselves."""


def prm(tree: StepTree) -> Iterator[Row]:
    """Process reward models, in TRL's stepwise-supervision layout {prompt, completions, labels}: every path
    of judged steps, a step labelled as right if its judge's value is 0.5 or more. Values of comparing judges
    are among siblings: "better than most of the others", not "right". A path is cut before a step without a
    value. TRL's PRMTrainer adds a separator after each step and no EOS, and cuts long rows at the end."""
    values: dict[int, float] = {}
    for level in tree.levels:
        if level.verdict is not None and (level.verdict.status == "ok" or not level.verdict.votes):
            values |= dict(zip(level.judged, level.verdict.values, strict=False))
    valued = {node for node, value in values.items() if not math.isnan(value)}
    inner = {tree.nodes[node].parent for node in valued}
    for leaf in sorted(valued - inner):
        path = tree.path_to(leaf)
        if all(node in valued for node in path):
            yield {
                "prompt": tree.problem.question,
                "completions": [tree.step(node).content for node in path],
                "labels": [values[node] >= 0.5 for node in path],
            }


def sft(tree: StepTree) -> Iterator[Row]:
    """Return the kept path of every tree that ended: {prompt, completion} for SFT trainers, which close a completion
    with EOS (here rightly so), and {question, steps}, which `init` takes as IFT rows."""
    if tree.status == "ended":
        steps = [step.text for step in tree.solution()]
        yield {
            "prompt": tree.context_text,
            "completion": joined_text(tree.solution()),
            "question": tree.problem.question,
            "steps": steps,
        }


TREES: dict[str, Callable[[StepTree], Iterator[Row]]] = {"prm": prm, "sft": sft}
