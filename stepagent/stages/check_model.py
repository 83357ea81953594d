"""Check a model folder before a run: everything that its training and its sampling will need, tried in seconds."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from stepagent.backends.decoder_choice import pick_decoders
from stepagent.config.settings import TrainSettings
from stepagent.console import bar, table, warn
from stepagent.errors import ModelError
from stepagent.models.loading import load_config, pick_device
from stepagent.models.spans import Span, context_limit, span
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.training.adapters import load_trainable
from stepagent.training.environment import prepare_environment
from stepagent.training.memory import pack_budget, training_memory
from stepagent.training.merge import TrainedModel
from stepagent.training.mode import learning_mode
from stepagent.training.packing import Target, Unit
from stepagent.training.probing import pick_scoring
from stepagent.training.rehearsal import rehearse
from stepagent.training.scoring import Scoring
from stepagent.types import Message

_QUESTION = "A shop sells 12 apples in the morning and 5 in the afternoon. How many apples does it sell?"
_STEPS = (
    ("It sells 12 + 5 apples.\n", "It sells 12 - 5 apples.\n"),
    ("12 + 5 = 17, so the answer is 17.\n", "12 + 5 = 16, so the answer is 16, I think.\n"),
)


def check_model_command(model: str, settings: TrainSettings) -> None:
    """Check `model` and print what will be done with it."""
    table(f"Model {model}", check_model(model, settings))
    warn(_notes(span(load_config(model))))


def check_model(model: str, settings: TrainSettings) -> dict[str, object]:
    """Load, render, tokenise, score, train one step, write, read back and sample with `model`, by the settings of its
    training. Returns what will be done with it, by name. Raises ModelError for a model that cannot be used."""
    prepare_environment()
    device = pick_device()
    with bar("check", 5) as progress:
        tokenizer = ChatTokenizer(model)
        progress.advance(note="loading")
        trainable = load_trainable(model, settings, device)
        limits, limit = span(trainable.config), context_limit(trainable.config, settings.max_context)
        units = [unit for unit in _units(tokenizer) if len(unit[0].ids) <= limits.steady]
        if not units:
            raise ModelError(f"{model}: its window of {limits.steady} tokens holds no question with a step")
        progress.advance(note="scoring packed and one by one")
        attention = trainable.config._attn_implementation
        scoring = pick_scoring(trainable, units, pack_budget(settings, device))
        _train_a_step(trainable, units, scoring)
        progress.advance(note="writing and reading back")
        with tempfile.TemporaryDirectory() as place:
            trained = TrainedModel(trainable, tokenizer, model, settings)
            rehearse(trained, Path(place) / "model", probes=[unit[0].ids for unit in units])
        progress.advance(note="sampling")
        core = trainable.get_base_model() if settings.lora else trainable
        core.set_attn_implementation(attention)
        unbatched = pick_decoders(core, tokenizer.raw, []).reason
        progress.advance()
    return _rows(trainable, tokenizer, settings, scoring=scoring, limit=limit, unbatched=unbatched)


def _units(tokenizer: ChatTokenizer) -> list[Unit]:
    """Return the pairs of a small tree, as a search would find them."""
    context = tokenizer.prompt_ids([Message("user", _QUESTION)])
    units: list[Unit] = []
    for best, worst in _STEPS:
        chosen, rejected = (Target((*context, *tokenizer.ids(step)), len(context)) for step in (best, worst))
        units.append((chosen, rejected))
        context = chosen.ids
    return units


def _train_a_step(model: Any, units: list[Unit], scoring: Scoring) -> None:
    """Take one optimizer step on the pairs. Raises ModelError if the loss or a weight is not a number after it."""
    learning_mode(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)
    for pack in scoring.packs(enumerate(units)):
        logprobs = scoring.score(model, pack).view(-1, 2)
        loss = torch.nn.functional.softplus(logprobs[:, 1] - logprobs[:, 0]).sum()
        torch.autograd.backward(loss)
        if not math.isfinite(loss.item()):
            raise ModelError(f"the loss of a first step is {loss.item()}; load the model in float32")
    optimizer.step()
    if not all(bool(parameter.isfinite().all()) for parameter in parameters):
        raise ModelError("weights are not numbers after one step; load the model in float32")


def _rows(
    model: Any, tokenizer: ChatTokenizer, settings: TrainSettings, *, scoring: Scoring, limit: int, unbatched: str
) -> dict[str, object]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    gaps = f"{scoring.gap:.0e} nats a token, gradients {scoring.gradient_gap:.0e} of their norm"
    sizes = training_memory(model, settings, pack_budget(settings, model.device))
    memory = {f"memory: {name}": f"{size / 2**30:.2f} GiB" for name, size in sizes.items()}
    return {
        "family": model.config.model_type,
        "parameters": f"{parameters:,}",
        "trained": f"{trained:,}, {_reach(model) if settings.lora else 'all weights'}",
        "turn ends with": repr(tokenizer.text([tokenizer.end_id])),
        "context": f"{limit:,} tokens",
        "training": scoring.way,
        **({"it differs from plain passes by": gaps} if scoring.gap else {}),
        "written and read back": "equal",
        "in process": unbatched if unbatched else "all requests in one batch",
        **memory,
    }


def _reach(model: Any) -> str:
    """Return what the adapter changes: the names of the layers and how many there are of each."""
    counts = Counter(
        f"{name.removesuffix('.base_layer').rpartition('.')[2]}{_parameter(layer)}"
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A")
    )
    return "LoRA on " + ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))


def _parameter(layer: Any) -> str:
    """Return the name of the tensor that an adapter of experts or of a router changes."""
    name = getattr(layer, "parameter_name", None)
    return f".{name}" if name else ""


def _notes(limits: Span) -> list[str]:
    notes = []
    if limits.window:
        notes.append(
            f"a layer sees {limits.window} tokens back: pairs with longer sequences are trained one target at a time, "
            "and longer requests run one at a time in process"
        )
    if limits.switch:
        notes.append(f"beyond {limits.switch} tokens the rotary frequencies change: the same holds for these")
    return notes
