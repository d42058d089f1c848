"""LoRaPGD keeps the contract of torchattacks 3.5.1 and agrees with the plain function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

torchattacks = pytest.importorskip("torchattacks", reason="the extra art-lowrank[torchattacks] is not installed")

from art_lowrank import LoRaPGD, LowRankPGD, lowrank_pgd  # noqa: E402

SETTINGS = {"eps": 0.6, "rank": 2, "steps": 8}


def lengths(delta):
    return delta.double().flatten(1).norm(dim=1)


@pytest.mark.parametrize(
    "options", [{}, {"method": "paper"}, {"rank": "full", "alpha": 0.1}, {"early_stop": True}], ids=str
)
def test_three_entry_points_give_the_same_images(digits_net, classifier, test_digits, options):
    x, y = test_digits
    named = {**SETTINGS, **options}
    alpha, steps = named.pop("alpha", None), named.pop("steps")
    images = LoRaPGD(digits_net, **SETTINGS | options)(x, y)
    plain = lowrank_pgd(digits_net, x, y, steps=steps, step_size=alpha, **named).x
    art = LowRankPGD(classifier, max_iter=steps, eps_step=alpha, verbose=False, **named).generate(x.numpy(), y.numpy())
    torch.testing.assert_close(images, plain, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.from_numpy(art), plain, atol=1e-4, rtol=0)


def test_defaults_agree_too(digits_net, classifier, test_digits):
    x, y = test_digits
    images = LoRaPGD(digits_net)(x, y)
    torch.testing.assert_close(images, lowrank_pgd(digits_net, x, y, eps=0.5).x, atol=1e-4, rtol=0)
    art = LowRankPGD(classifier, verbose=False).generate(x.numpy(), y.numpy())
    torch.testing.assert_close(images, torch.from_numpy(art), atol=1e-4, rtol=0)


def test_targeted_modes(digits_net, test_digits):
    x, y = test_digits
    attack = LoRaPGD(digits_net, eps=2.0, rank=4)
    target = (y + 3) % 10
    attack.set_mode_targeted_by_label(quiet=True)
    assert (digits_net(attack(x, target)).argmax(1) == target).float().mean() > 0.9
    attack.set_mode_targeted_by_function(lambda images, labels: (labels + 3) % 10, quiet=True)
    assert torch.equal(attack(x, y), LoRaPGD.__call__(_by_label(digits_net), x, target))
    attack.set_mode_targeted_least_likely(kth_min=2, quiet=True)
    assert (digits_net(attack(x, y)).argmax(1) == y).float().mean() < 0.1
    attack.set_mode_targeted_random(quiet=True)
    assert attack(x, y).shape == x.shape
    attack.set_mode_default()
    torch.testing.assert_close(attack(x, y), LoRaPGD(digits_net, eps=2.0, rank=4)(x, y))


def _by_label(net):
    attack = LoRaPGD(net, eps=2.0, rank=4)
    attack.set_mode_targeted_by_label(quiet=True)
    return attack


class Normalised(nn.Module):
    """A net whose inputs are already (x - 0.3) / 0.5."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x * 0.5 + 0.3)


def test_normalised_inputs(digits_net, test_digits):
    x, y = test_digits
    attack = LoRaPGD(Normalised(digits_net), **SETTINGS)
    attack.set_normalization_used(mean=[0.3], std=[0.5])
    found = attack((x - 0.3) / 0.5, y) * 0.5 + 0.3
    torch.testing.assert_close(found, LoRaPGD(digits_net, **SETTINGS)(x, y), atol=1e-4, rtol=0)


def test_attacked_keeps_the_contract_too(digits_net, test_digits):
    x, y = test_digits
    net = Normalised(digits_net).train()
    attack = LoRaPGD(net, **SETTINGS)
    attack.set_normalization_used(mean=[0.3], std=[0.5])
    found = attack.attacked((x - 0.3) / 0.5, y)
    assert torch.equal(found.x, attack((x - 0.3) / 0.5, y))
    assert net.training
    assert found.factors.rank == 2


def test_state_comes_back_after_an_exception(digits_net, test_digits):
    x, y = test_digits

    class Fragile(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.dropout, self.broken = Normalised(digits_net), nn.Dropout(), True

        def forward(self, images):
            if self.broken:
                raise RuntimeError("out of order")
            return self.net(images)

    net = Fragile().train()
    net.dropout.eval()
    attack = LoRaPGD(net, **SETTINGS)
    attack.set_normalization_used(mean=[0.3], std=[0.5])
    with pytest.raises(RuntimeError, match="out of order"):
        attack((x - 0.3) / 0.5, y)
    assert attack._normalization_applied is True
    assert net.training
    assert not net.dropout.training
    net.broken = False
    found = attack((x - 0.3) / 0.5, y) * 0.5 + 0.3
    torch.testing.assert_close(found, LoRaPGD(digits_net, **SETTINGS)(x, y), atol=1e-4, rtol=0)
    assert net.training
    assert not net.dropout.training


def test_save_and_load(digits_net, test_digits, tmp_path):
    x, y = test_digits
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=40)
    attack = LoRaPGD(digits_net, **SETTINGS)
    attack.save(loader, save_path=tmp_path / "adversarial.pt", verbose=False)
    loaded = torch.cat([images for images, _ in attack.load(tmp_path / "adversarial.pt")])
    torch.testing.assert_close(loaded, attack(x, y), atol=1e-5, rtol=0)


def test_inside_multiattack_and_lgv(digits_net, test_digits):
    x, y = test_digits
    low, high = LoRaPGD(digits_net, **SETTINGS), torchattacks.PGDL2(digits_net, eps=0.6, alpha=0.1, steps=8)
    union = torchattacks.MultiAttack([low, high])(x, y)
    broken = [digits_net(images).argmax(1) != y for images in (union, low(x, y))]
    assert (broken[0] | ~broken[1]).all()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=50)
    lgv = torchattacks.LGV(
        digits_net,
        loader,
        lr=0.01,
        epochs=1,
        nb_models_epoch=1,
        wd=0,
        attack_class=LoRaPGD,
        eps=0.6,
        rank=2,
        steps=4,
        verbose=False,
    )
    assert (lengths(lgv(x, y) - x) <= 0.6 * (1 + 1e-5)).all()


def test_eps_may_change_later_and_be_one_an_image(digits_net, test_digits):
    x, y = test_digits
    attack = LoRaPGD(digits_net, **SETTINGS)
    attack.eps = 0.2
    assert (lengths(attack(x, y) - x) <= 0.2 * (1 + 1e-6)).all()
    attack.eps = torch.linspace(0.1, 0.5, len(x))
    assert (lengths(attack(x, y) - x) <= attack.eps * (1 + 1e-6)).all()


def test_batch_norm_that_trains_switches_early_stop_off(colour_net, colour_images):
    x, y = colour_images
    attack = LoRaPGD(colour_net, eps=3.0, steps=3, early_stop=True)
    assert (attack.attacked(x, y).queries.gradients < 3).any()
    attack.set_model_training_mode(model_training=True, batchnorm_training=True)
    assert (attack.attacked(x, y).queries.gradients == 3).all()


def test_random_start_off_ignores_the_seed(digits_net, test_digits):
    x, y = test_digits
    settings = {"eps": 0.5, "rank": 1, "steps": 1, "method": "paper"}
    fixed = [LoRaPGD(digits_net, random_start=False, seed=seed, **settings)(x, y) for seed in (0, 7)]
    assert torch.equal(*fixed)
    drawn = [LoRaPGD(digits_net, seed=seed, **settings)(x, y) for seed in (0, 7)]
    assert not torch.equal(*drawn)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (lambda x: (x * 255).to(torch.uint8), r"torch.uint8.*float\(\) / 255"),
        (lambda x: (x * 255).long(), "int64"),
        (lambda x: x * 255, "outside the clip range"),
        (lambda x: x + 1e-3, "outside the clip range"),
        (lambda x: x * torch.nan, "NaN"),
    ],
)
def test_unfit_images_are_refused(digits_net, test_digits, images, message):
    x, y = test_digits
    with pytest.raises(ValueError, match=message):
        LoRaPGD(digits_net)(images(x), y)


def test_other_errors_are_clear(digits_net, test_digits):
    x, y = test_digits
    with pytest.raises(ValueError, match="labels are None"):
        LoRaPGD(digits_net)(x)
    with pytest.raises(ValueError, match="norm is 'L1'; choose one of 'L2', 'Linf'"):
        LoRaPGD(digits_net, norm="L1")
    with pytest.raises(ValueError, match="rank is 0"):
        LoRaPGD(digits_net, rank=0)
    with pytest.raises(ValueError, match=r"alpha is 0\.0"):
        LoRaPGD(digits_net, alpha=0.0)
    with pytest.raises(ValueError, match="random_start is 5"):
        LoRaPGD(digits_net, random_start=5)
    with pytest.raises(TypeError, match="images are ndarray"):
        LoRaPGD(digits_net)(x.numpy(), y)
    with pytest.raises(TypeError, match="labels are list"):
        LoRaPGD(digits_net)(x, y.tolist())
    with pytest.raises(ValueError, match="label 12 is out of range"):
        LoRaPGD(digits_net)(x, y * 0 + 12)
    with pytest.raises(TypeError):
        LoRaPGD(digits_net, 0.5)


def test_shown_by_name_and_method(digits_net):
    assert "method=paper" in str(LoRaPGD(digits_net, method="paper"))
    assert (
        len(
            str(
                LoRaPGD(
                    digits_net,
                    init=lowrank_pgd(digits_net, torch.rand(1, 1, 8, 8), torch.zeros(1).long(), eps=1).factors,
                )
            )
        )
        < 400
    )
