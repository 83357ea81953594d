"""The step-wise DPO loss as a pure function of log-probabilities."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn.functional import logsigmoid


def dpo_loss(
    policy: torch.Tensor,
    reference: torch.Tensor,
    *,
    beta: float,
    kind: Literal["sigmoid", "ipo"] = "sigmoid",
    smoothing: torch.Tensor | float = 0.0,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss of every pair, and the metrics to watch. `policy` and `reference` are log-probabilities
    [pairs, 2] of the chosen and the rejected step; the rest is [pairs].

    With h = log(pi/ref) of the best step minus log(pi/ref) of the worst, each log-probability summed over
    the step's tokens (or averaged, by the caller, for length normalisation):
    sigmoid  -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h); e = 0 is the paper's loss
             (arXiv 2503.03746, Eq. 4), e > 0 is the probability that the
             label is wrong (conservative DPO, Mitchell 2023)
    ipo      (h - 1 / (2 beta))^2 (arXiv 2310.12036, Eq. 17); takes no smoothing
    The metrics are detached and per pair: the rewards of both steps, their margin, the accuracy (1 if h > 0)
    and `kl`, log(ref/pi) averaged over both steps: an estimate of KL(ref || pi) per step, since the reference
    sampled them.
    """
    chosen_ratio, rejected_ratio = (policy - reference).unbind(1)
    gap = chosen_ratio - rejected_ratio
    if kind == "ipo":
        losses = (gap - 1 / (2 * beta)) ** 2
    else:
        losses = -(1 - smoothing) * logsigmoid(beta * gap) - smoothing * logsigmoid(-beta * gap)
    metrics = {
        "chosen_reward": beta * chosen_ratio,
        "rejected_reward": beta * rejected_ratio,
        "margin": beta * gap,
        "accuracy": (gap > 0).float(),
        "kl": -(chosen_ratio + rejected_ratio) / 2,
    }
    return losses, {name: value.detach() for name, value in metrics.items()}
