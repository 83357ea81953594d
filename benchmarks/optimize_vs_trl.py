"""Step-DPO on whole trees against TRL's DPOTrainer on pairs: pairs per second and peak memory.

    python benchmarks/optimize_vs_trl.py --steps 8 --step-tokens 40 --prompt-tokens 100 --json vs_trl.json
    python benchmarks/optimize_vs_trl.py --model SmolLM2-135M-Instruct --data round_1/preferences.jsonl --trees 40

Same model (a Qwen2 from a config with random weights, or the folder --model; float32), same LoRA, same pairs, same
optimizer steps of 32 pairs, reference log-probabilities computed once beforehand by the model with its adapter off.
Each run is a process of its own; runs are interleaved; figures are medians. TRL is swept over its batch size, padded.
"plain" is our own trainer scoring every sequence in a forward pass of its own, which packing must beat.
Time is the reference pass plus training, first batch to last step; memory is the peak above what the
process held before them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _bench import WarningMonitor, make_parser, peak_mib, write_figures

from stepagent.files.jsonl import read_rows
from stepagent.types import StepPreference

BATCH = 32
LORA = {"rank": 8, "alpha": 16}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_trees(options: argparse.Namespace) -> list[list[tuple[list[int], list[int], list[int]]]]:
    """Return per tree its pairs (context ids, best step, worst step): the context grows by the best step."""
    rng = random.Random(options.seed)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(2, options.vocabulary) for _ in range(count)]

    trees = []
    for _ in range(options.trees):
        context, pairs = tokens(options.prompt_tokens), []
        for _ in range(options.steps):
            best, worst = tokens(options.step_tokens), tokens(options.step_tokens)
            pairs.append((list(context), best, worst))
            context += best
        trees.append(pairs)
    return trees


def pairs_by_tree(options: argparse.Namespace) -> list[list[tuple[list[int], list[int], list[int]]]]:
    """Return the pairs of made trees or, with --data, of the first --trees trees of a file of preferences."""
    if not options.data:
        return make_trees(options)
    by_problem: dict[str, list[tuple[list[int], list[int], list[int]]]] = {}
    for row in read_rows(options.data, StepPreference):
        assert row.prompt_ids, "pairs without token ids"
        pair = (list(row.prompt_ids), list(row.chosen_ids or ()), list(row.rejected_ids or ()))
        by_problem.setdefault(row.problem_id, []).append(pair)
    return list(by_problem.values())[: options.trees]


def model_of(options: argparse.Namespace) -> Any:
    """Return the model of --model in float32, or a Qwen2 with random weights."""
    import torch

    from stepagent.models.loading import load_model

    return load_model(options.model, torch.float32, torch.device("cpu")) if options.model else make_model(options)


def make_model(options: argparse.Namespace) -> Any:
    """Return a Qwen2 with random weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(options.seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=options.vocabulary,
            hidden_size=options.hidden,
            intermediate_size=3 * options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=max(4, options.hidden // 64),
            num_key_value_heads=2,
            max_position_embeddings=8192,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def run_ours(options: argparse.Namespace, packed: bool) -> float:
    """Return the seconds for the reference pass and one epoch."""
    import torch

    from stepagent.config.settings import LoraSettings, OptimizeSettings
    from stepagent.training.adapters import add_adapter
    from stepagent.training.batches import PackedBatches
    from stepagent.training.dpo import DpoTrainer
    from stepagent.training.packing import Target
    from stepagent.training.scoring import packed_logprobs, plain_scoring
    from stepagent.training.trainer import training_arguments

    units = [
        (Target((*context, *best), len(context)), Target((*context, *worst), len(context)))
        for tree in pairs_by_tree(options)
        for context, best, worst in tree
    ]
    groups = [number for number, tree in enumerate(pairs_by_tree(options)) for _ in tree]
    lora = LoraSettings(rank=LORA["rank"], alpha=LORA["alpha"], targets=tuple(LINEAR))
    settings = OptimizeSettings(
        learning_rate=1e-4, batch_size=BATCH, lora=lora, token_budget=options.token_budget, save_steps=None
    )
    spent = 0.0

    class Timed(DpoTrainer):
        def score_reference(self) -> None:
            nonlocal spent
            assert self.train_dataset.scoring.score is packed_logprobs
            if not packed:
                self.train_dataset.scoring = plain_scoring("")
            start = time.perf_counter()
            super().score_reference()
            spent += time.perf_counter() - start

    batches = PackedBatches(units, groups, settings, seed=options.seed, weigh=lambda pack: len(pack.units))
    with tempfile.TemporaryDirectory() as folder:
        note_memory()
        trainer = Timed(
            add_adapter(model_of(options), lora),
            batches,
            training_arguments(settings, batches.steps, Path(folder), seed=options.seed, device=torch.device("cpu")),
            monitor=WarningMonitor(),
            settings=settings,
            smoothing=torch.zeros(len(units)),
            weights=torch.ones(len(units)),
        )
        seconds = training_seconds(trainer)
    return spent + seconds


def run_trl(options: argparse.Namespace, batch: int) -> float:
    """Return the seconds for the reference pass and one epoch of TRL's DPOTrainer."""
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    # TRL takes text: a tokenizer whose words are the ids gives it the very tokens, whatever the model
    size = model_of(options).config.vocab_size
    words = {f"t{index}": index for index in range(size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="t0", eos_token="t1")
    rows = [
        {
            "prompt": " ".join(f"t{i}" for i in context),
            "chosen": " " + " ".join(f"t{i}" for i in best),
            "rejected": " " + " ".join(f"t{i}" for i in worst),
        }
        for tree in pairs_by_tree(options)
        for context, best, worst in tree
    ]
    spent = 0.0

    class Timed(DPOTrainer):  # type: ignore[misc]
        def _precompute_ref_logps(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal spent
            note_memory()
            start = time.perf_counter()
            logprobs = super()._precompute_ref_logps(*args, **kwargs)
            spent += time.perf_counter() - start
            return logprobs

    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=model_of(options),
            args=DPOConfig(
                output_dir=folder,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=BATCH // batch,
                num_train_epochs=1,
                learning_rate=1e-4,
                max_length=None,
                precompute_ref_log_probs=True,
                precompute_ref_batch_size=batch,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=wrapped,
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules=LINEAR
            ),
        )
        if spent == 0:
            raise SystemExit("TRL computed no reference log-probabilities beforehand; its API changed")
        return spent + training_seconds(trainer)


def training_seconds(trainer: Any) -> float:
    """Return the seconds from the first batch to the last step, without a Trainer's start-up (the same for all)."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = time.perf_counter()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = time.perf_counter() - self.start

    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return float(clock.seconds)


_base_mib = 0.0


def note_memory() -> None:
    """Note the memory that the process holds before the work begins."""
    global _base_mib
    _base_mib = _base_mib or peak_mib()


def work(options: argparse.Namespace) -> None:
    """Measure once in this process, and print the figures as the last line."""
    kind, _, batch = options.worker.partition(":")
    seconds = run_trl(options, int(batch)) if kind == "trl" else run_ours(options, packed=kind == "packed")
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib() - _base_mib}))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the medians of interleaved runs for every contestant."""
    kinds = ["packed", "plain", *(f"trl:{batch}" for batch in (1, 2, 4, 8))]
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    arguments = [item for item in sys.argv[1:] if item != "--json" and item != str(options.json)]
    for repeat in range(options.repeats):
        for kind in kinds if repeat % 2 == 0 else reversed(kinds):
            with tempfile.TemporaryDirectory() as cache:
                result = subprocess.run(
                    [sys.executable, __file__, *arguments, "--worker", kind],
                    capture_output=True,
                    text=True,
                    check=False,
                    env={**os.environ, "HF_DATASETS_CACHE": cache, "HF_HUB_OFFLINE": "1"},
                )
            if result.returncode:
                raise SystemExit(f"{kind} failed:\n{result.stderr[-2000:]}")
            runs[kind].append(json.loads(result.stdout.strip().splitlines()[-1]))
            print(
                f"{kind:8} {runs[kind][-1]['seconds']:7.2f} s  peak {runs[kind][-1]['peak_mib']:6.0f} MiB",
                flush=True,
            )
    return {
        kind: {key: statistics.median(run[key] for run in repeats) for key in repeats[0]}
        for kind, repeats in runs.items()
    }


def main() -> None:
    tree = {"steps": 8, "step_tokens": 40, "prompt_tokens": 100, "trees": 16}
    model = {"hidden": 128, "layers": 4, "vocabulary": 1000}
    parser = make_parser(__doc__, **tree, **model, token_budget=4096, repeats=3)
    parser.add_argument("--model", type=Path, help="a model folder")
    parser.add_argument("--data", type=Path, help="preferences.jsonl of a search with that model's tokenizer")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    medians = measure(options)
    trees = pairs_by_tree(options)
    pairs = sum(map(len, trees))
    alone = sum(2 * len(context) + len(best) + len(worst) for tree in trees for context, best, worst in tree)
    shared = sum(len(tree[0][0]) + sum(len(best) + len(worst) for _, best, worst in tree) for tree in trees)
    rates = {kind: pairs / figures["seconds"] for kind, figures in medians.items()}
    trl = {kind: rate for kind, rate in rates.items() if kind.startswith("trl")}
    limit = alone / shared
    figures = {
        "ratio_vs_trl": rates["packed"] / max(trl.values()),
        "ratio_vs_trl_batch8": rates["packed"] / trl["trl:8"],
        "ratio_vs_plain": rates["packed"] / rates["plain"],
        "token_limit": limit,
        "fraction_of_token_limit": rates["packed"] / rates["plain"] / limit,
        "peak_memory_vs_trl": medians["packed"]["peak_mib"] / medians["trl:8"]["peak_mib"],
        "peak_memory_vs_fastest_trl": medians["packed"]["peak_mib"]
        / medians[max(trl, key=trl.__getitem__)]["peak_mib"],
        "pairs_per_second": rates,
        "medians": medians,
        "options": {key: str(value) for key, value in vars(options).items() if key not in ("json", "worker")},
    }
    for key, value in figures.items():
        if isinstance(value, float):
            print(f"{key:26} {value:.2f}")
    write_figures(options.json, figures)


if __name__ == "__main__":
    main()
