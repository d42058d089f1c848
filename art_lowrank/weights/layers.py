"""Layers whose weight lives on the low-rank manifold: W = weight_u diag(weight_s) weight_v^T, never formed in a step.

A linear layer is two products, a convolution a k x k convolution to `rank` channels followed by a 1 x 1 one. The
matrix of a convolution is out x (in kh kw), as everywhere in this package; its singular values are those of the kernel,
not of the operator on images. The names begin with `weight_`, which is how ART's AWP knows what to perturb.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from art_lowrank.weights.plain import empty_conv, empty_linear, filled, product
from art_lowrank.weights.retraction import condition, orthonormal, retracted, svd_of

FACTORS = ("weight_u", "weight_s", "weight_v")


class LowRankLayer(nn.Module):
    """What both layers share. `max_cond` is the bound on cond(W) they were last held to, infinite for none.

    `weight_s` is a vector, but for the core steps of dlrt, when it is a matrix, perhaps not a square one.
    """

    bias: nn.Parameter | None

    def __init__(self, rows: int, columns: int, rank: int, bias: bool, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(rows, columns):
            raise ValueError(f"rank is {rank!r}; a {rows} x {columns} weight takes 1 to {min(rows, columns)}")
        self.weight_u = nn.Parameter(torch.empty(rows, rank, device=device, dtype=dtype))
        self.weight_s = nn.Parameter(torch.empty(rank, device=device, dtype=dtype))
        self.weight_v = nn.Parameter(torch.empty(columns, rank, device=device, dtype=dtype))
        start = nn.Parameter(torch.empty(rows, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", start)
        self.max_cond = math.inf
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Orthonormal factors and a flat spectrum with the Frobenius norm of torch's own start, ours."""
        rows, columns, rank = len(self.weight_u), len(self.weight_v), self.rank
        for factor in (self.weight_u, self.weight_v):
            factor.copy_(orthonormal(torch.randn(factor.shape, device=factor.device)))
        flat = math.sqrt(rows / (3 * rank))
        self.weight_s.copy_(torch.eye(*self.weight_s.shape) * flat if self.weight_s.ndim == 2 else torch.tensor(flat))
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1 / math.sqrt(columns), 1 / math.sqrt(columns))

    @property
    def rank(self) -> int:
        """The number of columns of both factors."""
        return self.weight_u.shape[1]

    @property
    def left(self) -> Tensor:
        """weight_u diag(weight_s), (m, r)."""
        return self.weight_u * self.weight_s if self.weight_s.ndim == 1 else self.weight_u @ self.weight_s

    @property
    def matrix(self) -> Tensor:
        """W as a matrix (m, n); differentiable, but formed: for looking at, not for a step."""
        return self.left @ self.weight_v.mT

    @property
    def exact(self) -> Tensor:
        """W in float64, out of the graph."""
        return product(self.weight_u.detach(), self.weight_s.detach(), self.weight_v.detach())

    def cond(self) -> float:
        """The condition number of W on its rank, in float64."""
        return condition(self.weight_u, self.weight_s, self.weight_v)

    @torch.no_grad()
    def retract_(self) -> None:
        """Make the factors orthonormal and hold cond(W) to `max_cond`, in place."""
        bound = torch.tensor(self.max_cond, dtype=torch.float64)
        found = retracted(self.weight_u, self.weight_s, self.weight_v, bound)
        for name, value in zip(FACTORS, found, strict=True):
            getattr(self, name).copy_(value)

    @torch.no_grad()
    def take_(self, weight: Tensor) -> None:
        """The best copy of this rank of a dense layer's weight, by its SVD."""
        for name, value in zip(FACTORS, svd_of(weight.flatten(1), self.rank), strict=True):
            getattr(self, name).copy_(value)

    def get_extra_state(self) -> Tensor:
        """Rank and bound, for state_dict: a tensor, so that safetensors and weights_only take it."""
        return torch.tensor([self.rank, self.max_cond], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """A loaded bound counts where it is the stricter one: loading never loosens what was promised."""
        self.max_cond = min(self.max_cond, float(state[1]))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Takes factors of another rank too, and leaves cond(W) below the bound."""
        self._make_room([state_dict.get(prefix + name) for name in FACTORS])
        super()._load_from_state_dict(state_dict, prefix, *rest)
        single = self.weight_s.ndim == 1 and self.weight_s.dtype in (torch.float32, torch.float64)
        if single and math.isfinite(self.max_cond) and self.cond() > self.max_cond:
            self.retract_()

    def _make_room(self, stored: list[Tensor | None]) -> None:
        """Give the factors the shapes of stored ones whose only difference is the rank."""
        shapes = [tuple(value.shape) for value in stored if value is not None]
        if len(shapes) < 3 or not shapes[1]:
            return
        core = shapes[1]
        if shapes != [(len(self.weight_u), core[0]), core, (len(self.weight_v), core[-1])]:
            return  # torch's own message says what does not fit
        if len(core) != self.weight_s.ndim:  # dlrt holds u and v while it trains the core
            for basis in (self.weight_u, self.weight_v):
                basis.requires_grad_(self.weight_s.requires_grad and len(core) == 1)
        for name, shape in zip(FACTORS, shapes, strict=True):
            parameter = getattr(self, name)
            if tuple(parameter.shape) != shape:
                put(parameter, parameter.data.new_empty(shape))

    def extra_repr(self) -> str:
        bound = "" if math.isinf(self.max_cond) else f", max_cond={self.max_cond:g}"
        return f"rank={self.rank}, bias={self.bias is not None}{bound}"


def put(parameter: nn.Parameter, value: Tensor) -> None:
    """Other values, also of another shape, in the same parameter; its gradient is void.

    A graph that is still alive remembers the parameter's old shape, and would stand in the way of the next backward
    pass. Changing the type in between makes torch forget it.
    """
    kind = torch.float32 if parameter.dtype == torch.float16 else torch.float16
    parameter.grad = None
    parameter.data = parameter.data.new_empty(0, dtype=kind)
    parameter.data = value.detach().clone(memory_format=torch.contiguous_format)


class LowRankLinear(LowRankLayer):
    """A linear layer whose weight has rank `rank`: r (m + n + 1) numbers instead of m n."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(out_features, in_features, rank, bias, device, dtype)
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def like(cls, layer: nn.Linear, rank: int) -> LowRankLinear:
        """Fresh factors in the place of a dense layer."""
        return cls(
            layer.in_features, layer.out_features, rank, layer.bias is not None, layer.weight.device, layer.weight.dtype
        )

    @property
    def weight(self) -> Tensor:
        """W, for code that looks at a layer's weight."""
        return self.matrix

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.weight_v.mT), self.left, self.bias)

    def dense(self) -> nn.Linear:
        """The plain layer."""
        plain = empty_linear(self.in_features, self.out_features, self.bias is not None)
        return filled(plain, self.exact, self.weight_u, self.bias).train(self.training)

    def pair(self) -> nn.Sequential:
        """Two plain layers with as few numbers: for export to what knows no other."""
        between = self.weight_v.shape[1]
        first = empty_linear(self.in_features, between, bias=False)
        second = empty_linear(between, self.out_features, self.bias is not None)
        parts = filled(first, self.weight_v.mT, self.weight_u), filled(second, self.left, self.weight_u, self.bias)
        return nn.Sequential(*parts).train(self.training)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {super().extra_repr()}"


class LowRankConv2d(LowRankLayer):
    """A convolution whose out x (in / groups kh kw) matrix has rank `rank`. All groups share weight_v."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        rank: int,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        # torch's own layer, without memory, checks the arguments and brings them into one form
        geometry = (kernel_size, stride, padding, dilation, groups, False, padding_mode)
        plain = nn.Conv2d(in_channels, out_channels, *geometry, device="meta")  # type: ignore[arg-type]
        super().__init__(out_channels, plain.weight[0].numel(), rank, bias, device, dtype)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.padding = plain.kernel_size, plain.stride, plain.padding
        self.dilation, self.groups, self.padding_mode = plain.dilation, plain.groups, plain.padding_mode
        self._around = list(plain._reversed_padding_repeated_twice)

    @classmethod
    def like(cls, layer: nn.Conv2d, rank: int) -> LowRankConv2d:
        """Fresh factors in the place of a dense layer."""
        return cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            rank,
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            layer.weight.device,
            layer.weight.dtype,
        )

    @property
    def weight(self) -> Tensor:
        """The kernel (out, in / groups, kh, kw), for code that looks at a layer's weight."""
        kernel: Tensor = self.matrix.unflatten(1, (-1, *self.kernel_size))
        return kernel

    def forward(self, x: Tensor) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._around, mode=self.padding_mode), 0
        x = F.conv2d(x, self._basis(), None, self.stride, padding, self.dilation, self.groups)
        return F.conv2d(x, self.left[:, :, None, None], self.bias, groups=self.groups)

    def _basis(self) -> Tensor:
        """weight_v as the kernels of `rank` channels, once for every group."""
        kernels: Tensor = self.weight_v.mT.unflatten(1, (-1, *self.kernel_size))
        return kernels if self.groups == 1 else kernels.repeat(self.groups, 1, 1, 1)

    def dense(self) -> nn.Conv2d:
        """The plain layer."""
        plain = self._plain(self.out_channels, self.bias is not None)
        return filled(plain, self.exact, self.weight_u, self.bias).train(self.training)

    def pair(self) -> nn.Sequential:
        """Two plain convolutions with as few numbers: for export to what knows no other."""
        between = self.weight_v.shape[1] * self.groups
        first = filled(self._plain(between, bias=False), self._basis(), self.weight_u)
        second = empty_conv(between, self.out_channels, 1, groups=self.groups, bias=self.bias is not None)
        return nn.Sequential(first, filled(second, self.left, self.weight_u, self.bias)).train(self.training)

    def _plain(self, channels: int, bias: bool) -> nn.Conv2d:
        geometry = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups, bias, self.padding_mode)
        return empty_conv(self.in_channels, channels, *geometry)

    def extra_repr(self) -> str:
        shape = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{shape}, padding={self.padding}, groups={self.groups}, {super().extra_repr()}"
