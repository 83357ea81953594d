"""A model folder's tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepagent import ModelError
from stepagent.models.tokenizer import ChatTokenizer


def test_a_folder_without_tokenizer_or_template_is_refused(random_model: Path, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(ModelError, match="no such model folder"):
        ChatTokenizer(tmp_path / "nowhere")
    bare = tmp_path / "bare"
    shutil.copytree(random_model, bare)
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        ChatTokenizer(bare)
    for file in bare.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"holds no tokenizer; copy tokenizer\.json"):
        ChatTokenizer(bare)
