"""A low-rank convolution by im2col, from its definition: the other side of the timing of two convolutions."""

from __future__ import annotations

import torch
from condlr import CondConv2d
from torch import Tensor
from torch.nn.functional import unfold


class UnfoldConv2d(CondConv2d):
    """U (S (V^T X)) + b on the matrix X of all patches, its columns; arguments and parameters of `CondConv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        patches = unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)  # (batch, m, places)
        y = self.u @ (self.s @ (self.v.mT @ patches))
        if self.bias is not None:
            y = y + self.bias[:, None]
        return y.unflatten(-1, self.places(x))

    def places(self, x: Tensor) -> torch.Size:
        """Height and width of the output: at how many places the kernel fits."""
        sides = zip(x.shape[-2:], self.kernel_size, self.stride, self.padding, strict=True)
        return torch.Size((size + 2 * pad - kernel) // step + 1 for size, kernel, step, pad in sides)
