"""One optimizer step: a share of a batch here, the other shares elsewhere, the same new weights everywhere."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from art_lowrank.training.chance import drawn_from
from art_lowrank.training.learner import Learner
from art_lowrank.training.moves import Place
from art_lowrank.training.team import Team, added
from art_lowrank.training.warm_start import Warm

APART = 0x9E3779B97F4A7C15  # between the seeds of two processes


class Sums(NamedTuple):
    """The sum of the losses, how many images were right, how many there were."""

    losses: float
    right: int
    images: int

    def plus(self, more: Sums) -> Sums:
        """These and more."""
        return Sums(self.losses + more.losses, self.right + more.right, self.images + more.images)


def one_step(learner: Learner, x: Tensor, y: Tensor, place: Place | None, number: int, team: Team) -> Sums:
    """Attack, loss and gradient on this process's images; then one step on the mean over all, if it is finite."""
    n, mine = len(x), learner.objective.share(place, len(x), team)
    if mine is not None:
        x, y, place = x[mine], y[mine], None if place is None else place.rows(mine)
    optimizer = learner.optimizer

    def act() -> Tensor:
        if mine is not None and not len(mine):
            optimizer.zero_grad(set_to_none=True)
            learner.precision.idle(x.device)
            return torch.zeros(2)
        with _draws(number, team):
            judged = learner.objective.at(place)(learner.model, learner.precision.of(learner.logits), x, y, number)
            loss = judged.loss if len(x) == n else judged.loss * (len(x) / n)
            optimizer.zero_grad(set_to_none=True)
            learner.precision.backward(loss)
        return torch.stack([loss.detach(), judged.right.to(loss)])

    learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    loss, right = added(team, learning, act).tolist()
    if math.isfinite(loss):
        learner.precision.step(optimizer)
    return Sums(loss * n, round(right), n)


def check_team(learner: Learner, team: Team) -> None:
    """What would not be the same with several processes as with one."""
    if team.size == 1:
        return
    objective = learner.objective
    if getattr(objective.loss, "reduction", "mean") == "sum":
        raise ValueError("the loss adds images up (reduction='sum'); several processes need its mean over a batch")
    for name, module in learner.model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise ValueError(f"{name} is a SyncBatchNorm, which waits for processes without images; use BatchNorm2d")
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise ValueError("the model is wrapped in DistributedDataParallel; give the module inside, model.module")
    if isinstance(objective.adversary, Warm) and (shard := objective.adversary.store.shard) != (team.rank, team.size):
        raise ValueError(f"the store's shard is {tuple(shard)}; give shard=({team.rank}, {team.size})")


def _draws(number: int, team: Team) -> AbstractContextManager[None]:
    """Dropout and the like are another process's own; what draws the batches goes on alike everywhere."""
    return nullcontext() if team.size == 1 else drawn_from((number + (team.rank + 1) * APART) % 2**63)
