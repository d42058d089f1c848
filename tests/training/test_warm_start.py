"""Warm starts: what many epochs on a net that stands still must equal, and what every step must keep."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from art_lowrank.attack.oracle import evaluating
from art_lowrank.training import Objective, PerturbationStore, Pgd, WarmStart, warm_started
from art_lowrank.training.adversaries import direction, inside, loss_gradient, noise
from art_lowrank.training.learner import Learner
from art_lowrank.training.loop import Course, shuffled, train
from art_lowrank.training.moves import Moves, Place
from art_lowrank.training.warm_loop import remembering
from art_lowrank.training.warm_start import Warm

N, SHAPE, EPS = 12, (2, 12, 10), 0.3
ALL = torch.arange(N)


def net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(480, 3)).eval()


@pytest.fixture
def images():
    draws = torch.Generator().manual_seed(1)
    return torch.rand((N, *SHAPE), generator=draws), torch.arange(N) % 3


class Counting(nn.Module):
    """A net that counts the passes it is asked for a gradient of its images."""

    def __init__(self):
        super().__init__()
        self.inner, self.asked = net(), 0

    def forward(self, x):
        self.asked += int(x.requires_grad)
        return self.inner(x)


def warm(norm=2, rank=2, eps=EPS, clip=(0.0, 1.0), **settings):
    return Warm(PerturbationStore(N, SHAPE, rank), eps, norm, WarmStart(rank, **settings), clip)


def epoch(adversary, model, x, y, number, place=None):
    adversary.begin(number)
    found = adversary.at(place or Place(ALL))(model, x, y, 5)
    adversary.store.commit()
    return found


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_epochs_on_a_net_that_stands_still_are_the_steps_of_one_attack(images, clip):
    """With whole perturbations stored, k epochs of one step are one PGD of k steps, but for float16."""
    x, y = images
    model, adversary, delta = net(), warm("inf", "full", clip=clip), noise(x, "inf", 5, ALL)
    for number in range(4):
        moved = x + EPS * delta if clip is None else (x + EPS * delta).clamp(*clip)
        delta = inside(delta + 0.75 * direction(loss_gradient(model, moved, y), "inf"), "inf")
        delta = delta if clip is None else ((x + EPS * delta).clamp(*clip) - x) / EPS
        found = epoch(adversary, model, x, y, number)
        apart = (found - x - EPS * delta).abs().flatten()
        assert apart.quantile(0.99) < 2e-3 * EPS  # but where rounding has turned a gradient's sign
        delta = (found - x) / EPS


@pytest.mark.parametrize("rank", [1, "full"])
def test_a_linear_net_is_attacked_along_its_weights(rank):
    """The best perturbation of two classes is the difference of their weights, here of rank one in each channel."""
    draws = torch.Generator().manual_seed(2)
    along = torch.randn((2, 12, 1), generator=draws) @ torch.randn((2, 1, 10), generator=draws)
    x, y = torch.rand((N, *SHAPE), generator=draws), torch.zeros(N, dtype=torch.long)

    def linear(z):
        score = (z * along).flatten(1).sum(1) / along.norm()
        return torch.stack([-score, score], 1)

    adversary = warm(2, rank, clip=None)
    for number in range(12):
        found = epoch(adversary, linear, x, y, number)
    best = EPS * along / along.norm()
    assert torch.allclose(found - x, best.expand_as(x), atol=1e-2 * EPS)


@pytest.mark.parametrize("settings", [{}, {"steps": 2}, {"steps": 0}, {"low_rank": True}, {"length": 3.0}, {"ramp": 2}])
@pytest.mark.parametrize("norm", [2, "inf"])
def test_ball_and_box_hold_in_every_epoch(images, norm, settings):
    if norm == "inf" and "low_rank" in settings:
        pytest.skip("refused")
    x, y = images
    adversary = warm(norm, **settings)
    for number in range(3):
        found = epoch_with_backward(adversary, net(), x, y, number)
        order = torch.inf if norm == "inf" else 2
        lengths = torch.linalg.vector_norm((found - x).flatten(1), order, dim=1)
        limit = EPS * min(1, (number + 1) / 2) if "ramp" in settings else EPS
        assert lengths.max() <= limit * (1 + 1e-5)
        assert lengths.max() > 0.5 * limit
        assert found.min() >= 0
        assert found.max() <= 1


def epoch_with_backward(adversary, model, x, y, number):
    """Also for images that wait for the gradient of the weights' step."""
    adversary.begin(number)
    found = adversary.at(Place(ALL))(model, x, y, 5)
    cross_entropy(model(found), y).backward()
    adversary.store.commit()
    return found.detach()


@pytest.mark.parametrize(("settings", "gradients"), [({}, 1), ({"steps": 2}, 2), ({"steps": 0}, 0)])
def test_gradients_are_counted(images, settings, gradients):
    model = Counting()
    epoch(warm(**settings), model, *images, 0)
    assert model.asked == gradients


def test_the_attack_grows_from_epoch_to_epoch(images):
    """One step from a stored start does what more steps at once do: here more than one from a random start."""
    x, y = images
    model, adversary = net(), warm("inf", 2)
    losses = [float(cross_entropy(model(epoch(adversary, model, x, y, k)), y).detach()) for k in range(6)]
    assert losses[1] > losses[0]
    assert losses[5] > losses[0] + 0.5 * (losses[1] - losses[0])
    strong = Pgd(EPS, "inf", 40)(model, x, y, 0)
    assert losses[5] > 0.8 * float(cross_entropy(model(strong), y).detach())


def test_piggyback_stores_the_step_of_the_weights_gradient(images):
    x, y = images
    model, adversary = net(), warm("inf", "full", steps=0, clip=None)
    adversary.begin(0)
    found = adversary.at(Place(ALL))(model, x, y, 5)
    assert found.requires_grad
    start = noise(x, "inf", 5, ALL)
    assert torch.allclose(found.detach(), x + EPS * start)
    loss = cross_entropy(model(found), y)
    assert not adversary.store._write.seen.any()
    loss.backward()
    adversary.store.commit()
    adversary.begin(1)
    wanted = inside(start + 0.75 * loss_gradient(model, found.detach(), y).sign(), "inf")
    assert torch.allclose(adversary.store.load(ALL).dense(), wanted, atol=1e-3)


def test_a_low_rank_adversary_is_low_rank(images):
    x, y = images
    adversary = warm(2, 2, clip=None, low_rank=True)
    for number in range(3):
        delta = epoch(adversary, net(), x, y, number) - x
        values = torch.linalg.svdvals(delta)
        assert (values[..., 2] < 1e-5 * values[..., 0]).all()
        assert torch.allclose(delta.flatten(1).norm(dim=1), torch.full((N,), EPS), rtol=1e-4)


def test_what_is_stored_moves_with_the_image(images):
    """A mirrored image starts from the mirrored perturbation: on a mirrored net the attack goes on as before."""
    x, y = images
    model = net()
    mirror = Moves(torch.tensor([[1.0, -1.0]]).repeat(N, 1), torch.tensor([[0.0, 9.0]]).repeat(N, 1))
    plain, moved = warm(), warm()
    for adversary in (plain, moved):
        epoch(adversary, model, x, y, 0)
    straight = epoch(plain, model, x, y, 1)
    turned = epoch(moved, lambda z: model(z.flip(3)), x.flip(3), y, 1, Place(ALL, mirror))
    assert torch.allclose(turned.flip(3), straight, atol=1e-6)
    plain.begin(2)
    moved.begin(2)
    assert torch.allclose(plain.store.load(ALL).dense(), moved.store.load(ALL).dense(), atol=2e-3)


@pytest.mark.parametrize("settings", [{}, {"low_rank": True}])
def test_a_start_whose_rows_have_left_the_frame_is_as_long_as_ever(images, settings):
    """The first images that the net is asked about lie on the sphere, in every epoch."""
    x, y = images
    crop = Moves(torch.ones(N, 2), torch.tensor([[5.0, -4.0]]).repeat(N, 1))
    adversary, asked, model = warm(clip=None, **settings), [], net()

    def spy(z):
        asked.append(z.detach())
        return model(z)

    epoch(adversary, spy, x, y, 0)
    for number, moves in ((1, crop), (2, None)):
        asked.clear()
        epoch(adversary, spy, x, y, number, Place(ALL, moves))
        assert torch.allclose((asked[0] - x).flatten(1).norm(dim=1), torch.full((N,), EPS), rtol=1e-4)


def test_longer_steps_of_a_low_rank_adversary_go_further(images):
    x, y = images
    apart = []
    for length in (0.05, 2.0):
        adversary, model = warm(clip=None, length=length, low_rank=True), net()
        first = epoch(adversary, model, x, y, 0)
        apart.append(float((epoch(adversary, model, x, y, 1) - first).norm()))
    assert apart[1] > 3 * apart[0]


def test_the_objective_leaves_the_gradient_its_way_to_the_store(images):
    x, y = images
    model, adversary = net().train(), warm(steps=0)
    learner = Learner(model, model, torch.optim.SGD(model.parameters(), 0.1), Objective("madry", adversary))
    train(learner, shuffled(x, y, 5, 0, torch.device("cpu")), Course(1, verbose=False))
    adversary.begin(1)
    assert bool(adversary.store.seen(ALL).all())
    assert (adversary.store.load(ALL).norm() > 0.5).all()


def test_reset_starts_again_from_noise(images):
    x, y = images
    adversary, model = warm(2, 2, reset=2), net()
    for number in range(3):
        epoch(adversary, model, x, y, number)
        adversary.begin(number + 1)
        assert bool(adversary.store.seen(ALL).any()) == ((number + 1) % 2 == 1)


def test_the_radius_rises_with_the_images_done():
    adversary = warm(2, 2, ramp=2.0)
    adversary.begin(0)
    assert adversary.radius(3) == pytest.approx(EPS * 3 / N / 2)
    adversary.store.save(torch.arange(6), torch.rand(6, *SHAPE))
    assert adversary.radius(6) == pytest.approx(EPS / 2)
    adversary.store.commit()
    adversary.begin(1)
    assert adversary.radius(N) == EPS


def test_nothing_of_the_callers_is_changed(images):
    x, y = images
    model = net().train()
    before, state = x.clone(), torch.get_rng_state()
    adversary = warm("inf")
    adversary.begin(0)
    with evaluating(model):
        adversary.at(Place(ALL))(model, x, y, 1)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_a_loop_of_ones_own_trains_the_same_net_as_ours(images):
    x, y = images
    course = Course(3, verbose=False)

    def fresh():
        model = net(3).train()
        return model, torch.optim.SGD(model.parameters(), 0.1)

    model, optimizer = fresh()
    objective = remembering(Objective("madry", Pgd(EPS, "inf")), WarmStart(rank=2), N, SHAPE, None, "")
    batches = shuffled(x, y, 5, 0, torch.device("cpu"))
    train(Learner(model, model, optimizer, objective), batches, course)

    other, optimizer = fresh()
    store = PerturbationStore(N, SHAPE, 2)
    for number in range(3):
        loader = [(a, b, place.indices) for a, b, place in batches(number)]
        for moved, labels in warm_started(other, loader, store, eps=EPS, norm="inf"):
            assert other.training
            optimizer.zero_grad()
            cross_entropy(other(moved), labels).backward()
            optimizer.step()
    assert store.epoch == 3
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_attacks_of_ones_own_loop_see_a_net_at_rest_and_differ_by_seed_and_epoch(images):
    x, y = images
    modes, first = [], []
    model = net().train()
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    for seed, number in ((0, 0), (1, 0), (0, 4)):
        store = PerturbationStore(N, SHAPE, 2)
        store.begin(0)
        store.commit()
        store.epoch = number
        settings = WarmStart(2, reset=1)
        ((found, _),) = warm_started(model, [(x, y, ALL)], store, eps=EPS, seed=seed, settings=settings)
        first.append(found)
    assert modes == [False] * 3
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_an_epoch_that_raises_is_not_kept(images):
    x, y = images
    model = net()
    store = PerturbationStore(N, SHAPE, 2)

    def broken():
        yield x[:6], y[:6], ALL[:6]
        raise RuntimeError("the loader died")

    with pytest.raises(RuntimeError, match="died"):
        list(warm_started(model, broken(), store, eps=EPS))
    assert store.epoch == 0
    with pytest.warns(UserWarning, match="an epoch was broken off after 6 of 12 images; only whole epochs are kept"):
        assert len(list(warm_started(model, [(x, y, ALL)], store, eps=EPS))) == 1
    assert store.epoch == 1


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (lambda x, y: (x, y), r"a batch is 2 parts; a warm start needs \(x, y, indices\).*Indexed\(dataset\)"),
        (lambda x, y: x, "a batch is Tensor"),
        (lambda x, y: (x, y, ALL + 1), "indices run from 1 to 12; the store has 12 images"),
        (lambda x, y: (x, y, ALL.float()), "indices are torch.float32"),
        (lambda x, y: (x, y, ALL[:3]), "12 images came with 3 indices"),
        (
            lambda x, y: (x[:, :, :5], y, ALL),
            r"images are \(2, 5, 10\), the store's \(2, 12, 10\) \(channels.*give the moves",
        ),
    ],
)
def test_bad_batches_are_one_line(images, batch, message):
    store = PerturbationStore(N, SHAPE, 2)
    with pytest.raises(ValueError, match=message) as caught:
        list(warm_started(net(), [batch(*images)], store, eps=EPS))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"length": 0}, "length is 0"),
        ({"ramp": -1}, "ramp -1"),
        ({"ramp": None}, "ramp is None"),
        ({"length": "a"}, "length is 'a'"),
        ({"limit": float("nan")}, "limit is nan"),
        ({"rank": 0}, "rank is 0"),
        ({"frame": 8}, "frame is 8"),
        ({"reset": 2.5}, "reset is 2.5"),
        ({"reset": 0}, "reset is 0"),
        ({"low_rank": True, "steps": 0}, "low_rank=True needs a step"),
        ({"low_rank": True, "rank": "full"}, "low_rank=True needs a step and a rank"),
    ],
)
def test_impossible_settings_are_one_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        WarmStart(**settings)
    assert "\n" not in str(caught.value)


def test_other_balls_are_refused():
    with pytest.raises(ValueError, match="eps is 0"):
        warm(eps=0)
    with pytest.raises(ValueError, match="norm is 'nuc'"):
        warm("nuc")
    with pytest.raises(ValueError, match="low_rank=True trains on too weak an attack in l_inf"):
        warm("inf", low_rank=True)


def test_the_usual_rank_fits_the_images():
    def rank(norm, shape):
        objective = Objective("madry", Pgd(EPS, norm))
        return remembering(objective, WarmStart(), 4, shape, None, "").adversary.store

    assert rank(2, (3, 32, 32)).rank == 3
    assert rank("inf", (1, 28, 28)).rank == 5
    assert rank("inf", (1, 8, 8)).rank == 1
    assert rank(2, (1, 3, 3)).dense
