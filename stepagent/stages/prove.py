"""Prove that a server serves a model, whoever trained it and however it was put there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from stepagent.console import bar, table, warn
from stepagent.errors import DataError, ServeError
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.serve.client import VllmClient
from stepagent.serve.proof import make_probes, prove
from stepagent.stages.deploy import PROBES, trained_sequences
from stepagent.types import Message

_KEY = "OPENAI_API_KEY"


def prove_command(url: str, model: Path, against: Path | None, *, data: Path | None, name: str | None) -> None:
    """Compare the log-probabilities of what `url` serves as `name` (its only model by default) with those of the folder
    `model`, and of `against`, another that it must be told apart from. `data` are preferences whose sequences are
    compared; by default they are made-up questions.

    Raises ServeError if the server serves another model, ModelError or DataError for a folder or file of no use.
    """
    client = VllmClient(url, _KEY)
    served_name = name or _only_name(client)
    sequences = trained_sequences(data, seed=0) if data else example_sequences(model, PROBES)
    if not sequences:
        raise DataError(f"{data}: no row has prompt_ids and chosen_ids; give a preferences.jsonl of a search")
    probes = make_probes(sequences, model, against)
    with bar(f"log-probabilities of {served_name}", len(probes)) as progress:

        def logprobs(ids: Sequence[int]) -> list[float]:
            progress.advance()
            return client.logprobs(served_name, ids)

        proof = prove(probes, logprobs)
    rows: dict[str, object] = {"proof": proof.outcome, "nats per token from the folder": proof.to_new}
    if proof.to_old is not None:
        rows[f"nats per token from {against}"] = proof.to_old
    table(f"{served_name} at {url}", {**rows, "tokens compared": sum(len(probe.positions) for probe in probes)})
    if proof.outcome == "indistinct":
        warn(["the two folders are too close to be told apart at the server's precision"])


def _only_name(client: VllmClient) -> str:
    names = list(client.served())
    if len(names) != 1:
        raise ServeError(f"{client.url} serves {', '.join(names) or 'no model'}; name one with --name")
    return names[0]


def example_sequences(model: str | Path, count: int) -> list[tuple[int, ...]]:
    """Return token ids of questions with answers in the model's chat template, the same ones each time."""
    tokenizer, rng = ChatTokenizer(model), random.Random(0)
    sequences = []
    for _ in range(count):
        a, b = rng.randrange(10, 100), rng.randrange(10, 100)
        question = f"A shop has {a} apples and buys {b} more. How many apples does it have?"
        sequences.append(tokenizer.prompt_ids([Message("user", question)], f"It has {a} + {b} = {a + b} apples."))
    return sequences
