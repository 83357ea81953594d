"""Batches of packs: a global batch of units for each optimizer step, shared out over the processes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch.utils.data import Dataset

from stepagent.config.settings import TrainSettings
from stepagent.models.loading import pick_device
from stepagent.training.memory import pack_budget
from stepagent.training.packing import Pack, Unit
from stepagent.training.scoring import Scoring, packed_logprobs

_LOOKED_AT = 200  # batches in which the largest pack is looked for


class Share(NamedTuple):
    """One process' part of a global batch (a tuple, since the Trainer looks into its batches).

    `mean_over` is the number that the batch's loss is divided by, counted over all processes. Every process
    gets equally many packs, as sharded models need equally many forward passes; the first `real` packs count,
    the packs after them are fillers with weight 0.
    """

    packs: tuple[Pack, ...]
    real: int
    mean_over: float


class PackedBatches(Dataset[Share]):
    """All optimizer steps of a run in order: item i is the share of process i % processes in batch
    i // processes.

    `groups` names the tree of each of the first units; the units after those are replayed rows. Each epoch
    shuffles the trees and cuts the sequence into batches of `batch_size` units, so that a batch mixes trees but
    keeps the units of a tree, which share a prefix, together; a tree larger than half a batch is shuffled in
    parts of half a batch. Replayed rows are spread evenly over the batches, in a new order each epoch, in
    addition to the `batch_size` units. `weigh(pack)` is the number of terms (tokens, or pairs by their
    weights) that a pack adds to the mean loss. `scoring` is the way in which packs are made and scored: packed, until
    the model has been tried.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        groups: Sequence[object],
        settings: TrainSettings,
        *,
        seed: int,
        weigh: Callable[[Pack], float],
        processes: int = 1,
    ) -> None:
        self.units = units
        self.scoring = Scoring(packed_logprobs, pack_budget(settings, pick_device()))
        self._weigh = weigh
        self._processes = processes
        indices_by_group: dict[object, list[int]] = {}
        for index, group in enumerate(groups):
            indices_by_group.setdefault(group, []).append(index)
        # Half a batch at most: a batch of one tree alone would follow that tree's problem, not the data.
        half = max(1, settings.batch_size // 2)
        parts = [group[i : i + half] for group in indices_by_group.values() for i in range(0, len(group), half)]
        # One sequence over all epochs, cut only then: an epoch whose end fills no batch wastes no step, and
        # a fraction of an epoch is possible.
        order: list[int] = []
        rng = random.Random(seed)
        while len(order) < settings.epochs * len(groups):
            rng.shuffle(parts)
            order += [index for part in parts for index in part]
        order = order[: max(1, round(settings.epochs * len(groups)))]
        size = settings.batch_size
        self._batches = [order[i : i + size] for i in range(0, len(order), size)]
        self._spread(range(len(groups), len(units)), settings.epochs, rng)

    def _spread(self, indices: Sequence[int], epochs: float, rng: random.Random) -> None:
        """Add the units of these indices to the batches, evenly, each as often as there are epochs."""
        order: list[int] = []
        while len(order) < epochs * len(indices):
            order += rng.sample(indices, len(indices))
        order = order[: round(epochs * len(indices))]
        cuts = [len(order) * k // len(self._batches) for k in range(len(self._batches) + 1)]
        for batch, (start, end) in zip(self._batches, pairwise(cuts), strict=True):
            batch += order[start:end]

    @property
    def steps(self) -> int:
        """The number of optimizer steps."""
        return len(self._batches)

    def largest_pack(self) -> Pack:
        """Return the pack with most tokens of the first batches, and keep the packs of all others to its size."""
        packs = (pack for i in range(min(len(self), _LOOKED_AT)) for pack in self[i].packs)
        largest = max(packs, key=lambda pack: len(pack.input_ids))
        if len(self) > _LOOKED_AT:
            budget = min(self.scoring.token_budget, len(largest.input_ids))
            self.scoring = self.scoring._replace(token_budget=budget)
        return largest

    def __len__(self) -> int:
        return len(self._batches) * self._processes

    def __getitem__(self, item: int) -> Share:
        # Sorted by ids, units with a common prefix stand side by side, and one process gets them together.
        batch = sorted(self._batches[item // self._processes], key=lambda i: self.units[i][0].ids)
        cuts = [len(batch) * part // self._processes for part in range(self._processes + 1)]
        # Every process packs all shares, though it trains on one: the number of its fillers and of the terms
        # in the mean depend on the others, and so no message has to pass between them.
        shares = [
            list(self.scoring.packs((i, self.units[i]) for i in batch[start:end])) for start, end in pairwise(cuts)
        ]
        packs = shares[item % self._processes]
        fill = max(len(share) for share in shares) - len(packs)
        # A filler may come from another share: a batch of fewer units than processes leaves shares empty.
        filler = next(pack for share in shares for pack in share)
        count = sum(self._weigh(pack) for share in shares for pack in share)
        return Share((*packs, *[filler] * fill), len(packs), count)
