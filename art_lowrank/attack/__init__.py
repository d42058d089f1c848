"""The attack: torch only."""

from art_lowrank.attack.factors import Factors
from art_lowrank.attack.lowrank import lowrank_pgd
from art_lowrank.attack.result import Attacked, Queries

__all__ = ["Attacked", "Factors", "Queries", "lowrank_pgd"]
