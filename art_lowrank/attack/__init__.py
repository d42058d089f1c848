"""The attack: torch only."""

from art_lowrank.attack.factors import Factors
from art_lowrank.attack.lowrank import Attacked, Queries, lowrank_pgd

__all__ = ["Attacked", "Factors", "Queries", "lowrank_pgd"]
