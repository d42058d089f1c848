"""Training for plain torch: one loop, objectives, adversaries, checkpoints that resume exactly."""

from art_lowrank.training.adversaries import Pgd, SingleStep
from art_lowrank.training.checkpoint import Folder
from art_lowrank.training.learner import Diverged, Learner
from art_lowrank.training.loop import train
from art_lowrank.training.methods import METHODS, attach
from art_lowrank.training.objectives import OBJECTIVES, Objective

__all__ = [
    "METHODS",
    "OBJECTIVES",
    "Diverged",
    "Folder",
    "Learner",
    "Objective",
    "Pgd",
    "SingleStep",
    "attach",
    "train",
]
