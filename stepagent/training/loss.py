"""The step-wise DPO loss as a pure function of log-probabilities."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from stepagent.config.settings import LossKind


def dpo_loss(
    policy: torch.Tensor,
    reference: torch.Tensor,
    *,
    beta: float,
    kind: LossKind = "sigmoid",
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
    kto      sigmoid(-beta log(pi/ref)) of the best step + sigmoid(beta log(pi/ref)) of the worst: each step on its own
             (KTO, arXiv 2402.01306, Eq. 8, with equal weights and 0 as the point of reference, which is APO-zero,
             arXiv 2408.06266; KTO's own point would take passes over mismatched steps); takes no smoothing
    likelihood  0: the likelihood of the best step is the caller's term
    The metrics are detached and per pair: the rewards of both steps, their margin, the accuracy (1 if h > 0)
    and `kl`, log(ref/pi) averaged over both steps: an estimate of KL(ref || pi) per step, since the reference
    sampled them.
    """
    chosen_ratio, rejected_ratio = (policy - reference).unbind(1)
    gap = chosen_ratio - rejected_ratio
    if kind == "ipo":
        losses = (gap - 1 / (2 * beta)) ** 2
    elif kind == "kto":
        losses = torch.sigmoid(-beta * chosen_ratio) + torch.sigmoid(beta * rejected_ratio)
    elif kind == "likelihood":
        losses = torch.zeros_like(gap)
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
