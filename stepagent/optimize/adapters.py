"""Load a model for training: quantised if the settings ask for it, and wrapped in a fresh adapter."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from stepagent.config.settings import LoraSettings, TrainSettings
from stepagent.errors import ModelError
from stepagent.models.loading import first_line, load_model, pick_dtype
from stepagent.optimize.environment import process_shards


def load_trainable(model: str | Path, settings: TrainSettings, device: torch.device) -> Any:
    """Load `model` with a fresh adapter, or bare for full fine-tuning; on the CPU if FSDP will shard it.

    Raises ModelError for a model that cannot be loaded, unknown targets, 4 bits without CUDA or under FSDP.
    """
    dtype = pick_dtype(settings.dtype, device)
    if settings.lora and settings.lora.quantize and process_shards():
        raise ModelError("lora.quantize: 4-bit weights are not sharded; start without FSDP")
    if process_shards():
        device = torch.device("cpu")
    if settings.lora and settings.lora.quantize:
        return add_adapter(_load_4bit(model, dtype, device), settings.lora)
    if not settings.lora:  # float32: an optimizer's small steps would be lost in half precision
        return load_model(model, torch.float32, device)
    return add_adapter(load_model(model, dtype, device), settings.lora)


def _load_4bit(model: str | Path, dtype: torch.dtype, device: torch.device) -> Any:
    if device.type != "cuda":
        raise ModelError("lora.quantize: 4-bit training needs a CUDA device; set lora.quantize to null")
    if find_spec("bitsandbytes") is None:
        raise ModelError("lora.quantize: 4-bit training needs: pip install bitsandbytes")
    import peft
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    base = load_model(model, dtype, device, quantization_config=config, device_map={"": device})
    prepare: Any = peft.prepare_model_for_kbit_training
    return prepare(base, use_gradient_checkpointing=False)


def add_adapter(model: Any, lora: LoraSettings) -> Any:
    """Wrap `model` in a fresh LoRA adapter; with the adapter switched off it is the reference model.

    Raises ModelError if the targets are not modules of the model.
    """
    from peft import LoraConfig, get_peft_model

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    excluded = sorted(_unadaptable(model)) if targets == "all-linear" else None
    try:
        with warnings.catch_warnings():
            # of ranks for experts that another class of the family has, and of tied layers, which are refused below
            warnings.filterwarnings("ignore", module=r"peft\..*")
            adapted = get_peft_model(
                model,
                LoraConfig(
                    task_type="CAUSAL_LM",
                    r=lora.rank,
                    lora_alpha=lora.alpha,
                    lora_dropout=lora.dropout,
                    target_modules=targets,
                    exclude_modules=excluded,
                    use_rslora=lora.variant == "rslora",
                    use_dora=lora.variant == "dora",
                ),
            )
    except Exception as error:  # noqa: BLE001 (peft refuses targets and variants with errors of many types)
        raise ModelError(f"lora.targets: {first_line(error)}") from None
    _refuse_tied(adapted, model)
    return adapted


def _unadaptable(model: Any) -> set[str]:
    """Return the names of linear layers that an adapter cannot wrap: those that compute more than a product, such as
    Llama 4's router, and those whose weights Mamba's kernels read past the adapter."""
    names = {
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and type(layer).__module__.startswith("transformers.models.")
    }
    return names | {"out_proj", "conv1d"} if "mamba" in model.config.model_type else names


def _refuse_tied(adapted: Any, model: Any) -> None:
    """Raise ModelError if the adapter changes one of two layers that share a tensor: merged, it would change both."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embeddings is None:
        return
    plain = [getattr(layer, "base_layer", layer) for layer in (head, embeddings)]
    if getattr(plain[0], "weight", None) is not getattr(plain[1], "weight", None):
        return
    for name, layer in adapted.named_modules():
        if getattr(layer, "base_layer", None) in plain:
            name = name.removeprefix("base_model.model.")
            raise ModelError(
                f"lora.targets: {name} shares its weights with another layer, which the merge would change, too; "
                "leave it out, or train all weights (lora: null)"
            )
