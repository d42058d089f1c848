"""What every singular direction of a layer carries: squared singular values of W, or of W C^(1/2) on real inputs.

C is the covariance of the layer's inputs. Their mean is left out: what it adds to the output is the same for every
image, and the bias can do that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Plain = nn.Linear | nn.Conv2d
PATCHES = 4096  # of a batch's input to a convolution; more say little new of a second moment


@torch.no_grad()
def energies(layers: Mapping[str, Plain], model: nn.Module, data: Iterable[object] | None) -> dict[str, Tensor]:
    """Squared singular values, falling, by layer.

    With data they are those of W C^(1/2): what a rank is worth to the layer's output, not to the weight alone.
    """
    if data is None:
        return {name: torch.linalg.svdvals(_matrix(layer)).square() for name, layer in layers.items()}
    covariances = input_covariances(layers, model, data)
    found = {}
    for name, layer in layers.items():
        matrix = _matrix(layer)
        small = min(matrix.shape)
        values = torch.linalg.eigvalsh(matrix @ covariances[name] @ matrix.mT).clamp_min(0).flip(0)
        found[name] = values[:small]
    return found


def input_covariances(layers: Mapping[str, Plain], model: nn.Module, data: Iterable[object]) -> dict[str, Tensor]:
    """The covariance of a layer's inputs, rows of a linear layer, patches of a convolution, in float64."""
    totals: dict[str, Tensor] = {}  # sums of x x^T for inputs x with a 1 in the end, which counts and sums them too

    def listen(name: str, layer: Plain) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs_of(layer, inputs[0].detach()).double()
            rows = F.pad(rows, (0, 1), value=1.0)
            totals[name] = rows.mT @ rows + totals.get(name, 0)

        stack.callback(layer.register_forward_pre_hook(hook).remove)

    with ExitStack() as stack, _still(model):
        for name, layer in layers.items():
            listen(name, layer)
        for images in batches(data, model):
            model(images)
    if silent := [name for name in layers if name not in totals]:
        raise ValueError(
            f"the model did not use layer {silent[0]!r} on the data given; add it to skip, or leave data out"
        )
    return {name: _covariance(total) for name, total in totals.items()}


def _covariance(total: Tensor) -> Tensor:
    mean = total[:-1, -1] / total[-1, -1]
    return total[:-1, :-1] / total[-1, -1] - torch.outer(mean, mean)


def inputs_of(layer: Plain, x: Tensor) -> Tensor:
    """What multiplies the layer's matrix, one row each: (rows, n)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    around = list(layer._reversed_padding_repeated_twice)
    padded = F.pad(x, around, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    patches = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    rows = patches.mT.reshape(-1, layer.weight[0].numel())  # all groups share one factor: their patches are rows alike
    return rows if len(rows) <= PATCHES else rows[:: -(-len(rows) // PATCHES)]


def batches(data: Iterable[object], model: nn.Module) -> Iterator[Tensor]:
    """Images on the model's device: from one tensor, or from batches that are tensors or begin with one."""
    place = next(model.parameters())
    for batch in data.split(128) if isinstance(data, Tensor) else data:
        images = batch[0] if isinstance(batch, tuple | list) else batch
        if not isinstance(images, Tensor):
            kind = type(images).__name__
            raise ValueError(
                f"data holds {kind}; give a tensor of images, or batches that are tensors or (images, labels)"
            )
        yield images.to(place.device, place.dtype)


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and the global random state, both as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng(devices=[]):
        try:
            model.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def _matrix(layer: Plain) -> Tensor:
    return layer.weight.detach().flatten(1).double()
