"""stepagent: a language model learns to reason better by judging its own steps.

`search`, `judge`, `optimize`, `evaluate` and `iterate` are the commands as functions (`stepagent.api`); the rest are
the parts that they are made of, and the types that an own judge, generator or strategy takes and returns. Parts
that need more than the standard library are loaded when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stepagent.errors import BackendError, ConfigError, DataError, ModelError, ParityError, StepagentError
from stepagent.interfaces import Backend, Generator, Grader, Judge, SearchStrategy
from stepagent.tree import Level, Node, StepTree
from stepagent.types import (
    Candidate,
    Completion,
    Completions,
    Message,
    Problem,
    Prompt,
    Proposal,
    Sampling,
    Step,
    StepPreference,
    Usage,
    Verdict,
    Vote,
)

if TYPE_CHECKING:
    from stepagent.api import (
        Found,
        evaluate,
        iterate,
        judge,
        judge_trees,
        measure_judge,
        optimize,
        push,
        search,
        tune_judge,
    )
    from stepagent.backends.openai import OpenAIBackend
    from stepagent.backends.transformers import TransformersBackend
    from stepagent.config.loading import load_config
    from stepagent.config.settings import Config
    from stepagent.generators.sample import SampleGenerator
    from stepagent.judges.pairwise import PairwiseJudge
    from stepagent.judges.rollouts import RolloutJudge
    from stepagent.preferences import tree_preferences
    from stepagent.strategies.beam import BeamSearch
    from stepagent.strategies.best_of_n import BestOfN
    from stepagent.strategies.step import StepSearch

_LAZY = {
    **dict.fromkeys(
        (
            "Found",
            "evaluate",
            "iterate",
            "judge",
            "judge_trees",
            "measure_judge",
            "optimize",
            "push",
            "search",
            "tune_judge",
        ),
        "api",
    ),
    "BeamSearch": "strategies.beam",
    "BestOfN": "strategies.best_of_n",
    "Config": "config.settings",
    "OpenAIBackend": "backends.openai",
    "PairwiseJudge": "judges.pairwise",
    "RolloutJudge": "judges.rollouts",
    "SampleGenerator": "generators.sample",
    "StepSearch": "strategies.step",
    "TransformersBackend": "backends.transformers",
    "load_config": "config.loading",
    "tree_preferences": "preferences",
}
"""The modules of the names that are loaded when they are asked for."""

__all__ = [
    "Backend",
    "BackendError",
    "BeamSearch",
    "BestOfN",
    "Candidate",
    "Completion",
    "Completions",
    "Config",
    "ConfigError",
    "DataError",
    "Found",
    "Generator",
    "Grader",
    "Judge",
    "Level",
    "Message",
    "ModelError",
    "Node",
    "OpenAIBackend",
    "PairwiseJudge",
    "ParityError",
    "Problem",
    "Prompt",
    "Proposal",
    "RolloutJudge",
    "SampleGenerator",
    "Sampling",
    "SearchStrategy",
    "Step",
    "StepPreference",
    "StepSearch",
    "StepTree",
    "StepagentError",
    "TransformersBackend",
    "Usage",
    "Verdict",
    "Vote",
    "evaluate",
    "iterate",
    "judge",
    "judge_trees",
    "load_config",
    "measure_judge",
    "optimize",
    "push",
    "search",
    "tree_preferences",
    "tune_judge",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'stepagent' has no attribute '{name}'")
    value = getattr(import_module(f"stepagent.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
