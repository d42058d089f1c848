"""What is trained: nets, images, and how long. A course names them; they are made when a question is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from worlds import Split, images_of

from art_lowrank.training.moves import Moves


@dataclass(frozen=True)
class Course:
    """What all contenders of a comparison share. `rates` are tried; the first is what the small mode takes."""

    name: str
    dataset: str
    trained_on: int  # images; those after them are tuned on
    net: str
    epochs: int
    rates: Sequence[float]
    adam: bool = False
    padding: int = 0  # of the border from which images are cropped; they are mirrored too
    one_cycle: bool = False
    batch: int = 100

    def build(self, seed: int) -> nn.Module:
        """The untrained net; its weights follow from the seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return NETS[self.net]()

    def parts(self) -> tuple[Split, Split, Split]:
        """To train on, to tune on, to report on."""
        return parts_of(self.dataset, self.trained_on)

    def optimizer(self, model: nn.Module, rate: float) -> Optimizer:
        return Adam(model.parameters(), rate) if self.adam else SGD(model.parameters(), rate, 0.9)


@cache
def parts_of(dataset: str, train: int) -> tuple[Split, Split, Split]:
    x, y = images_of(dataset, 10_000, "train")
    return Split(x[:train], y[:train]), Split(x[train:], y[train:]), images_of(dataset, 10_000)


def moved(split: Split, batch: int, seed: int, padding: int) -> Callable[[int], object]:
    """Batches of an epoch, cropped and mirrored at random."""
    size = (split.x.shape[2], split.x.shape[3])

    def batches(epoch: int) -> object:
        draws = torch.Generator().manual_seed(1000 * seed + epoch)
        for rows in torch.randperm(len(split.x), generator=draws).split(batch):
            moves = Moves.random(len(rows), size, draws, padding, True)
            yield moves.images(split.x[rows], size), split.y[rows]

    return batches


def lenet5() -> nn.Module:
    """LeNet5 for 28 x 28, as CondLR's authors train it: 431,080 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.LeakyReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5), nn.LeakyReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 500), nn.LeakyReLU(), nn.Linear(500, 10)),
    )


def mlp(pixels: int, width: int) -> nn.Module:
    """Three linear layers without biases, so that the product bound on relative change means what it says."""
    slope = 0.1
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(pixels, width, bias=False), nn.LeakyReLU(slope)),
        *(nn.Linear(width, width, bias=False), nn.LeakyReLU(slope), nn.Linear(width, 10, bias=False)),
    )


def cnn() -> nn.Module:
    """Two strided convolutions and two linear layers for 28 x 28: 166,406 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 49, 100), nn.ReLU(), nn.Linear(100, 10)),
    )


def vgg() -> nn.Module:
    """In the manner of VGG, its first convolution of stride 2, as far as a CPU goes: no batch normalisation."""
    layers: list[nn.Module] = []
    for cin, cout, stride, pool in ((3, 32, 2, False), (32, 32, 1, True), (32, 64, 1, False), (64, 64, 1, True)):
        layers += [nn.Conv2d(cin, cout, 3, stride, 1), nn.ReLU(), *([nn.MaxPool2d(2)] if pool else [])]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 10))


def pretrained() -> nn.Module:
    """A ResNet that others trained against l_inf 4/255, to be trained on."""
    import assets

    return assets.net("cifar10_resnet3b_linf_adv").requires_grad_(True)


def of_the_demo() -> nn.Module:
    from art_lowrank.demo.digits import small_net

    return small_net()


NETS: dict[str, Callable[[], nn.Module]] = {
    "LeNet5": lenet5,
    "MLP": lambda: mlp(784, 200),
    "CNN": cnn,
    "VGG": vgg,
    "ResNet3B": pretrained,
    "small CNN": of_the_demo,
    "small MLP": lambda: mlp(64, 48),
}
COURSES = {
    course.name: course
    for course in (
        Course("lenet5", "mnist", 8000, "LeNet5", 8, (0.04, 0.025, 0.063)),
        Course("mlp", "mnist", 8000, "MLP", 8, (0.04, 0.025, 0.063)),
        Course("cnn, l2 2.0", "mnist", 8000, "CNN", 8, (0.016, 0.008), adam=True, one_cycle=True),
        Course("vgg", "cifar10", 7000, "VGG", 12, (0.05,), padding=2),
        Course("resnet3b, l2 0.5", "cifar10", 7000, "ResNet3B", 4, (0.02,), padding=4, one_cycle=True),
        Course("digits", "digits", 1000, "small CNN", 12, (0.04, 0.025)),
        Course("digits mlp", "digits", 1000, "small MLP", 12, (0.04, 0.025)),
        Course("digits, l2 0.5", "digits", 1000, "small CNN", 15, (0.006,), adam=True, one_cycle=True),
    )
}
