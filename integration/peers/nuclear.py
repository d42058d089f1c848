"""LoRa-PGD's authors compare at equal nuclear norm as well: the low-rank attack gets the radius that matches PGD's.

A low-rank perturbation of some l2 length has a smaller nuclear norm than PGD's of the same length. `matched` runs PGD
and the low-rank attack at eps, and the low-rank attack again at eps * nu_PGD / nu_low, where nu is the nuclear norm
averaged over images and channels. Only the average is matched, and the radius exceeds eps: another threat model.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch
from assets import cifar10, net
from facts import ROBUST_NETS
from torch import Tensor, nn

from art_lowrank import lowrank_pgd
from art_lowrank.spectra import nuclear_norm
from art_lowrank.statistics import Interval, wilson


class Matched(NamedTuple):
    """Robust accuracy under PGD at eps, the low-rank attack at eps, and the low-rank attack at `radius`."""

    pgd: Interval
    low: Interval
    matched: Interval
    radius: float


def matched(model: nn.Module, x: Tensor, y: Tensor, eps: float, rank: int, method: str, steps: int = 10) -> Matched:
    """The comparison of one net."""

    def low(radius: float) -> Tensor:
        return lowrank_pgd(model, x, y, eps=radius, rank=rank, steps=steps, method=method).x

    pgd, first = lowrank_pgd(model, x, y, eps=eps, rank="full", steps=steps, loss="ce").x, low(eps)
    radius = eps * float(_mean_nuclear(pgd - x) / _mean_nuclear(first - x))
    robust = _robust(model, y)
    return Matched(robust(pgd), robust(first), robust(low(radius)), radius)


def _mean_nuclear(delta: Tensor) -> Tensor:
    return nuclear_norm(delta).mean()


def _robust(model: nn.Module, y: Tensor) -> Callable[[Tensor], Interval]:
    def robust(x: Tensor) -> Interval:
        with torch.no_grad():
            return wilson(int((model(x).argmax(1) == y).sum()), len(y))

    return robust


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=500, help="images: the first of the test split")
    parser.add_argument("--eps", type=float, default=0.5)
    parser.add_argument("--rank", type=int, default=3)
    arguments = parser.parse_args()
    x, y = cifar10("test", arguments.n)
    for name in ROBUST_NETS:
        for method in ("paper", "power"):
            found = matched(net(name), x, y, arguments.eps, arguments.rank, method)
            print(
                f"{name} {method} rank {arguments.rank}: PGD {found.pgd.percent()}, at eps {found.low.percent()}, "
                f"at the matched radius {found.radius:.3f} {found.matched.percent()}"
            )


if __name__ == "__main__":
    main()
