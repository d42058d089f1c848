"""The attack: torch only."""

from art_lowrank.attack.curve import Curve, eps_curve, rank_curve
from art_lowrank.attack.factors import Factors
from art_lowrank.attack.lowrank import lowrank_pgd
from art_lowrank.attack.result import Attacked, Queries

__all__ = ["Attacked", "Curve", "Factors", "Queries", "eps_curve", "lowrank_pgd", "rank_curve"]
