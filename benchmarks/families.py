"""Try every decoder family of the installed Transformers: is its training exact, its merge, its sampling here?

Each family is a tiny random model (tiny_families.py) with windows, chunks and rotary switches that the sequences
outgrow. The way that stepagent chooses is compared with plain forward passes on other sequences than its own probe's.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import random
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _bench import write_figures
from tiny_families import FAMILIES, LEFT_OUT, tiny_model

from stepagent import Message, Prompt, Sampling
from stepagent.backends.transformers import TransformersBackend
from stepagent.config.settings import LoraSettings, TrainSettings
from stepagent.demo.make_base import make_tokenizer
from stepagent.errors import StepagentError
from stepagent.models.loading import first_line, load_config, load_model
from stepagent.models.saving import tensor_names
from stepagent.models.spans import context_limit
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.adapters import load_trainable
from stepagent.training.loss import dpo_loss
from stepagent.training.merge import TrainedModel, gather_weights, write_trained
from stepagent.training.mode import learning_mode
from stepagent.training.packing import Target, Unit
from stepagent.training.probing import pick_scoring
from stepagent.training.scoring import Scoring, full_logprobs, plain_scoring

CPU = torch.device("cpu")
TOLERANCE = 1e-4  # nats a token, and of a gradient's norm ten times that
VOCABULARY = len(make_tokenizer())


def units(seed: int, count: int, longest: int = 40) -> list[Unit]:
    """Return pairs on random prefixes of one trunk, as in trees, some of them longer than the models' windows."""
    rng = random.Random(seed)
    trunk = [rng.randrange(3, VOCABULARY) for _ in range(longest)]
    pairs = []
    for _ in range(count):
        prefix = trunk[: rng.randint(2, longest)]
        steps = [[rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, 8))] for _ in range(2)]
        pairs.append(tuple(Target((*prefix, *step), len(prefix)) for step in steps))
    return pairs


def gradients(model: Any, scoring: Scoring, pairs: list[Unit]) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Return the log-probabilities of all targets, and the gradient of their differences in pairs."""
    model.zero_grad()
    logprobs = []
    for pack in scoring.packs(enumerate(sorted(pairs, key=lambda unit: unit[0].ids))):
        scores = scoring.score(model, pack)
        policy = scores.view(-1, 2)
        torch.autograd.backward((policy[:, 0] - policy[:, 1]).sum())
        logprobs.append(scores.detach() / pack.lengths())
    return torch.cat(logprobs), [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def training(folder: Path) -> dict[str, object]:
    """Return how a family is trained, and how far its log-probabilities and gradients are from plain ones."""
    model = load_trainable(folder, TrainSettings(), CPU)
    # shorter ones, which can be packed whatever the windows, and longer ones
    ways = []
    worst = gradient_worst = 0.0
    for longest in (8, 40):
        scoring = pick_scoring(model, units(1, 8, longest), 256)
        ways.append("paths" if scoring.by_paths else "plain" if scoring.unsuited else "packed")
        learning_mode(model)
        pairs = units(2, 12, longest)
        logprobs, gradient = gradients(model, scoring, pairs)
        plain, plain_gradient = gradients(model, plain_scoring("", full_logprobs), pairs)
        worst = max(worst, (logprobs - plain).abs().max().item())
        difference = sum(
            float(((0 if a is None else a) - (torch.zeros(()) if b is None else b)).square().sum())
            for a, b in zip(gradient, plain_gradient, strict=True)
            if a is not None or b is not None
        )
        norm = sum(float(b.square().sum()) for b in plain_gradient if b is not None)
        gradient_worst = max(gradient_worst, math.sqrt(difference / norm) if norm else 0.0)
        policy = logprobs.view(-1, 2)
        model.eval()
        with torch.no_grad(), model.disable_adapter():
            packs = scoring.packs(enumerate(sorted(pairs, key=lambda unit: unit[0].ids)))
            reference = torch.cat([scoring.score(model, pack) / pack.lengths() for pack in packs]).view(-1, 2)
        loss = dpo_loss(policy, reference, beta=0.1)[0].mean().item()
        if abs(loss - math.log(2)) > 1e-5:
            return {"training": "wrong", "gap": worst, "gradient_gap": gradient_worst, "reason": f"first loss {loss}"}
    exact = worst < TOLERANCE and gradient_worst < 10 * TOLERANCE
    way = ways[0] if ways[0] == ways[1] else "packed"
    result = {"training": way if exact else "wrong", "gap": worst, "gradient_gap": gradient_worst}
    return result | ({"reason": scoring.unsuited} if scoring.unsuited else {})


def written(folder: Path, lora: bool) -> dict[str, object]:
    """Return whether a changed model is written as it is: with an adapter, or trained whole."""
    settings = TrainSettings(lora=LoraSettings() if lora else None)
    model = load_trainable(folder, settings, CPU)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn_like(parameter)
    probes = [unit[0].ids for unit in units(3, 4)]
    model.eval()
    ids = torch.tensor([probes[0]])
    logits = model(input_ids=ids, use_cache=False).logits
    name = "lora_merge" if lora else "full_save"
    out = folder.with_name(name)
    write_trained(
        TrainedModel(model, ChatTokenizer(folder), folder, settings), gather_weights(model, True), out, probes=probes
    )
    copy = load_model(out, torch.float32, CPU).eval()
    if (copy(input_ids=ids, use_cache=False).logits - logits).abs().max() > 1e-3:
        return {name: "wrong", "reason": "the outputs differ"}
    if lost := set(tensor_names(folder)) - set(tensor_names(out)):
        return {name: "wrong", "reason": f"{sorted(lost)[0]} is lost"}
    return {name: "ok"}


def in_process(folder: Path) -> dict[str, object]:
    """Return whether the log-probability of every token sampled in process is that of one plain forward pass."""
    backend = TransformersBackend(str(folder), device="cpu", max_rows=8)
    longest = min(30, context_limit(load_config(folder), None) - 10)
    prompts = [Prompt((Message("user", "1" * length),)) for length in (1, 9, 3, 13, longest)]
    samplings = [Sampling(n=2, temperature=1.0, max_tokens=18, seed=seed) for seed in range(len(prompts))]

    async def ask() -> list[Any]:
        async with asyncio.TaskGroup() as group:
            pairs = zip(prompts, samplings, strict=True)
            tasks = [group.create_task(backend.complete(prompt, sampling)) for prompt, sampling in pairs]
        return [task.result() for task in tasks]

    model = load_model(folder, torch.float32, CPU).eval()
    worst = 0.0
    for reply in asyncio.run(ask()):
        for choice in reply.choices:
            ids = torch.tensor([[*reply.prompt_ids, *choice.token_ids]])
            with torch.no_grad():
                logprobs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
            start = len(reply.prompt_ids)
            plain = logprobs[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0]
            worst = max(worst, (plain - torch.tensor(choice.logprobs)).abs().max().item())
    way = "slow" if backend.unbatched else "ok"
    result = {"in_process": way if worst < TOLERANCE else "wrong", "in_process_gap": worst}
    return result | ({"reason": backend.unbatched} if backend.unbatched else {})


def check_family(family: str) -> dict[str, object]:
    """Return a family's row of the table."""
    row: dict[str, object] = {"family": family}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "base"
        tiny_model(family).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        checks: dict[str, Callable[[], dict[str, object]]] = {
            "training": lambda: training(folder),
            "lora_merge": lambda: written(folder, lora=True),
            "full_save": lambda: written(folder, lora=False),
            "in_process": lambda: in_process(folder),
        }
        for name, check in checks.items():
            try:
                result = check()
            except Exception as error:  # noqa: BLE001 (a crash is a result)
                kind = "" if isinstance(error, StepagentError) else f"{type(error).__name__}: "
                result = {name: "crash", "reason": kind + first_line(error)}
            if reason := result.pop("reason", None):
                row[f"{name}_reason"] = reason
            row |= result
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    columns = ("family", "training", "gap", "gradient_gap", "lora_merge", "full_save", "in_process")
    lines = ["| " + " | ".join(columns).replace("_", " ") + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{value:.0e}" if isinstance(value := row.get(name, ""), float) else str(value) for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table of all families, or of those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="families (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    logging.getLogger("stepagent").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.manual_seed(arguments.seed)
    rows = []
    for family in arguments.names or FAMILIES:
        rows.append(check_family(family))
        print({name: value for name, value in rows[-1].items() if name != "gap"}, flush=True)
    print(table(rows))
    for reason in dict.fromkeys(LEFT_OUT.values()):
        print(f"left out, since each {reason}:", ", ".join(name for name in LEFT_OUT if LEFT_OUT[name] == reason))
    write_figures(arguments.json, {"families": rows, "left_out": LEFT_OUT})


if __name__ == "__main__":
    main()
