"""Merge a LoRA adapter, whoever trained it, into its base; `stepagent merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftType, get_peft_model_state_dict
from peft.utils import load_peft_weights

from stepagent.console import table
from stepagent.errors import ModelError
from stepagent.files.jsonl import write_atomic
from stepagent.models.file_weights import empty_model
from stepagent.models.loading import first_line
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.stages.prove import example_sequences
from stepagent.training.adapters import adapt
from stepagent.training.layers import Adapter
from stepagent.training.merge import made_whole, refuse_existing, write_merged

_PROBES = 2  # sequences along which the merged model must agree with the base and its adapter


def merge_command(adapter: Path, base: str | None, out: Path) -> None:
    """Merge the adapter in a folder into `base`, by default the model that the adapter names, and write the merged
    model to `out`, in float32. Raises ModelError for folders that cannot be merged or an `out` that exists, and
    ParityError if the written model is not the base with its adapter."""
    refuse_existing(out)
    config = _read_config(adapter)
    base = base or config.base_model_name_or_path
    if not base:
        raise ModelError(f"{adapter}: adapter_config.json does not name the base model; name it with --base")
    tokenizer = ChatTokenizer(base)
    loaded = _read_adapter(adapter, base, config)
    probes = example_sequences(base, _PROBES)
    with made_whole(out) as part:
        figures = write_merged(base, loaded, part, tokenizer=tokenizer, dtype="bfloat16", probes=probes)
        facts = "".join(f"- {name}: {value}\n" for name, value in figures.items())
        card = f"---\nlibrary_name: transformers\n---\n\n`{adapter}`, merged by stepagent into `{base}`.\n\n{facts}"
        write_atomic(part / "README.md", card)
    table(f"{adapter} merged into {base}", {"model": out, **figures})


def _read_config(adapter: Path) -> Any:
    """Return PEFT's config of an adapter. Raises ModelError for what is none, or none that can be merged alone."""
    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(
            f"{adapter}: no adapter (adapter_config.json is missing); give the folder of a LoRA adapter, such as that "
            "which training leaves in M_1/adapter"
        )
    try:
        config = PeftConfig.from_pretrained(str(adapter))
    except Exception as error:  # noqa: BLE001 (whatever PEFT raises)
        raise ModelError(f"{adapter}: cannot read adapter_config.json ({first_line(error)}); save it again") from None
    extras = [name for name in ("modules_to_save", "trainable_token_indices") if getattr(config, name, None)]
    if getattr(config, "bias", "none") != "none":
        extras.append("bias")
    if config.peft_type != PeftType.LORA or extras:
        kind = " with ".join([config.peft_type.value, *extras])
        raise ModelError(f"{adapter}: holds more than LoRA matrices ({kind}); merge it with PEFT's merge_and_unload")
    config.inference_mode = False
    return config


def _read_adapter(folder: Path, base: str, config: Any) -> Adapter:
    """Return an adapter with its weights by the names that they have in the base. Raises ModelError."""
    model = empty_model(base, torch.float32)
    misfit = f"{folder}: not an adapter of {base}"
    remedy = "name the model it was trained on with --base, or save the adapter again"
    try:
        adapted = adapt(model, config, low_cpu_mem_usage=True)
        tensors = load_peft_weights(str(folder), device="cpu")
    except Exception as error:  # noqa: BLE001 (whatever PEFT and its readers raise)
        raise ModelError(f"{misfit} ({first_line(error)}); {remedy}") from None
    places = {name: parameter for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    name_of = {id(parameter): name for name, parameter in places.items()}
    by_file_name = get_peft_model_state_dict(adapted, state_dict=places, save_embedding_layers=False)
    for name in sorted(by_file_name.keys() ^ tensors.keys()):
        raise ModelError(f"{misfit} ({name} is {'missing' if name in by_file_name else 'left over'}); {remedy}")
    for name, place in by_file_name.items():
        if tensors[name].shape != place.shape:
            shapes = f"{name} has the shape {tuple(tensors[name].shape)}, not {tuple(place.shape)}"
            raise ModelError(f"{misfit} ({shapes}); {remedy}")
    return Adapter(config, {name_of[id(place)]: tensors[name] for name, place in by_file_name.items()})
