"""Evaluation of many models under many attacks: a plan in, a folder of records and images out."""

from art_lowrank.evaluate.plan import Cell, Plan, plan_of, read_plan
from art_lowrank.evaluate.run import Evaluation, evaluate
from art_lowrank.evaluate.store import VOLATILE, Store

__all__ = ["VOLATILE", "Cell", "Evaluation", "Plan", "Store", "evaluate", "plan_of", "read_plan"]
