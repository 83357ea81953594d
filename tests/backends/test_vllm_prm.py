"""A process reward model behind a real vLLM server's pooling endpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from vllm_world import serve_settings

from stepagent import Problem
from stepagent.backends.prm_pooling import PoolingPrm
from stepagent.judges.prm import PrmJudge
from stepagent.serve.server import Server
from stepagent.testing import step

pytestmark = pytest.mark.slow


async def test_a_reward_model_behind_the_pooling_endpoint_scores_as_in_process(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForTokenClassification

    from stepagent.backends.prm import TokenClassificationPrm
    from stepagent.demo.make_base import make_tokenizer

    torch.manual_seed(0)
    tokenizer, folder = make_tokenizer(), tmp_path / "prm"
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        num_labels=2,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
    )
    Qwen2ForTokenClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pooling = ("--dtype", "float32", "--max-model-len", "512", "--runner", "pooling")
    settings = serve_settings().model_copy(update={"args": pooling})
    problem, prefix = Problem("p", "12+5"), [step("1+2=3\n")]
    candidates = [step("5=5\n"), step("12+5=17\n"), step("9\n")]
    with Server(settings, tmp_path / "server", lambda _: None) as server:
        server.start(str(folder))
        scorer = PoolingPrm(server.base_url, server.name, api_key_env=settings.api_key_env)
        chances, usage = await scorer.score(problem, prefix, candidates)
        verdict = await PrmJudge(scorer).judge(problem, prefix, candidates, 0)
        await scorer.close()
    local_chances, _ = await TokenClassificationPrm(str(folder)).score(problem, prefix, candidates)
    assert chances == pytest.approx(local_chances, abs=1e-3)
    assert usage.prompt_tokens > 0
    assert (verdict.status, verdict.best) == ("ok", local_chances.index(max(local_chances)))
