"""stepagent: a language model learns to reason better by judging its own steps."""

from stepagent.errors import BackendError, ConfigError, DataError, ModelError, ParityError, StepagentError
from stepagent.interfaces import Backend, Generator, Judge, SearchStrategy
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

__all__ = [
    "Backend",
    "BackendError",
    "Candidate",
    "Completion",
    "Completions",
    "ConfigError",
    "DataError",
    "Generator",
    "Judge",
    "Level",
    "Message",
    "ModelError",
    "Node",
    "ParityError",
    "Problem",
    "Prompt",
    "Proposal",
    "Sampling",
    "SearchStrategy",
    "Step",
    "StepPreference",
    "StepTree",
    "StepagentError",
    "Usage",
    "Verdict",
    "Vote",
]
