"""The figures in a run's JSON files, as far as a report reads them. Their writers are the stages; a file of another
shape is a gap in the report."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EvaluationFigures:
    """metrics.json of an evaluation."""

    greedy_accuracy: float
    name: str = ""
    valid_format: float | None = None
    search_accuracy: float | None = None
    judge_accuracy: float | None = None
    own_judge_accuracy: float | None = None
    own_pairs: int = 0
    failed_requests: int = 0
    failed_grades: int = 0
    grade_error: str = ""
    solved: tuple[bool | None, ...] = ()


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """A model's row of summary.json: the pairs that it was trained on."""

    name: str
    preferences: int | None = None
    pairs_right: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """summary.json of a run; `drifted` are the ways in which models drifted."""

    models: tuple[SummaryRow, ...] = ()
    drifted: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainingFigures:
    """optimize.json of a round."""

    steps: int | None = None
    parity: float | None = None
    margin: float | None = None
    accuracy: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StrategyPoint:
    """A point of compare.json: a strategy at one size, in means a problem."""

    strategy: str
    accuracy: float
    low: float
    high: float
    problems: int
    tokens: float
    calls: float
    seconds: float
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """compare.json: strategies at equal cost."""

    budget: int
    points: tuple[StrategyPoint, ...]
    at_budget: dict[str, StrategyPoint]


@dataclass(frozen=True, slots=True)
class JudgeSource:
    """The labelled data that metrics.json of a measured judge names."""

    data: str = ""
    sample: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ItemVote:
    """A judge's words on a labelled pair."""

    first: int = 0
    outcome: str = ""
    reply: str = ""


@dataclass(frozen=True, slots=True)
class ItemUsage:
    """The cost of a verdict."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ItemVerdict:
    """A verdict on a labelled item."""

    votes: tuple[ItemVote, ...] = ()
    usage: ItemUsage = ItemUsage()


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """A row of pairs.jsonl or items.jsonl."""

    index: int
    right: bool
    consistent: bool | None = None
    verdicts: tuple[ItemVerdict, ...] = ()
    predicted: int | None = None


@dataclass(frozen=True, slots=True)
class TaughtItem:
    """A row of judged_*.jsonl: the verdict of a teacher."""

    verdict: ItemVerdict


@dataclass(frozen=True, slots=True)
class StageEntry:
    """A stage in manifest.json; hashes by the names of files."""

    seconds: float | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """manifest.json."""

    stages: dict[str, StageEntry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeployedVersion:
    """The model of a deployment."""

    index: int | None = None


@dataclass(frozen=True, slots=True)
class DeploymentProof:
    """The proof of a deployment; `to_new` is in nats a token."""

    outcome: str
    to_new: float | None = None


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """A line of server/deployments.jsonl."""

    version: DeployedVersion
    proof: DeploymentProof
    method: str = ""


@dataclass(frozen=True, slots=True)
class ModelPrice:
    """A price of the config, per million tokens."""

    prompt: float = 0.0
    completion: float = 0.0


@dataclass(frozen=True, slots=True)
class DataSource:
    """A file that the config names."""

    path: str = ""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The config's held-out data."""

    problems: DataSource = DataSource()
    pairs: str | None = None


@dataclass(frozen=True, slots=True)
class BackendKind:
    """A backend of the config."""

    kind: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class AskingPart:
    """A generator or a judge of the config, and the backend that it has of its own."""

    backend: BackendKind | None = None


@dataclass(frozen=True, slots=True)
class GraderFacts:
    """The grader of the config, and the tolerances that one of numbers has."""

    kind: str = "math"
    relative: float = 0.0
    absolute: float = 0.0


@dataclass(frozen=True, slots=True)
class ConfigFacts:
    """The part of config.yaml that a report reads."""

    seed: int | None = None
    problems: DataSource = DataSource()
    backend: BackendKind = BackendKind()
    generator: AskingPart = AskingPart()
    judge: AskingPart = AskingPart()
    grader: GraderFacts = GraderFacts()
    evaluate: HeldOut | None = None
    prices: dict[str, ModelPrice] = field(default_factory=dict)
