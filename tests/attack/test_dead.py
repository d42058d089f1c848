"""An image that the attack could not judge is said to be so, never returned silently as robust."""

from __future__ import annotations

import pytest
import torch

from art_lowrank import lowrank_pgd


def warned(net, x, y, **options):
    with pytest.warns(UserWarning, match="do not count them as robust") as record:
        result = lowrank_pgd(net, x, y, eps=0.5, **options)
    assert len(record) == 1
    return result, str(record[0].message)


def test_healthy_nets_do_not_warn(digits_net, test_digits, recwarn):
    result = lowrank_pgd(digits_net, *test_digits, eps=0.5)
    assert not result.dead.any()
    assert not recwarn


@pytest.mark.parametrize("method", ["power", "paper"])
@pytest.mark.parametrize("rank", [1, "full"])
def test_constant_model(test_digits, method, rank):
    x, _ = test_digits
    y = torch.zeros(len(x)).long()
    logits = torch.tensor([1.0, 0.0, 0.0])
    result, message = warned(lambda images: logits.expand(len(images), 3), x, y, method=method, rank=rank)
    assert result.dead.all()
    assert torch.equal(result.x, x)
    assert "100 of 100" in message


def test_saturated_cross_entropy_is_seen_and_the_margin_still_works(digits_net, test_digits):
    x, y = test_digits
    steep = lambda images: 1e5 * digits_net(images)  # noqa: E731
    result, _ = warned(steep, x, y, loss="ce")
    right = digits_net(x).argmax(1) == y
    assert torch.equal(result.dead, right & ~result.success)
    assert result.dead.any()
    fine = lowrank_pgd(steep, x, y, eps=0.5)
    assert not fine.dead.any()
    assert fine.success.sum() > result.success.sum()


def test_nan_logits(digits_net, test_digits):
    x, y = test_digits

    def sick(images):
        logits = digits_net(images)
        logits[::2] = torch.nan
        return logits

    assert warned(sick, x, y, steps=0)[0].dead[::2].all()
    result, _ = warned(sick, x, y)
    assert result.dead[::2].all()
    assert not result.success[::2].any()
    assert torch.isfinite(result.x).all()
    healthy = lowrank_pgd(digits_net, x[1::2], y[1::2], eps=0.5)
    torch.testing.assert_close(result.x[1::2], healthy.x, atol=1e-5, rtol=0)


def test_nan_gradients_leave_the_others_alone(digits_net, test_digits):
    x, y = (values[digits_net(test_digits.x).argmax(1) == test_digits.y] for values in test_digits)

    class SickBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images):
            return images.clone()

        @staticmethod
        def backward(ctx, gradient):
            return torch.cat([gradient[:-1], torch.full_like(gradient[-1:], torch.nan)])

    result, message = warned(lambda images: digits_net(SickBackward.apply(images)), x[:5], y[:5], rank=2)
    assert result.dead.tolist() == [False] * 4 + [True]
    assert torch.equal(result.x[4], x[4])
    assert "1 of 5" in message


def test_probabilities_are_noticed_and_attacked_as_logits(digits_net, test_digits):
    x, y = test_digits
    plain = lowrank_pgd(digits_net, x, y, eps=0.5, rank=2)
    result, _ = warned(lambda images: digits_net(images).softmax(1), x, y, rank=2)
    assert torch.equal(result.dead, ~result.success)
    assert abs(int(result.success.sum()) - int(plain.success.sum())) <= 1


def test_an_image_that_wakes_up_is_attacked(digits_net, test_digits):
    """Zero gradients at first (cross-entropy of a steep net) must not lose the sketch: the factors are kept."""
    x, y = test_digits
    calls = []

    def asleep(images):
        calls.append(1)
        return digits_net(images) if len(calls) > 1 else digits_net(images).detach() + 0 * images.sum()

    with pytest.warns(UserWarning, match="not broken"):
        result = lowrank_pgd(asleep, x, y, eps=0.7, rank=2)
    plain = lowrank_pgd(digits_net, x, y, eps=0.7, rank=2)
    assert result.success.sum() >= 0.9 * plain.success.sum()
