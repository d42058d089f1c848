"""The watch over catastrophic overfitting: a gap that is known, a warning, and two steps from then on."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch import nn

from art_lowrank.training import Objective, PerturbationStore, WarmStart, overfitting
from art_lowrank.training.learner import Learner
from art_lowrank.training.loop import Course, shuffled, train
from art_lowrank.training.overfitting import Watch
from art_lowrank.training.warm_start import Warm

EPS = 0.1
X, Y = torch.full((40, 1, 6, 6), 0.5), torch.zeros(40, dtype=torch.long)


class Dip(nn.Module):
    """Right where the image's gradient leads, wrong at the other end of the ball, where the second step leads."""

    def __init__(self, share=1.0):
        super().__init__()
        self.share = share
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        t = (x - 0.5).mean((1, 2, 3)) / EPS
        margin = 0.2 - 0.1 * t + 0.5 * t**3
        safe = torch.arange(len(x)) >= self.share * len(x)
        margin = torch.where(safe, margin.abs() + 1, margin)
        return torch.stack([margin, torch.zeros_like(margin)], 1) * self.weight


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_gap_is_the_share_of_images_that_one_step_misses(share):
    assert overfitting(Dip(share), X, Y, eps=EPS, norm="inf") == pytest.approx(share)


def test_a_net_that_stands_still_has_no_gap():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    assert overfitting(model, X, Y, eps=EPS) == 0.0


def test_while_the_radius_rises_the_watch_stays_within_it():
    seen = []

    def logits(x):
        seen.append(float((x.detach() - 0.5).abs().max()))
        return x.flatten(1)[:, :2] * torch.tensor([1.0, -1.0])

    watch = Watch(X, Y, EPS, "inf", ramp=4.0)
    for epochs, radius in ((1, EPS / 4), (3, 3 * EPS / 4), (9, EPS)):
        seen.clear()
        watch(nn.Linear(1, 1), logits, epochs)
        assert max(seen) == pytest.approx(radius, rel=1e-4)


def trained(watch, steps=1, epochs=3):
    model, gradients = Dip(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.0)

    def logits(x):
        gradients.append(int(x.requires_grad))
        return model(x)

    warm = Warm(PerturbationStore(len(X), (1, 6, 6), 1), EPS, "inf", WarmStart(1, steps=steps))
    learner = Learner(model, logits, optimizer, Objective("madry", warm), watch=watch)
    counted = []

    def batches(epoch):
        counted.append(sum(gradients))
        return shuffled(X, Y, 20, 0, torch.device("cpu"))(epoch)

    history = train(learner, batches, Course(epochs, verbose=False))
    counted.append(sum(gradients))
    return history, [after - before for before, after in itertools.pairwise(counted)]


@pytest.mark.filterwarnings("ignore:catastrophic")
def test_two_steps_are_taken_after_the_first_alarm_if_wanted():
    """Two batches an epoch; the watch itself takes 1 + 10 gradients."""
    watch = Watch(X, Y, EPS, "inf", fall_back=True)
    history, gradients = trained(watch)
    assert [epoch["overfit"] for epoch in history] == [1.0, 1.0, 1.0]
    assert gradients == [2 + 11, 4 + 11, 4 + 11]
    assert trained(Watch(X, Y, EPS, "inf"))[1] == [2 + 11] * 3
    assert trained(watch, steps=3)[1] == [6 + 11] * 3  # never fewer


def test_the_alarm_is_one_line_with_both_numbers():
    with pytest.warns(UserWarning, match="overfitting: 100 points more .limit 40. of 40 images") as caught:
        trained(Watch(X, Y, EPS, "inf"), epochs=1)
    assert "\n" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(Watch(X, Y, EPS, "inf", limit=1.0), epochs=1)
