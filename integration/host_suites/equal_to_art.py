"""`LowRankPGD(rank="full", loss="estimator", eps_step=...)` against the three implementations of ART's PGD, to 1e-6.

Every net is small and has random weights. An implementation whose framework is absent is left out, with the reason.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier, TensorFlowV2Classifier
from art.estimators.classification.scikitlearn import ScikitlearnLogisticRegression
from sklearn.linear_model import LogisticRegression
from torch import nn

from art_lowrank import LowRankPGD

IMAGES, CLASSES, TOLERANCE = 12, 5, 1e-6
COMMON = {"max_iter": 7, "batch_size": 5, "verbose": False}


class Subject(NamedTuple):
    """An estimator, the shape of a sample, the class ART attacks it with, and what our attack has to be told."""

    estimator: Any
    sample: tuple[int, ...]
    implementation: str
    settings: dict[str, Any]


def pytorch() -> Subject:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, CLASSES))
    estimator = PyTorchClassifier(
        net, nn.CrossEntropyLoss(), input_shape=(3, 8, 8), nb_classes=CLASSES, clip_values=(0.0, 1.0), device_type="cpu"
    )
    return Subject(estimator, (3, 8, 8), "ProjectedGradientDescentPyTorch", {})


def tensorflow() -> Subject:
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    net = tf.keras.Sequential(
        [layers.Input((8, 8, 3)), layers.Conv2D(8, 3, activation="tanh"), layers.Flatten(), layers.Dense(CLASSES)]
    )
    estimator = TensorFlowV2Classifier(
        net,
        nb_classes=CLASSES,
        input_shape=(8, 8, 3),
        loss_object=tf.keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )
    return Subject(estimator, (8, 8, 3), "ProjectedGradientDescentTensorFlowV2", {})


def numpy() -> Subject:
    """One layer is all the net that scikit-learn differentiates; flat rows, which ours is told to read as images."""
    draw = np.random.default_rng(0)
    model = LogisticRegression().fit(draw.random((CLASSES, 48)), np.arange(CLASSES))
    model.coef_, model.intercept_ = draw.normal(size=(CLASSES, 48)), draw.normal(size=CLASSES)
    estimator = ScikitlearnLogisticRegression(model, clip_values=(0.0, 1.0))
    return Subject(estimator, (48,), "ProjectedGradientDescentNumpy", {"image_shape": (3, 4, 4)})


# implementation, the module it needs
SUBJECTS: dict[Callable[[], Subject], str] = {pytorch: "torch", tensorflow: "tensorflow", numpy: "sklearn"}


def distance(subject: Subject, norm: float, targeted: bool, masked: bool, decay: float | None) -> float:
    """Largest difference of a pixel between ART's adversarial images and ours."""
    draw = np.random.default_rng(1)
    x = draw.random((IMAGES, *subject.sample)).astype(np.float32)
    y = draw.integers(CLASSES, size=IMAGES)
    mask = (draw.random(x.shape) < 0.5).astype(np.float32) if masked else None
    eps, step = (0.8, 0.25) if norm == 2 else (0.1, 0.03)  # the ball is reached, and so is the box
    settings: dict[str, Any] = {
        "norm": norm,
        "eps": eps,
        "eps_step": step,
        "targeted": targeted,
        "decay": decay,
        **COMMON,
    }
    theirs = ProjectedGradientDescent(subject.estimator, **settings)
    found = theirs.generate(x, y, mask=mask)
    if (used := type(theirs._attack).__name__) != subject.implementation:
        raise SystemExit(f"ART attacks with {used}, not {subject.implementation}; this script has to be adapted")
    if not (np.linalg.norm((found - x).reshape(IMAGES, -1), norm, axis=1) > step).all():
        raise SystemExit(f"{used} hardly moved the images; this script compares nothing")
    ours = LowRankPGD(subject.estimator, rank="full", loss="estimator", **settings, **subject.settings)
    return float(np.abs(ours.generate(x, y, mask=mask) - found).max())


def compared(subject: Subject) -> Iterator[bool]:
    """Whether the two are equal, for every setting, each on a line."""
    for norm, targeted, masked, decay in product((2, np.inf), (False, True), (False, True), (None, 0.9)):
        what = f"{subject.implementation} norm={norm} targeted={targeted} mask={masked} decay={decay}"
        try:
            off = distance(subject, norm, targeted, masked, decay)
        except NotImplementedError as error:  # of ART, whose TensorFlow PGD has no momentum
            print(f"skipped  {what}: {error}")
            continue
        except ValueError as error:
            print(f"REFUSED  {what}: {error}")
            yield False
            continue
        print(f"{'equal' if off <= TOLERANCE else 'UNEQUAL':<8} {what}: {off:.1e}")
        yield off <= TOLERANCE


def main() -> int:
    results = []
    for subject, module in SUBJECTS.items():
        if find_spec(module) is None:
            print(f"skipped  {subject.__name__}: {module} is not installed")
        else:
            results += compared(subject())
    print(f"{sum(results)} of {len(results)} equal to {TOLERANCE}")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning)
    sys.exit(main())
