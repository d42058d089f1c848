"""CondLR, our implementation (arXiv 2306.01485); the published code is neither used nor copied.

The paper's: W = U S V^T with orthonormal U, V and a full core S whose condition number is bounded by 1 + tau. All three
move at once along gradients of one backward pass, U and V in the tangent of the Stiefel manifold, retracted by QR.
Singular values of S are clipped to an interval around their mean; for tau = 0, S is a multiple of an orthogonal matrix.

Reconstructed, because the paper's pseudo-code was not at hand: the scaling of U's and V's gradients by the inverse Gram
matrix of S is that of dynamical low-rank approximation; for tau = 0 it is 1 / a^2.

Ours: a convolution is a k x k convolution with V^T and a 1 x 1 with U S, not im2col; the start is flat with the
Frobenius norm of torch's default; momentum is kept on Euclidean gradients; no n x n projector is formed; a tiny ridge
keeps the solve finite; for tau = 0 the polar factor of S, the nearest orthogonal matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

Variant = Literal["clip", "mean"]
Pair = tuple[int, int]

RIDGE = 1e-6  # of the mean eigenvalue of the core's Gram matrix: float32 cannot invert beyond it


class Factored(nn.Module):
    """The parameters of W = u s v^T (n x m) and a bias, drawn from torch's global generator as torch's layers do."""

    def __init__(self, n: int, m: int, rank: int, bias: bool) -> None:
        super().__init__()
        if not 1 <= rank <= min(n, m):
            raise ValueError(f"rank is {rank}; a {n} x {m} matrix takes 1 to {min(n, m)}")
        self.u = nn.Parameter(nn.init.orthogonal_(torch.empty(n, rank)))
        self.v = nn.Parameter(nn.init.orthogonal_(torch.empty(m, rank)))
        # torch draws each of n m entries with variance 1 / (3 m): |W|^2 is n / 3, here shared by r singular values
        self.s = nn.Parameter(math.sqrt(n / (3 * rank)) * torch.eye(rank))
        self.bias = nn.Parameter(torch.empty(n).uniform_(-1, 1) / math.sqrt(m)) if bias else None

    def weight(self) -> Tensor:
        """W as a matrix, n x m; the layer itself never forms it."""
        return self.u @ self.s @ self.v.mT


class CondLinear(Factored):
    """y = U S (V^T x) + b."""

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool = True) -> None:
        super().__init__(out_features, in_features, rank, bias)

    def forward(self, x: Tensor) -> Tensor:
        return linear(linear(x, self.v.mT), self.u @ self.s, self.bias)


class CondConv2d(Factored):
    """V^T as a k x k convolution to r channels, then U S as a 1 x 1: W is the out x (in k k) matrix of the kernel."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        rank: int,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        bias: bool = True,
    ) -> None:
        self.kernel_size, self.stride, self.padding = pair(kernel_size), pair(stride), pair(padding)
        super().__init__(out_channels, in_channels * math.prod(self.kernel_size), rank, bias)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.v.mT.reshape(-1, x.shape[-3], *self.kernel_size)
        return conv2d(conv2d(x, kernel, None, self.stride, self.padding), (self.u @ self.s)[..., None, None], self.bias)


def pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def condense(model: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """Put a new layer of that rank in place of every Linear or Conv2d that `ranks` names, and return the model.

    A new layer keeps the old one's bias, device, dtype and mode, not its weight: CondLR trains from scratch.
    """
    named = dict(model.named_modules())
    layers = {
        name: condensed(name, named.get(name), rank) for name, rank in ranks.items()
    }  # all, before the first swap
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(named[parent], child, layer)
    return model


def condensed(name: str, layer: nn.Module | None, rank: int) -> Factored:
    """The new layer for an old one, checked for what it could not express."""
    bias = getattr(layer, "bias", None)
    new: Factored
    if type(layer) is nn.Linear:
        new = CondLinear(layer.in_features, layer.out_features, rank, bias is not None)
    elif type(layer) is nn.Conv2d:
        if layer.groups != 1 or layer.dilation != (1, 1) or layer.padding_mode != "zeros" or layer.padding == "same":
            raise ValueError(f"{name!r} is {layer}; only plain convolutions with a padding in numbers can be condensed")
        padding = (0, 0) if layer.padding == "valid" else layer.padding
        sizes = (layer.in_channels, layer.out_channels, layer.kernel_size, rank, layer.stride, padding)
        new = CondConv2d(*sizes, bias=bias is not None)
    else:
        raise ValueError(f"{name!r} is {type(layer).__name__}; name a Linear or Conv2d of the model")
    new.to(layer.weight.device, layer.weight.dtype).train(layer.training)
    new.bias = bias
    return new


class CondLRSGD(torch.optim.Optimizer):
    """CondLR's step for every factored layer of the model, plain SGD with momentum for all other parameters.

    `max_cond` is the paper's 1 + tau. `variant="clip"` keeps the singular values of S within a factor `max_cond`;
    `"mean"` is tau = 0, S = a Q with Q orthogonal, whatever `max_cond`. There is no weight decay. Every layer is a
    parameter group, so that schedules of `lr` work as usual. A run that has diverged raises torch's LinAlgError.

    Ours: momentum is heavy ball on raw gradients, before projection and scaling, so that the scaling of one step does
    not compound in the next. The retraction drops QR's R, which is I up to second order in the step.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        momentum: float = 0.0,
        max_cond: float = 1.5,
        variant: Variant = "clip",
    ) -> None:
        if not 1 <= max_cond < math.inf:
            raise ValueError(f"max_cond is {max_cond}; give a finite number from 1 on, the paper's 1 + tau")
        if variant not in ("clip", "mean"):
            raise ValueError(f"variant is {variant!r}; choose 'clip' or 'mean'")
        defaults = {"lr": lr, "momentum": momentum, "max_cond": max_cond, "variant": variant}
        super().__init__(list(groups(model)), defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            directions = [self._heavy_ball(p, group["momentum"]) for p in group["params"]]
            if not group["factored"]:
                descend(group["params"], directions, group["lr"])
            elif all(d is not None for d in directions):  # else the layer took no part in the loss
                condlr_step(*group["params"], *directions, group["lr"], group["max_cond"], group["variant"])
        return loss

    def _heavy_ball(self, parameter: Tensor, momentum: float) -> Tensor | None:
        """The parameter's direction, momentum times the last one plus the gradient; None where it has no gradient."""
        if parameter.grad is None or momentum == 0:
            return parameter.grad
        state = self.state[parameter]
        if "velocity" in state:
            state["velocity"].mul_(momentum).add_(parameter.grad)
        else:
            state["velocity"] = parameter.grad.clone()
        velocity: Tensor = state["velocity"]
        return velocity


def groups(model: nn.Module) -> Iterator[dict[str, Any]]:
    """One parameter group (u, s, v) a factored layer, one of all the rest."""
    layers = [module for module in model.modules() if isinstance(module, Factored)]
    factors = {id(p) for layer in layers for p in (layer.u, layer.s, layer.v)}
    yield from ({"params": [layer.u, layer.s, layer.v], "factored": True} for layer in layers)
    rest = [p for p in model.parameters() if id(p) not in factors]
    if rest:
        yield {"params": rest, "factored": False}


def descend(parameters: list[Tensor], directions: list[Tensor | None], lr: float) -> None:
    for parameter, direction in zip(parameters, directions, strict=True):
        if direction is not None:
            parameter.add_(direction, alpha=-lr)


def condlr_step(
    u: Tensor, s: Tensor, v: Tensor, du: Tensor, ds: Tensor, dv: Tensor, lr: float, max_cond: float, variant: Variant
) -> None:
    """Move the three factors in place; each uses the others as they were before the step."""
    scaled = by_scale if variant == "mean" else by_gram
    towards_u, towards_v = scaled(tangent(u, du), s), scaled(tangent(v, dv), s.mT)
    core = s - lr * ds
    u.copy_(retracted(u - lr * towards_u))
    v.copy_(retracted(v - lr * towards_v))
    s.copy_(orthogonal_multiple(core) if variant == "mean" else clipped(core, max_cond))


def tangent(basis: Tensor, gradient: Tensor) -> Tensor:
    """(I - U U^T) dU in O(n r^2)."""
    return gradient - basis @ (basis.mT @ gradient)


def by_gram(direction: Tensor, core: Tensor) -> Tensor:
    """direction (S S^T)^{-1}."""
    gram = core @ core.mT
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    return torch.cholesky_solve(direction.mT, torch.linalg.cholesky(gram)).mT


def by_scale(direction: Tensor, core: Tensor) -> Tensor:
    """The same where S S^T = a^2 I."""
    return direction / core.square().sum() * len(core)


def retracted(moved: Tensor) -> Tensor:
    """The orthonormal factor of QR whose R has a positive diagonal: without the sign columns would flip."""
    basis, triangle = torch.linalg.qr(moved)
    return basis * torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(basis.dtype)


def clipped(core: Tensor, max_cond: float) -> Tensor:
    """S with singular values in [c - e, c + e], c their mean, e = c (max_cond - 1) / (max_cond + 1)."""
    left, values, right = torch.linalg.svd(core)
    centre = values.mean()
    reach = centre * (max_cond - 1) / (max_cond + 1)
    return left * values.clamp(centre - reach, centre + reach) @ right


def orthogonal_multiple(core: Tensor) -> Tensor:
    """a Q: Q the polar factor of S, a the root mean square of its singular values."""
    left, values, right = torch.linalg.svd(core)
    return values.square().mean().sqrt() * (left @ right)
