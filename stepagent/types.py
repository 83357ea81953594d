"""The data that flows through stepagent: frozen, without I/O, with no behaviour but reading itself."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from stepagent.seeds import derive_seed

FinishReason = Literal["stop", "end", "length"]
"""The reason a completion ended: a stop string, the model's end-of-turn token, or the token limit."""

Score = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A judge's score; nan where it has none. JSON knows no nan, so files hold null."""

VerdictStatus = Literal["ok", "no_signal", "unparsed", "error"]
Thinking = Literal["off", "hidden", "steps"]
"""The place of a reasoning model's thought: none is written; it stands before the steps, in their context; it is what
the steps are made of."""
VoteOutcome = Literal["first", "second", "tie", "unparsed", "error"]
Winner = Literal["first", "second", "tie"]
SiblingPairs = Literal["best_worst", "best_rest", "all"]
"""The pairs of siblings that a judged level makes."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """M_`index` of a run, in the folder (or under the hub id) `path`: M_0 is the base model, M_1 the first that
    judges. A model that belongs to no run has no index."""

    index: int | None
    path: str

    @classmethod
    def at(cls, path: str) -> ModelVersion:
        """Return the model of a folder or hub id; a folder M_2 holds M_2."""
        number = re.fullmatch(r"M_(\d+)", path.rstrip("/").rpartition("/")[2])
        return cls(int(number[1]) if number else None, path)

    @property
    def name(self) -> str:
        """The name in folders, tables and summaries, such as "M_2"; the path of a model without an index."""
        return self.path if self.index is None else f"M_{self.index}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One question. `answer` serves evaluation only: a search sees the problem `without_answer()`."""

    id: str
    question: str
    answer: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def is_scored_by_environment(self) -> bool:
        """Whether it comes from an environment, whose scoring needs no reference answer."""
        return "environment" in self.metadata

    def without_answer(self) -> Problem:
        """Return the same problem without its reference answer."""
        return replace(self, answer=None)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Chat turns, then the half-written assistant turn that a completion continues.

    `prefix_ids` are the sampled token ids of `prefix_text`; None means that they are not known and
    the backend must tokenise the text. `thinking` asks a reasoning model to think (steps) or not to (off), where its
    chat template or server has a switch; else it does as it is used to.
    """

    messages: tuple[Message, ...]
    prefix_text: str = ""
    prefix_ids: tuple[int, ...] | None = ()
    thinking: Thinking | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """The way completions are drawn. `max_tokens` bounds one completion; `top_logprobs` asks for that many
    alternatives of its first token."""

    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int = 0
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of a piece of work. A shared prompt counts once per request."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, addend: Usage) -> Usage:
        return Usage(
            self.requests + addend.requests,
            self.prompt_tokens + addend.prompt_tokens,
            self.completion_tokens + addend.completion_tokens,
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation.

    `text` is `token_ids` decoded: it includes a matched stop string, up to the token boundary at or after the
    match; an end-of-turn token is in `token_ids` and adds no text. `logprobs` are the model's own (temperature
    1), one per token. Ids and log-probabilities are None where the backend gives none. `first` are the likeliest
    first tokens, as text, with their log-probabilities, if `top_logprobs` asked for them.
    """

    text: str
    finish_reason: FinishReason
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    first: tuple[tuple[str, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class Completions:
    """The reply to one request: n completions of one rendered context. Where a server renders chats itself,
    `prompt_text` is only their plain text."""

    choices: tuple[Completion, ...]
    prompt_text: str
    prompt_ids: tuple[int, ...] | None
    usage: Usage
    tokenizer_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One reasoning step.

    `text` is `token_ids` decoded and owns the terminator that was sampled; the next step starts where it ends.
    `content` is the text without that terminator. `ends` says that the solution is over.
    `logprob` is the sum over the step's tokens. `count` says how often it was sampled among its siblings.
    `thought` stands before a first step and belongs to its context, with the ids `thought_ids` (None: not known).
    """

    text: str
    content: str
    finish_reason: FinishReason
    ends: bool
    token_ids: tuple[int, ...] | None = None
    logprob: float | None = None
    count: int = 1
    thought: str = ""
    thought_ids: tuple[int, ...] | None = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A distinct step proposed for a prefix, and the flaws of its form."""

    step: Step
    flaws: tuple[Literal["empty", "runaway", "repeating"], ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A generator's reply for one prefix: the rendered context and the distinct candidates."""

    context_text: str
    context_ids: tuple[int, ...] | None
    candidates: tuple[Candidate, ...]
    usage: Usage
    tokenizer_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """One comparison: the candidates (indices) in the first and the second position, and the outcome.
    `probability` is the judge's own chance that the first is better, where it gives one. `asked_again`: the
    first reply named no verdict."""

    first: int
    second: int
    outcome: VoteOutcome
    reply: str = ""
    probability: float | None = None
    asked_again: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's outcome over candidates; indices refer to the candidates in the order they were given.

    Only "ok" makes a preference pair. `margin` is the estimated probability that best beats worst. `values`
    say in [0, 1] how good each candidate is: its own score where the judge scores steps one by one (then
    values of different levels compare), else the estimated probability that it beats one of its siblings.
    `error` is the reason of the first request that failed, in the words of the backend; empty if none did.
    """

    status: VerdictStatus
    scores: tuple[Score, ...]
    best: int | None = None
    worst: int | None = None
    margin: float | None = None
    votes: tuple[Vote, ...] = ()
    usage: Usage = Usage()
    values: tuple[Score, ...] = ()
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether a request of it failed, so that judging again may tell more."""
        return self.status == "error" or any(vote.outcome == "error" for vote in self.votes)


@dataclass(frozen=True, slots=True)
class StepPair:
    """Two candidate next steps and which one is better: {x, s_1..s_{l-1}, s_l^1, s_l^2, judge}.

    `judgement` is the written reasoning that closes with a verdict label; labelled pairs that only measure a
    judge have none. `margin` is the labelling judge's probability that the winner is the better step, `values`
    are its values of `first` and `second` in [0, 1]; None where a file brings neither.
    """

    question: str
    prefix: tuple[str, ...]
    first: str
    second: str
    winner: Winner | None = None
    judgement: str = ""
    margin: float | None = None
    values: tuple[Score, Score] | None = None
    problem_id: str = ""

    @property
    def id(self) -> str:
        """A name that is the same for the same texts in either order."""
        return f"{derive_seed(self.question, *self.prefix, '|', *sorted((self.first, self.second))):016x}"

    def swapped(self) -> StepPair:
        """Return the same pair in swapped order."""
        winners: dict[Winner | None, Winner] = {"first": "second", "second": "first", "tie": "tie"}
        values = None if self.values is None else (self.values[1], self.values[0])
        return replace(self, first=self.second, second=self.first, winner=winners.get(self.winner), values=values)


@dataclass(frozen=True, slots=True)
class StepPreference:
    """One row of `preferences.jsonl`: a best and a worst step with their full context.

    `prompt` is the whole rendered context including the prefix, so a trainer that reads only
    `prompt, chosen, rejected` conditions on the right text. `*_ends` says whether the step ended the
    solution: only then do its ids close with the end-of-turn token. `weight` is what the pair counts in a training
    loss: those of a level count as much as one pair.
    """

    prompt: str
    chosen: str
    rejected: str
    question: str
    prefix: tuple[str, ...]
    prompt_ids: tuple[int, ...] | None
    chosen_ids: tuple[int, ...] | None
    rejected_ids: tuple[int, ...] | None
    chosen_ends: bool
    rejected_ends: bool
    margin: float
    problem_id: str
    depth: int
    round: int
    generator: str
    judge: str
    tokenizer_sha256: str | None
    weight: float = 1.0
    schema: Literal["stepagent/step-preference/1"] = "stepagent/step-preference/1"
