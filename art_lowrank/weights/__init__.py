"""Low-rank weights for plain torch: factorised layers, ranks out of one budget, methods that hang on steps."""

from art_lowrank.weights.constraint import Constraint, constrain
from art_lowrank.weights.convert import Stored, densify, factorize, low_rank_layers, ranks_of, stored
from art_lowrank.weights.dlrt import adapt
from art_lowrank.weights.handle import Handle
from art_lowrank.weights.layers import LowRankConv2d, LowRankLayer, LowRankLinear
from art_lowrank.weights.penalties import penalise, shrink, spectral_penalty

__all__ = [
    "Constraint",
    "Handle",
    "LowRankConv2d",
    "LowRankLayer",
    "LowRankLinear",
    "Stored",
    "adapt",
    "constrain",
    "densify",
    "factorize",
    "low_rank_layers",
    "penalise",
    "ranks_of",
    "shrink",
    "spectral_penalty",
    "stored",
]
