"""The circle on a real pretrained model: SmolLM2-135M-Instruct, its tokenizer, its template, its own replies."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from _bench import WarningMonitor

from stepagent.backends.transformers import TransformersBackend
from stepagent.config.settings import LoraSettings, OptimizeSettings
from stepagent.files.jsonl import write_rows
from stepagent.generators.sample import SampleGenerator
from stepagent.interfaces import Backend
from stepagent.judges.pairwise import PairwiseJudge
from stepagent.models.loading import load_model
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.strategies.runner import search_all
from stepagent.strategies.step import StepSearch
from stepagent.training.dpo import optimize_model
from stepagent.tree import StepTree
from stepagent.types import Completions, Message, Problem, Prompt, Sampling, Step, StepPreference

pytestmark = pytest.mark.slow

QUESTIONS = (
    "Tom has 3 boxes with 12 pencils each. He gives 7 pencils to his sister. How many pencils does he have left?",
    "A train goes 60 km in one hour. How many km does it go in 3 hours?",
)


class Recording:
    """Backend that keeps its replies."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.replies: list[Completions] = []

    async def complete(self, prompt: Prompt, sampling: Sampling) -> Completions:
        """See Backend."""
        self.replies.append(await self._backend.complete(prompt, sampling))
        return self.replies[-1]


class Searched:
    """Trees that the model searched and judged itself, and what it said as a judge."""

    def __init__(self, folder: Path) -> None:
        backend = TransformersBackend(str(folder), device="cpu")
        self.unbatched = backend.unbatched
        self.verdicts = Recording(backend)
        self.trees: list[StepTree] = []
        generator = SampleGenerator(backend, max_tokens=48, boundary="line")
        judge = PairwiseJudge(self.verdicts, max_tokens=16)
        strategy = StepSearch(generator, judge, width=2, max_iterations=2)
        problems = [Problem(str(place), question) for place, question in enumerate(QUESTIONS)]
        asyncio.run(
            search_all(
                strategy, enumerate(problems), 0, concurrency=2, finished=lambda _, tree: self.trees.append(tree)
            )
        )


@pytest.fixture(scope="module")
def searched(smollm2: Path) -> Searched:
    """One search for all tests."""
    return Searched(smollm2)


@pytest.mark.filterwarnings("ignore")
def test_every_step_is_the_very_tokens_that_were_sampled(smollm2: Path, searched: Searched) -> None:
    assert searched.unbatched == "", "a Llama runs in one batch"
    tokenizer, model = ChatTokenizer(smollm2), load_model(smollm2, torch.float32, torch.device("cpu"))
    checked = 0
    for tree in searched.trees:
        assert tree.status != "failed", tree.error
        assert tree.context_ids
        assert tokenizer.text(list(tree.context_ids)) == tree.context_text
        assert tree.context_text.endswith("<|im_start|>assistant\n"), "the model's own chat template"
        for level in tree.levels:
            path = [tree.step(node) for node in tree.path_to(level.parent)]
            before = [*tree.context_ids, *(token for step in path for token in step.token_ids or ())]
            for step in (tree.step(node) for node in level.nodes):
                assert step.token_ids
                assert tokenizer.text(list(step.token_ids), special=False) == step.text
                assert step.text.startswith(step.content), "the content is the text without its terminator"
                with torch.inference_mode():
                    logits = model(torch.tensor([[*before, *step.token_ids]])).logits[0, len(before) - 1 : -1]
                plain = logits.log_softmax(-1).gather(1, torch.tensor(step.token_ids)[:, None]).sum()
                assert step.logprob == pytest.approx(float(plain), abs=2e-3), "of the step in its place, cached or not"
                checked += 1
    assert checked >= 5


def test_its_words_are_read_by_the_judges_grammar(searched: Searched) -> None:
    """A verdict is one label alone, wherever the real model puts it and whatever it says around it."""
    replies = {choice.text for reply in searched.verdicts.replies for choice in reply.choices}
    votes = [vote for tree in searched.trees for level in tree.levels if level.verdict for vote in level.verdict.votes]
    assert votes
    assert {vote.reply for vote in votes} <= replies
    for vote in votes:
        labels = set(re.findall(r"\[\[([AB])\]\]", vote.reply))
        if vote.outcome in ("first", "second"):
            assert ("A" if vote.outcome == "first" else "B") in labels
        elif not labels:
            assert vote.outcome == "unparsed"


@pytest.mark.filterwarnings("ignore")
def test_its_siblings_train_it_and_the_merged_model_prefers_the_chosen_ones(
    smollm2: Path, searched: Searched, tmp_path: Path
) -> None:
    """The pairs are siblings that the model sampled; the shorter is called the better one, as no judge of this size
    always gives a pair."""
    tokenizer, rows = ChatTokenizer(smollm2), []
    for tree in searched.trees:
        for level in tree.levels:
            steps = sorted((tree.step(node) for node in level.nodes), key=lambda step: len(step.token_ids or ()))
            if len(steps) > 1 and steps[0].token_ids != steps[-1].token_ids:
                rows.append(_preference(tree, level.parent, steps[0], steps[-1]))
    assert len(rows) >= 2
    write_rows(tmp_path / "preferences.jsonl", rows)
    settings = OptimizeSettings(learning_rate=1e-3, epochs=2, batch_size=4, lora=LoraSettings(rank=8))
    monitor = WarningMonitor(lambda _: None)
    report = optimize_model(
        str(smollm2), tmp_path / "preferences.jsonl", tmp_path / "M_2", settings=settings, seed=0, monitor=monitor
    )
    assert report["pairs"] == len(rows)
    assert (tmp_path / "M_2" / "chat_template.jinja").read_bytes() == (smollm2 / "chat_template.jinja").read_bytes()
    assert json.loads((tmp_path / "M_2" / "config.json").read_text())["eos_token_id"] == tokenizer.end_id
    before, after = (
        [_margin(load_model(folder, torch.float32, torch.device("cpu")), row) for row in rows]
        for folder in (smollm2, tmp_path / "M_2")
    )
    assert sum(after) > sum(before) + 1, "nats"
    reply = asyncio.run(
        TransformersBackend(str(tmp_path / "M_2"), device="cpu").complete(
            Prompt((Message("user", QUESTIONS[1]),)), Sampling(n=1, max_tokens=16, temperature=0.0)
        )
    )
    assert reply.choices[0].text.strip()


def _preference(tree: StepTree, parent: int | None, best: Step, worst: Step) -> StepPreference:
    path = [tree.step(node) for node in tree.path_to(parent)]
    assert tree.context_ids
    return StepPreference(
        prompt=tree.context_text + "".join(step.text for step in path),
        chosen=best.text,
        rejected=worst.text,
        question=tree.problem.question,
        prefix=tuple(step.text for step in path),
        prompt_ids=(*tree.context_ids, *(token for step in path for token in step.token_ids or ())),
        chosen_ids=best.token_ids,
        rejected_ids=worst.token_ids,
        chosen_ends=best.ends,
        rejected_ends=worst.ends,
        margin=1.0,
        problem_id=tree.problem.id,
        depth=len(path) + 1,
        round=1,
        generator="sample",
        judge="shorter",
        tokenizer_sha256=tree.tokenizer_sha256,
    )


@torch.inference_mode()
def _margin(model: Any, row: StepPreference) -> float:
    """The log-probability (nats) of the chosen step over that of the rejected one."""
    sums = []
    for ids in (row.chosen_ids, row.rejected_ids):
        assert ids
        assert row.prompt_ids
        logits = model(torch.tensor([[*row.prompt_ids, *ids]])).logits[0, len(row.prompt_ids) - 1 : -1]
        sums.append(float(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum()))
    return sums[0] - sums[1]
