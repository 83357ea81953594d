"""Data sets of problems that have a name of their own in a config."""

from __future__ import annotations

from stepagent.config.settings import ProblemSettings

_PRESETS: dict[str, dict[str, str | bool]] = {
    "gsm8k": {"path": "openai/gsm8k", "subset": "main", "worked": True},
    "math": {"path": "DigitalLearningGmbH/MATH-lighteval", "answer": "solution", "worked": True},
    "math500": {"path": "HuggingFaceH4/MATH-500", "split": "test"},
    "numina": {"path": "AI-MO/NuminaMath-CoT", "answer": "solution", "worked": True},
    "aime": {"path": "HuggingFaceH4/aime_2024"},
    "olympiadbench": {
        "path": "Hothan/OlympiadBench",
        "subset": "OE_TO_maths_en_COMP",
        "answer": "final_answer",
    },
}
_QUESTIONS = {"gsm8k": "question", "olympiadbench": "question"}  # the others': problem
PRESETS = {
    name: ProblemSettings.model_validate({"question": _QUESTIONS.get(name, "problem"), **columns})
    for name, columns in _PRESETS.items()
}
"""Datasets by their usual names: `problems: {path: gsm8k, sample: 500}`."""
