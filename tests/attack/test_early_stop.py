"""Broken images leave the batch, and what was spent is counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from art_lowrank import lowrank_pgd


class Counting(nn.Module):
    """Counts the images of every forward, and of every forward whose input wants a gradient."""

    def __init__(self, net):
        super().__init__()
        self.net, self.forwards, self.gradients, self.margins = net, 0, 0, []

    def forward(self, x):
        self.forwards += len(x)
        self.gradients += len(x) if x.requires_grad else 0
        logits = self.net(x)
        self.margins.append(logits.detach())
        return logits


@pytest.mark.parametrize("options", [{"rank": 2}, {"rank": "full"}, {"rank": 2, "method": "paper"}], ids=str)
def test_gradients_are_the_first_breaking_step(digits_net, test_digits, options):
    x, y = test_digits
    steps, attack = 8, {"eps": 0.6, "steps": 8, **options}
    plain = Counting(digits_net)
    lowrank_pgd(plain, x, y, **attack)
    broken = torch.stack([logits.argmax(1) != y for logits in plain.margins])  # (steps + 1, n)
    first = torch.where(broken.any(0), broken.int().argmax(0) + 1, steps + 1)  # step 1 sees the image itself

    counted = Counting(digits_net)
    stopped = lowrank_pgd(counted, x, y, early_stop=True, **attack)
    assert torch.equal(stopped.queries.gradients, first.clamp(max=steps))
    assert torch.equal(stopped.queries.forwards, first)
    assert counted.gradients == int(stopped.queries.gradients.sum())
    assert counted.forwards == int(stopped.queries.forwards.sum())
    assert torch.equal(stopped.success, broken.any(0))  # also where the published method's last iterate is none
    assert counted.gradients < 0.8 * steps * len(x)


def test_plain_counts(digits_net, test_digits):
    x, y = test_digits
    counted = Counting(digits_net)
    result = lowrank_pgd(counted, x, y, eps=0.3, steps=5, restarts=2)
    assert (result.queries.gradients == 10).all()
    assert (result.queries.forwards == 12).all()
    assert counted.gradients == 10 * len(x)
    assert counted.forwards == 12 * len(x)


def test_only_survivors_are_restarted(digits_net, test_digits):
    x, y = test_digits
    result = lowrank_pgd(digits_net, x, y, eps=0.5, rank=1, steps=4, restarts=3, early_stop=True)
    assert (result.queries.gradients[~result.success] == 12).all()
    assert (result.queries.gradients[result.success] < 12).any()


def test_all_broken_at_once_needs_one_step(digits_net, test_digits):
    x, y = test_digits
    result = lowrank_pgd(digits_net, x, (y + 5) % 10, eps=0.5, early_stop=True)
    wrong = digits_net(x).argmax(1) != (y + 5) % 10
    assert torch.equal(result.x[wrong], x[wrong])
    assert (result.queries.gradients[wrong] == 1).all()


def test_off_where_batch_norm_sees_the_batch(colour_net, colour_images):
    """A callable is used as it is; its user says what it depends on through `batch_bound` of `run`."""
    from art_lowrank.attack.lowrank import run
    from art_lowrank.attack.options import Options
    from art_lowrank.attack.oracle import ModelOracle, sees_batch

    x, y = colour_images
    assert not sees_batch(colour_net)
    colour_net[1].train()
    assert sees_batch(colour_net)
    result = run(ModelOracle(colour_net), x, y, Options(eps=3.0, early_stop=True, steps=4), batch_bound=True)
    assert (result.queries.gradients == 4).all()


def test_off_for_batch_norm_without_running_statistics(colour_images):
    x, y = colour_images
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    net = nn.Sequential(norm, nn.Flatten(), nn.Linear(360, 5)).eval()
    assert (lowrank_pgd(net, x, y, eps=3.0, early_stop=True, steps=4).queries.gradients == 4).all()
