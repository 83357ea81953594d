"""The step-wise DPO loss as a pure function of log-probabilities."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid


def dpo_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    beta: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """-log sigmoid(beta (log pi/ref of best - log pi/ref of worst)) per pair (arXiv 2503.03746, Eq. 4).

    All inputs are [pairs]: the summed log-probability of a step's tokens given its whole context.
    Returns the losses [pairs] and, detached and per pair, the rewards, their margin and its accuracy.
    """
    chosen_reward = beta * (chosen - ref_chosen)
    rejected_reward = beta * (rejected - ref_rejected)
    margin = chosen_reward - rejected_reward
    metrics = {
        "chosen_logp": chosen,
        "rejected_logp": rejected,
        "chosen_reward": chosen_reward,
        "rejected_reward": rejected_reward,
        "margin": margin,
        "accuracy": (margin > 0).float(),
    }
    return -logsigmoid(margin), {name: value.detach() for name, value in metrics.items()}
