"""The nets and images that claims are measured on: real ones of a folder, or the digits that come with the package.

A world only names its nets; they are loaded when a question about them is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import from_others  # noqa: F401  the folders that assets and squeezenet lie in
from torch import Tensor, nn

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)  # of full rank, as LoRa-PGD's authors have it: 3, 6, 10, 13, 16 of 32
SQUEEZENET, CROP = "imagenet_squeezenet10", 227


@dataclass(frozen=True)
class Subject:
    """A net and how it was trained; `eps` is the l2 radius its data are attacked with."""

    name: str
    training: str
    eps: float
    side: int
    slow: bool = False
    images: int = 1000

    @property
    def dataset(self) -> str:
        return self.name.split("_")[0]

    @property
    def short(self) -> str:
        return self.name.removeprefix("cifar10_").removesuffix("_adv")

    @property
    def ranks(self) -> tuple[int, ...]:
        """A tenth to a half of full rank."""
        return tuple(dict.fromkeys(max(1, round(share * self.side)) for share in SHARES))

    def data(self, n: int, split: str = "test") -> str:
        return f"{self.dataset}-{split}[:{n}]"


@dataclass(frozen=True)
class World:
    """What is attacked. `attacked` are the nets of the big tables; `teacher` gives another net's starts."""

    name: str
    subjects: Mapping[str, Subject]
    attacked: Sequence[str]
    teachers: Mapping[str, str]


def cifar(name: str, training: str, slow: bool = False) -> Subject:
    return Subject(f"cifar10_{name}", training, 0.5, 32, slow)


def mnist(name: str, training: str) -> Subject:
    return Subject(f"mnist_{name}", training, 2.0, 28)


REAL = (
    cifar("resnet20_standard", "standard", slow=True),
    cifar("resnet56_standard", "standard", slow=True),
    cifar("resnet3b_linf_adv", "l_inf adversarial 4/255, mixup"),
    cifar("resnet4b_linf_adv", "l_inf adversarial 2/255"),
    cifar("vit2_linf_adv", "l_inf adversarial 2/255, ViT"),
    cifar("cnn_mmr_universal", "certified for l1, l2 and l_inf"),
    cifar("cnn_l2_certified", "certified for l2 36/255"),
    mnist("lenet5_standard", "standard"),
    mnist("lenet5_linf_adv", "l_inf adversarial 0.3"),
    mnist("cnn_linf_adv", "l_inf adversarial"),
    mnist("cnn_mmr_universal", "certified for l1, l2 and l_inf"),
    Subject(SQUEEZENET, "standard, pruned", 0.5, CROP, slow=True, images=40),
)
BUILT_IN = (
    Subject("digits_standard", "standard", 0.5, 8, images=500),
    Subject("digits_adversarial", "l2 adversarial 0.5", 0.5, 8, images=500),
    Subject("digits_low-rank", "l2 adversarial 0.5, low rank", 0.5, 8, images=500),
)
WORLDS = {
    "assets": World(
        "assets",
        {subject.name: subject for subject in REAL},
        ("cifar10_resnet20_standard", "cifar10_resnet4b_linf_adv", "cifar10_cnn_l2_certified",
         "cifar10_resnet3b_linf_adv", "cifar10_vit2_linf_adv"),
        {"cifar10": "cifar10_resnet20_standard", "cifar10_resnet20_standard": "cifar10_resnet56_standard"},
    ),
    "digits": World(
        "digits",
        {subject.name: subject for subject in BUILT_IN},
        tuple(subject.name for subject in BUILT_IN),
        {"digits": "digits_standard", "digits_standard": "digits_adversarial"},
    ),
}  # fmt: skip


class Split(NamedTuple):
    """Images in [0, 1] and their class numbers."""

    x: Tensor
    y: Tensor


@cache
def model_of(name: str) -> nn.Module:
    """The net, in evaluation mode and frozen: it takes pixels in [0, 1] and returns logits."""
    if name.startswith("digits_"):
        from art_lowrank.demo.nets import built_in

        return built_in(name.removeprefix("digits_")).requires_grad_(False)
    import assets

    if name == SQUEEZENET:
        from squeezenet import squeezenet

        return squeezenet()
    return assets.net(name)


def images_of(dataset: str, n: int, split: str = "test") -> Split:
    """The first n images of a split."""
    if dataset == "digits":
        from art_lowrank.demo.digits import digits

        part = digits()[split == "test"]
        return Split(part.x[:n], part.y[:n])
    import assets

    if dataset == "imagenet":
        from squeezenet import imagenet

        return Split(*(part[:n] for part in imagenet(CROP)))
    return Split(*assets.zoo().images(dataset, split, n))


def world_of(name: str) -> World:
    """The world that has the net."""
    return next(world for world in WORLDS.values() if name in world.subjects)


def subject_of(name: str) -> Subject:
    return world_of(name).subjects[name]


def teacher_of(name: str) -> nn.Module:
    """The ordinary net whose perturbations are transferred; for that net itself another one."""
    teachers = world_of(name).teachers
    return model_of(teachers.get(name, teachers[subject_of(name).dataset]))
