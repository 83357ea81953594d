"""How far a model sees: its positions, its windows and chunks, and the length at which its positions change."""

from __future__ import annotations

from typing import Any, NamedTuple

from stepagent.errors import ModelError

_WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "attention_chunk_size",
    "attention_window_size",
    "attention_window",
    "window_size",
    "local_attention_window",
)
# Beyond so many tokens a layer attends to a selection, which in Transformers changes with the tokens that follow.
_SELECTIONS = ("index_topk", "keep_window_size")
_UNBOUNDED = 1 << 20


class Span(NamedTuple):
    """Lengths in tokens. `positions`: for how many the model has positions. `window`: beyond this length a layer
    does not see all tokens before (a sliding window or a chunk); None if every layer does. `switch`: a longer
    sequence changes the rotary frequencies of all its positions (LongRoPE); None if none does. `grows`: beyond
    `switch` they change with every token (dynamic NTK), so that earlier tokens lose their log-probabilities."""

    positions: int
    window: int | None
    switch: int | None
    grows: bool

    @property
    def steady(self) -> int:
        """The longest sequence (tokens) in which every token sees all before it, at positions that do not change."""
        return min(self.positions, self.window or _UNBOUNDED, self.switch or _UNBOUNDED)


def span(config: Any) -> Span:
    """Return the span of a model with this config; that of its text part, if it has several."""
    text = config.get_text_config(decoder=True)
    positions = next(
        (
            int(value)
            for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
            if isinstance(value := getattr(text, name, None), int) and value > 0
        ),
        _UNBOUNDED,
    )
    ropes = _rope_parameters(text)
    switches = [
        int(rope.get("original_max_position_embeddings") or positions)
        for rope in ropes
        if rope.get("rope_type") in ("longrope", "dynamic")
    ]
    grows = any(rope.get("rope_type") == "dynamic" for rope in ropes)
    return Span(positions, _window(text), min(switches, default=None), grows)


def context_limit(config: Any, max_context: int | None) -> int:
    """Return how many tokens a sequence may have: `max_context`, or by default the positions of the model. Raises
    ModelError for more than a model's positions are steady for."""
    limits, selection = span(config), _least(config.get_text_config(decoder=True), _SELECTIONS) or _UNBOUNDED
    limit = max_context or min(limits.positions, selection)
    if limit > selection:
        raise ModelError(
            f"max_context {limit}: beyond {selection} tokens this model attends to a selection of them, and in "
            f"Transformers the log-probability of a token changes with what follows; set max_context to {selection} or "
            "less"
        )
    if limits.grows and limits.switch and limit > limits.switch:
        raise ModelError(
            f"max_context {limit}: beyond {limits.switch} tokens this model's rotary frequencies change with every "
            f"token (dynamic NTK), so that no log-probability stays; set max_context to {limits.switch} or less"
        )
    if limit > limits.positions and not _rope_parameters(config.get_text_config(decoder=True)):
        raise ModelError(f"max_context {limit}: this model has {limits.positions} positions; set it to that or less")
    return limit


def _window(text: Any) -> int | None:
    kinds = set(getattr(text, "layer_types", None) or ())
    # a config may name a window that none of its layers has
    if kinds and not any(kind != "full_attention" and kind != "linear_attention" for kind in kinds):
        return None
    return _least(text, _WINDOWS)


def _least(config: Any, names: tuple[str, ...]) -> int | None:
    """Return the smallest of some lengths that a config states, or None if it states none."""
    sizes = [getattr(config, name, None) for name in names]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=None)


def _rope_parameters(text: Any) -> list[dict[str, Any]]:
    """Return the rotary parameters: a config has one set, or one for each type of layer."""
    parameters = getattr(text, "rope_parameters", None) or {}
    if "rope_type" in parameters:
        return [parameters]
    return [value for value in parameters.values() if isinstance(value, dict)]
