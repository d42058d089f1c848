"""One measurement: a net, an attack with its settings, the first n images; and the record it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from from_peers import ROBUST_NETS

from art_lowrank.record import JSON, Record

KIND = "claims"
SEED = 0
EXTRA_NET = "cifar10_cnn_mmr_universal"  # nothing was ever tuned on it
NETS = (*ROBUST_NETS, EXTRA_NET)
STANDARD_NET, STANDARD_IMAGES = "cifar10_resnet20_standard", 200  # slow, and little of it survives


@dataclass(frozen=True)
class Trial:
    model: str
    attack: str  # a name of `measure.MEASURES`
    settings: Mapping[str, JSON]  # go to the attack and into the record as they are
    n: int

    @property
    def dataset(self) -> str:
        return self.model.split("_")[0]

    @property
    def asked(self) -> Record:
        """The record without results: its id is known before anything is run."""
        data = f"{self.dataset}-test[:{self.n}]"
        return Record(KIND, self.model, data, self.attack, SEED, self.n, settings=self.settings, values={})


def l2(model: str, n: int, **changes: JSON) -> Trial:
    """`lowrank_pgd` at eps 0.5, rank 3, 20 gradients, unless changed."""
    return Trial(model, "lowrank_pgd", {"eps": 0.5, "norm": 2, "rank": 3, "steps": 20, **changes}, n)


def short(model: str) -> str:
    """A net's name for the head of a table."""
    return model.removeprefix("cifar10_").removeprefix("mnist_")
