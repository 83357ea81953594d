"""Parts that tests of several rooms need: tiny real models, made once per session, and small makers."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from stepagent import StepPreference, StepTree, console
from stepagent.commands import main
from stepagent.config.loading import load_config
from stepagent.config.settings import Config
from stepagent.models.tokenizer import ChatTokenizer
from stepagent.preferences import level_outcome, tree_preferences

# The tests of EFT data run a benchmark's world (eft_yield: a labeller and a teacher who err at known rates), and those
# of a real vLLM server share the benchmarks' tiny served models (vllm_world).
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutations", type=int, default=30, help="cases of the fuzz (tests/servers/test_fuzz.py)")
    parser.addoption("--mutation-seed", type=int, default=0, help="seed of the fuzz")


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The shipped M_0 of the arithmetic world."""
    import stepagent.demo

    return Path(stepagent.demo.__file__).parent / "base"


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Qwen2 with random weights and the arithmetic world's tokenizer: no hub, no download."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from stepagent.demo.make_base import make_tokenizer

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "random"
    tokenizer = make_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SMALL_DEMO = [
    "rounds=2",
    "problems_per_round=[12, 12]",
    "eft.problems.sample=600",
    "init.epochs=0.5",
    "evaluate.search_problems=12",
    "optimize.learning_rate=1e-3",
    "optimize.epochs=2",
]


@pytest.fixture(scope="session")
def small_demo() -> list[str]:
    """The settings that make the demo small: `demo_run` is made with them."""
    return SMALL_DEMO


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the small demo. Who changes it takes a copy."""
    from stepagent.demo.run import demo_config, run_demo

    run = tmp_path_factory.mktemp("small") / "demo"
    demo_config(run, SMALL_DEMO)
    held_out = run / "data" / "held_out.jsonl"
    held_out.write_text("".join(held_out.read_text().splitlines(keepends=True)[:40]))
    run_demo(run, SMALL_DEMO)
    return run


@pytest.fixture
def initialized_demo(demo_run: Path, tmp_path: Path) -> Path:
    """A copy of the small demo that has its data and M_1, and no round yet."""
    run = tmp_path / "demo"
    later = shutil.ignore_patterns("round_*", "M_2*", "M_3*", "evaluation", "watch", "summary*", "report*")
    shutil.copytree(demo_run, run, ignore=later)
    return run


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    """Loader of a config from its text and overrides."""

    def from_text(text: str, *overrides: str) -> Config:
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return load_config(path, overrides)

    return from_text


@pytest.fixture(scope="session")
def preference() -> Callable[..., StepPreference]:
    """Maker of a preference row with the ids of a tokenizer, after the question 1+1."""

    def row(
        tokenizer: ChatTokenizer, chosen: str, rejected: str, ends: bool = False, **fields: object
    ) -> StepPreference:
        prompt = "<|user|>1+1<|assistant|>"
        end = (tokenizer.end_id,) * ends
        values = {
            "prompt": prompt,
            "chosen": chosen,
            "rejected": rejected,
            "question": "1+1",
            "prefix": (),
            "prompt_ids": tokenizer.ids(prompt),
            "chosen_ids": tokenizer.ids(chosen) + end,
            "rejected_ids": tokenizer.ids(rejected) + end,
            "chosen_ends": ends,
            "rejected_ends": ends,
            "margin": 0.9,
            "problem_id": chosen,
            "depth": 1,
            "round": 1,
            "generator": "sample",
            "judge": "pairwise",
            "tokenizer_sha256": tokenizer.sha256,
        }
        return StepPreference(**{**values, **fields})

    return row


@pytest.fixture(scope="session")
def collect() -> Callable[[Iterable[StepTree]], tuple[list[StepPreference], Counter[str]]]:
    """Collector of all preferences of some trees, in the order of problem id and depth, and of the outcome of every
    level."""

    def from_trees(trees: Iterable[StepTree]) -> tuple[list[StepPreference], Counter[str]]:
        rows: list[StepPreference] = []
        outcomes: Counter[str] = Counter()
        for tree in trees:
            rows += tree_preferences(tree)
            outcomes.update(level_outcome(level) for level in tree.levels)
        return sorted(rows, key=lambda row: (row.problem_id, row.depth)), outcomes

    return from_trees


@pytest.fixture
def stepagent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., CompletedProcess[str]]:
    """The installed command, in this process (a new one would load torch each time)."""
    monkeypatch.setenv("COLUMNS", "160")
    for screen in (console.console, console.output):  # made while COLUMNS said otherwise, they would keep to that
        monkeypatch.setattr(screen, "_width", None)

    def run(*arguments: object) -> CompletedProcess[str]:
        words = ["stepagent", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(main, "leave", sys.exit)  # it would end the tests
        monkeypatch.setattr(console, "_terminal_claimed", False)  # set again by the command, undone after the test
        capsys.readouterr()
        try:
            main.run()
            code: object = 0
        except SystemExit as stop:
            code = stop.code or 0
        return CompletedProcess(words, code, *capsys.readouterr())  # type: ignore[arg-type]

    return run
