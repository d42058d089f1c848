"""Training for plain torch: one loop, objectives, adversaries, checkpoints that resume exactly."""

from art_lowrank.training.adversaries import Pgd, SingleStep
from art_lowrank.training.checkpoint import Folder
from art_lowrank.training.distributed import team_here
from art_lowrank.training.indexed import Indexed
from art_lowrank.training.learner import Diverged, Learner
from art_lowrank.training.loop import train
from art_lowrank.training.measure import fingerprint
from art_lowrank.training.methods import METHODS, attach
from art_lowrank.training.moves import Moves
from art_lowrank.training.objectives import OBJECTIVES, Objective
from art_lowrank.training.overfitting import overfitting
from art_lowrank.training.store import PerturbationStore
from art_lowrank.training.warm_loop import warm_started
from art_lowrank.training.warm_start import WarmStart

__all__ = [
    "METHODS",
    "OBJECTIVES",
    "Diverged",
    "Folder",
    "Indexed",
    "Learner",
    "Moves",
    "Objective",
    "PerturbationStore",
    "Pgd",
    "SingleStep",
    "WarmStart",
    "attach",
    "fingerprint",
    "overfitting",
    "team_here",
    "train",
    "warm_started",
]
