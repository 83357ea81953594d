"""Process reward models in process, against the model itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stepagent import (
    ModelError,
    Problem,
)
from stepagent.judges.prm import PrmJudge
from stepagent.testing import step


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    def make(labels: int) -> Path:
        import torch
        from transformers import Qwen2Config, Qwen2ForTokenClassification

        from stepagent.demo.make_base import make_tokenizer

        torch.manual_seed(0)
        tokenizer = make_tokenizer()
        folder = tmp_path_factory.mktemp("prm")
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            num_labels=labels,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.3,
        )
        Qwen2ForTokenClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


async def test_a_classifier_prm_scores_each_step_as_it_would_alone(classifier: Callable[[int], Path]) -> None:
    """Literally: the softmax at the separator after the step, one unpadded forward pass each."""
    import torch
    from transformers import AutoTokenizer, Qwen2ForTokenClassification

    from stepagent.backends.prm import TokenClassificationPrm

    folder = classifier(2)
    problem, prefix = Problem("p", "12+5"), [step("1+2=3\n")]
    candidates = [step("5=5\n"), step("12+5=17\n"), step("9\n")]
    chances, usage = await TokenClassificationPrm(str(folder)).score(problem, prefix, candidates)
    model, tokenizer = (
        Qwen2ForTokenClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    for candidate, chance in zip(candidates, chances, strict=True):
        ids = tokenizer(f"12+5\n1+2=3\n{candidate.content}\n", return_tensors="pt").input_ids
        with torch.no_grad():
            expected = model(input_ids=ids).logits[0, -1].softmax(-1)[1].item()
        assert chance == pytest.approx(expected, abs=1e-5)
    assert len(set(chances)) == 3
    assert usage.requests == 1
    verdict = await PrmJudge(TokenClassificationPrm(str(folder))).judge(problem, prefix, candidates, 0)
    assert verdict.best == chances.index(max(chances))
    with pytest.raises(ModelError, match="3 labels; a process reward model has two"):
        TokenClassificationPrm(str(classifier(3)))


async def test_a_tag_prm_reads_plus_against_minus(random_model: Path) -> None:
    import torch

    from stepagent.backends.prm import TagPrm
    from stepagent.models.loading import load_model
    from stepagent.models.tokenizer import ChatTokenizer

    scorer = TagPrm(str(random_model), tag="|", good="+", bad="-")
    chances, _ = await scorer.score(Problem("p", "12"), [], [step("7=7\n"), step("8\n")])
    model, tokenizer = (
        load_model(random_model, torch.float32, torch.device("cpu")),
        ChatTokenizer(random_model).raw,
    )
    ids = tokenizer("12\n7=7 |", add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, -1]
    plus, minus = (tokenizer(sign, add_special_tokens=False)["input_ids"][-1] for sign in "+-")
    assert chances[0] == pytest.approx(logits[[plus, minus]].softmax(-1)[0].item(), abs=1e-5)
    with pytest.raises(ModelError, match="tag, good and bad"):
        TagPrm(str(random_model), tag="12+5")
