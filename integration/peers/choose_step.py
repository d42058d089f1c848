"""Gives the peers their best settings, on training images: prints the robust accuracy of each choice."""

from __future__ import annotations

import argparse

import torch
from assets import cifar10, net
from attacks import advlib_apgd, art_pgd, auto, autoattack_apgd, foolbox_pgd, pgd, torchattacks_pgd
from cells import attacked
from facts import ROBUST_NETS

STEPS_OVER_EPS = {
    20: {"0.2": 0.2, "1.8/N": 0.09, "2.5/N": 0.125},
    100: {"0.2": 0.2, "1.8/N": 0.018, "2.5/N": 0.025, "10/N": 0.1},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--eps", type=float, default=0.5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x, y = cifar10("train", arguments.n)
    models = [net(name) for name in ROBUST_NETS]
    choices = [
        (f"{name} N={steps} step {text}", pgd(name, function, steps, step))
        for name, function in (("torchattacks", torchattacks_pgd), ("ART", art_pgd), ("foolbox", foolbox_pgd))
        for steps, paces in STEPS_OVER_EPS.items()
        for text, step in paces.items()
    ]
    choices += [
        (f"{name} APGD N=100 {loss}", auto(name, function, loss, 100))
        for name, function in (("adv-lib", advlib_apgd), ("AutoAttack", autoattack_apgd))
        for loss in ("ce", "dlr")
    ]
    for text, contender in choices:
        broken = [attacked(model, x, y, contender, arguments.eps, seed=0).broken for model in models]
        robust = [100 * (1 - float(flags.double().mean())) for flags in broken]
        each = " ".join(f"{value:5.1f}" for value in robust)
        print(f"{text:32s} {each}   mean {sum(robust) / len(robust):.2f}", flush=True)


if __name__ == "__main__":
    main()
