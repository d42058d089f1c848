"""The condition-number bound of arXiv 2306.01485 against what perturbations do to the output.

Claimed: (|f(x+d) - f(x)| / |f(x)|) (|x| / |d|) <= the product of cond(W_l) and cond(activations). Each factor |W| |W^+|
needs |W z| >= |z| / |W^+|, which fails where W has a null space and z leans into it: every layer with fewer outputs, or
a lower rank, than inputs. What does hold for layers without biases and activations of slope at most 1 has the output
itself in the place of the inverses: the product of |W_l| times |x| / |f(x)|.
"""

from __future__ import annotations

import torch
from layers import matrices, of_matrix
from torch import Tensor, nn
from worlds import Split

from art_lowrank import lowrank_pgd
from art_lowrank.record import JSON, pack


def relative_change(model: nn.Module, seen: Split, asked: JSON) -> dict[str, JSON]:
    """At adversarial perturbations of l2 length `asked` and at random ones of the same length."""
    eps = float(str(asked))
    weights, slopes, norms = products(model)
    claimed = weights * slopes
    attacked = lowrank_pgd(model, *seen, eps=eps, rank="full", steps=20).x - seen.x
    noise = torch.randn(seen.x.shape, generator=torch.Generator().manual_seed(0))
    noise *= eps / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    found: dict[str, JSON] = {"claimed_bound": claimed, "weights_bound": weights}
    with torch.no_grad():
        sure = norms * lengths(seen.x) / lengths(model(seen.x))
        for name, delta in (("attacked", attacked), ("noise", noise)):
            change = changes(model, seen.x, delta)
            found[name] = {
                "median": float(change.median()),
                "largest": float(change.max()),
                "above_claimed": pack((change > claimed).tolist()),
                "above_weights": pack((change > weights).tolist()),
                "above_sure": int((change > sure * (1 + 1e-4)).sum()),
            }
    found["sure_bound"] = float(sure.median())
    return found


def changes(model: nn.Module, x: Tensor, delta: Tensor) -> Tensor:
    """Relative change of the output over that of the input, (n,)."""
    clean = model(x)
    moved = model(x + delta)
    ratio: Tensor = lengths(moved - clean) / lengths(clean) * lengths(x) / lengths(delta).clamp_min(1e-12)
    return ratio


def products(model: nn.Module) -> tuple[float, float, float]:
    """The condition numbers of the weights, of the activations, and the spectral norms: the product of each."""
    weights, slopes, norms = 1.0, 1.0, 1.0
    for _, matrix in matrices(model):
        known = of_matrix(matrix)
        weights, norms = weights * float(str(known["cond"])), norms * float(str(known["norm"]))
    for module in model.modules():
        if isinstance(module, nn.LeakyReLU):
            slopes /= module.negative_slope
        elif not isinstance(module, nn.Flatten | nn.Linear) and not list(module.children()) and not known_(module):
            raise ValueError(f"{module} is none of the layers the bound is about")
    return weights, slopes, norms


def known_(module: nn.Module) -> bool:
    """Whether the module is a weight in another form."""
    return any(True for _ in matrices(module))


def lengths(x: Tensor) -> Tensor:
    length: Tensor = x.flatten(1).norm(dim=1)
    return length
