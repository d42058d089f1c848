"""What every singular direction of a layer carries: squared singular values of W, or of W C^(1/2) on real inputs.

C is the covariance of the layer's inputs. Their mean is left out: what it adds to the output is the same for every
image, and the bias can do that. Since W C W^T is the covariance of the outputs, it is the outputs that are watched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Plain = nn.Linear | nn.Conv2d
ROWS = 4096  # outputs of a layer that count in every batch; more say little new of a covariance


@torch.no_grad()
def energies(layers: Mapping[str, Plain], model: nn.Module, data: Iterable[object] | None) -> dict[str, Tensor]:
    """Squared singular values, falling, by layer: of the weight, or with data of W C^(1/2).

    The latter say what a rank is worth to the layer's output, not to the weight alone.
    """
    if data is None:
        return {n: torch.linalg.svdvals(layer.weight.flatten(1).double()).square() for n, layer in layers.items()}
    covariances = output_covariances(layers, model, data)
    values = {name: torch.linalg.eigvalsh(matrix).clamp_min(0).flip(0) for name, matrix in covariances.items()}
    return {name: values[name][: layer.weight[0].numel()] for name, layer in layers.items()}


def output_covariances(layers: Mapping[str, Plain], model: nn.Module, data: Iterable[object]) -> dict[str, Tensor]:
    """The covariance of every layer's outputs over images and places, (m, m) in float64."""
    means: dict[str, Tensor] = {}
    totals: dict[str, Tensor] = {}  # sums of z z^T for outputs z with a 1 in the end, which counts and sums them too

    def listen(name: str, layer: Plain) -> None:
        def hook(_: nn.Module, inputs: object, output: Tensor) -> None:
            seen = rows_of(layer, output)
            near = means.setdefault(name, seen.mean(0))  # a large mean would cost the covariance its digits
            rows = F.pad(seen - near, (0, 1), value=1.0)
            if not torch.isfinite(rows).all():
                raise ValueError(f"layer {name!r} returns NaN or infinity on the data given; check data and weights")
            totals[name] = (rows.mT @ rows).double() + totals.get(name, 0)

        stack.callback(layer.register_forward_hook(hook).remove)

    with ExitStack() as stack, _still(model):
        for name, layer in layers.items():
            listen(name, layer)
        for images in batches(data, model):
            model(images)
    if silent := [name for name in layers if name not in totals or not totals[name][-1, -1]]:
        raise ValueError(
            f"the model did not use layer {silent[0]!r} on the data given; add it to skip, or leave data out"
        )
    return {name: _covariance(total) for name, total in totals.items()}


def rows_of(layer: Plain, output: Tensor) -> Tensor:
    """The outputs of a layer, one row for every image and place, or a sample of them; in float32 or wider."""
    places = output.movedim(-3, -1) if isinstance(layer, nn.Conv2d) else output
    rows = places.reshape(-1, places.shape[-1])
    if len(rows) > ROWS:  # at random: every so many rows would be the same few columns of every image
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:ROWS].to(rows.device)]
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


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
        yield images.to(place.device, place.dtype if images.is_floating_point() else None)


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and the global random state, both as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.random.fork_rng(devices=[]):
        try:
            torch.backends.mha.set_fastpath_enabled(False)  # torch 2.4's passes by the hooks of a transformer's layers
            model.eval()
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module, mode in modes:
                module.training = mode


def _covariance(total: Tensor) -> Tensor:
    mean = total[:-1, -1] / total[-1, -1]
    return total[:-1, :-1] / total[-1, -1] - torch.outer(mean, mean)
