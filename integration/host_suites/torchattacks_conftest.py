"""Copied as conftest.py above torchattacks' own test: our attack among the host's, and no downloads."""

from __future__ import annotations

import sys

import pytest
import substitute_robustbench
import torch
import torchattacks

from art_lowrank.hosts.torchattacks import LoRaPGD

for name in ("robustbench", "robustbench.utils", "robustbench.data"):
    sys.modules[name] = substitute_robustbench

torchattacks.LoRaPGD = LoRaPGD
torchattacks.__all__ = ["LoRaPGD", "PGDL2"]  # what the test goes through; the second is the host's own, to compare with


@pytest.fixture(autouse=True)
def same_targets_every_time():
    """The test draws its targets at random; on five images a misclassified one can be attacked into its own class."""
    torch.manual_seed(0)
