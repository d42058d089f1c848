"""l_inf, method="clipped-latent": what is clipped has rank r, the perturbation itself has not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from art_lowrank.attack.balls import length
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.power import Power, unswallowed
from art_lowrank.attack.start import Problem

REACH = 3.0  # length of the latent, in units of the longest perturbation of the ball


@dataclass(frozen=True)
class ClippedLatent:
    """`power` on the signs of the gradients, over a sphere wider than the ball; the ball clips its result."""

    power: Power

    def start(self, problem: Problem, restart: int, init: Factors | None) -> Factors:
        return self.power.start(self._wide(problem), restart, init)

    def moved(self, factors: Factors, problem: Problem) -> Tensor:
        return problem.x + problem.ball.project(factors.dense(), problem.eps)

    def final(self, factors: Factors, problem: Problem) -> Factors:
        """The latent: its product is the perturbation only after it is clipped at eps."""
        return factors

    def admissible(self, i: int, gradient: Tensor, shown: Tensor, factors: Factors, problem: Problem) -> Tensor:
        return unswallowed(i, gradient, shown, problem)

    def step(self, i: int, factors: Factors, gradient: Tensor, size: Tensor, problem: Problem) -> Factors:
        signs = gradient.sign()
        return self.power.step(i, factors, signs, length(signs), self._wide(problem))

    def _wide(self, problem: Problem) -> Problem:
        """The same images in an l2 ball, as `power` wants it."""
        return problem._replace(eps=REACH * length(problem.eps.expand_as(problem.x)), step_size=None)
