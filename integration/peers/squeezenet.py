"""SqueezeNet 1.0 for the assets' weights, which have no builder in their loader: real images of real size."""

from __future__ import annotations

import numpy as np
import torch
from assets import folder
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

FIRES = {  # channels in, squeezed, of each of the two expansions
    "fire2": (96, 16, 64),
    "fire3": (128, 16, 64),
    "fire4": (128, 32, 128),
    "fire5": (256, 32, 128),
    "fire6": (256, 48, 192),
    "fire7": (384, 48, 192),
    "fire8": (384, 64, 256),
    "fire9": (512, 64, 256),
}
POOLED_BEFORE = ("fire2", "fire5", "fire9")
MEANS_BGR = (104.0, 117.0, 123.0)
NAME = "imagenet_squeezenet10"


class Fire(nn.Module):
    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.squeeze1x1(x))
        return torch.cat([relu(self.expand1x1(x)), relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """RGB pixels in [0, 1] to logits."""

    means: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2)
        for name, widths in FIRES.items():
            setattr(self, name, Fire(*widths))
        self.conv10 = nn.Conv2d(512, 1000, 1, padding=1)
        self.register_buffer("means", torch.tensor(MEANS_BGR).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.conv1(255 * x.flip(1) - self.means))
        for name in FIRES:
            if name in POOLED_BEFORE:
                x = max_pool2d(x, 3, 2, ceil_mode=True)
            x = getattr(self, name)(x)
        logits: Tensor = relu(self.conv10(x)).mean((2, 3))
        return logits


def squeezenet() -> nn.Module:
    model = SqueezeNet()
    model.load_state_dict(load_file(folder() / f"{NAME}.safetensors"))
    return model.eval().requires_grad_(False)


def imagenet(size: int) -> tuple[Tensor, Tensor]:
    """The 40 sample images, cropped at their centres, and their labels."""
    with np.load(folder() / "imagenet_samples.npz", allow_pickle=False) as data:
        images, y = torch.from_numpy(data["images"]), torch.from_numpy(data["labels"])
    start = (images.shape[1] - size) // 2
    cropped = images[:, start : start + size, start : start + size].permute(0, 3, 1, 2)
    return (cropped.float() / 255).contiguous(), y


if __name__ == "__main__":
    x, y = imagenet(227)
    with torch.no_grad():
        print(f"{int((squeezenet()(x).argmax(1) == y).sum())} of {len(y)} right; the assets' page says 21")
