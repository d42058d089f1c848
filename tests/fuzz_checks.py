"""What every attack promises, checked without the package's own norms, margins or checks. Loaded by `fuzz`."""

from __future__ import annotations

import copy
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from art_lowrank import Factors

LOGITS = ("linear", "batch norm", "steep")
SILENT = ("constant", "detached", "hard")


def ball_norm(delta, ball, tile):
    """l2 or (group-)nuclear norm of every image, (n,), in float64."""
    n, _, h, w = delta.shape
    if ball == "2":
        return np.sqrt((delta**2).sum((1, 2, 3)))
    if ball == "nuc":
        return np.linalg.svd(delta, compute_uv=False).sum((1, 2))
    side, total = tile or max(1, min(h, w) // 8), np.zeros(n)
    for top in range(0, h, side):
        for left in range(0, w, side):
            cut = delta[:, :, top : top + side, left : left + side]
            total += np.linalg.svd(cut.reshape(n, cut.shape[1] * cut.shape[2], cut.shape[3]), compute_uv=False).sum(1)
    return total


def check_result(found, x, y, s, ball, clip, net):
    """Everything an attack on images x promises of its result `found`; y are the labels or targets it was given."""
    n = len(x)
    out = found.x
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    assert torch.isfinite(out).all()
    if clip is not None:
        low, high = (torch.as_tensor(bound).to(x.dtype) for bound in clip)
        assert (out >= low).all()
        assert (out <= high).all()
    before, after = x.double().numpy(), out.double().numpy()
    delta = after - before
    check_budget(delta, torch.as_tensor(s["eps"], dtype=torch.float64).numpy(), ball, s["tile"])
    if s["mask"] is not None:
        assert (delta[np.broadcast_to(s["mask"].numpy() == 0, delta.shape)] == 0).all()
    check_rank(found, delta, x, s)
    check_queries(found, n, s)
    if n:
        check_success(found, x, y, s, ball, net)


def check_budget(delta, eps, ball, tile):
    n = len(delta)
    if eps.shape == (n,):
        eps = eps.reshape(n, 1, 1, 1)
    if ball == "inf":
        assert (np.abs(delta) <= eps * (1 + 1e-6)).all()
    else:
        radius = np.broadcast_to(eps, delta.shape)[:, 0, 0, 0]
        assert (ball_norm(delta, ball, tile) <= radius * (1 + 1e-6)).all()


def check_rank(found, delta, x, s):
    full = min(x.shape[2:])
    rank = full if s["rank"] == "full" else s["rank"] if isinstance(s["rank"], int) else max(1, round(s["rank"] * full))
    assert found.factors.rank <= rank
    assert torch.isfinite(found.factors.left).all()
    assert torch.isfinite(found.factors.right).all()
    held = found.rank_held.numpy()
    if s["exact_rank"] and rank < full and held.any():
        values = np.linalg.svd(delta[held], compute_uv=False)
        assert (values[..., rank] <= 1.001e-3 * values[..., 0]).all()
    elif not s["exact_rank"] and s["method"] != "clipped-latent":
        dense = found.factors.dense().double().numpy()
        reach = np.abs(x.double().numpy()).max(initial=0.0) + np.abs(dense).max(initial=0.0)
        slack = torch.finfo(x.dtype).eps if x.dtype != torch.float64 else 1e-14
        assert (np.abs(delta - dense)[held] <= 4 * slack * reach).all()


def check_queries(found, n, s):
    """Every image's gradients: those of all climbs, fewer only where images may leave early."""
    forwards, gradients = found.queries
    climbs, half = s["steps"] * s["restarts"] + (s["init"] == "warm-up"), 2 * (s["steps"] // 2)
    most = climbs + (half if s["thorough"] else 0) + (s["steps"] if s["precision"] != "float32" else 0)
    assert (gradients <= most).all()
    assert (gradients >= min(climbs, 1)).all()
    if not (s["early_stop"] or s["thorough"] or s["precision"] != "float32"):
        assert (gradients == climbs).all()
    assert (forwards >= gradients).all()
    assert (forwards > 0).all()


def margins(outputs, y, targeted):
    """Best other output less the label's, or the other way round; how much rounding may change it, (n,) each."""
    rows = np.arange(len(y))
    others = outputs.copy()
    others[rows, y] = -np.inf
    with np.errstate(invalid="ignore"):
        found = others.max(1) - outputs[rows, y]
    return -found if targeted else found, 1e-4 * (1e-3 + np.abs(outputs).max(1))


def check_success(found, x, y, s, ball, net):
    """Success and margin are those of the model on the returned images; what says nothing is dead, never held."""
    success, dead = found.success.numpy(), found.dead.numpy()
    margin, slack = margins(net.predicted(found.x), y.numpy(), s["targeted"])
    assert not (success & dead).any()
    if net.kind == "nan":
        assert dead.all()
    if net.kind in ("nan", "inf"):
        bad = ~np.isfinite(net.predicted(x)).all(1)  # the first images that are shown
        assert not s["steps"] or s["init"] != "lora" or (success | dead)[bad].all()
        return
    assert success[margin > slack].all()
    assert not success[margin < -slack].any()
    if s["steps"] and net.kind in (*SILENT, "probabilities", "saturated"):
        assert (success | dead).all()
    if net.kind in LOGITS:
        assert (np.abs(found.margin.double().numpy() - margin) <= slack).all()
    tracked = s["method"] != "paper" and s["loss"] != "estimator" and s["init"] == "lora" and not s["exact_rank"]
    if tracked and ball in ("2", "inf") and x.element_size() > 2 and net.kind in LOGITS:
        clean = margins(net.predicted(x), y.numpy(), s["targeted"])[0]
        assert (margin >= clean - slack).all(), "worse than no attack"


@contextmanager
def untouched(net, *values):
    """Nothing the caller owns is changed: parameters, buffers, gradients, modes, tensors, arrays, the random state."""

    def copies(given):
        return [np.array(v, copy=True) if isinstance(v, np.ndarray) else copy.deepcopy(v) for v in given]

    flat = [part for value in values for part in (value if isinstance(value, Factors) else [value])]
    saved, state = copies(flat), copies(net.state_dict().values())
    modes = [module.training for module in net.modules()]
    grads = [(p.requires_grad, p.grad, None if p.grad is None else p.grad.clone()) for p in net.parameters()]
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    try:
        yield
    finally:
        assert modes == [module.training for module in net.modules()]
        assert all(torch.equal(a, b) for a, b in zip(state, net.state_dict().values(), strict=True))
        for p, (required, grad, numbers) in zip(net.parameters(), grads, strict=True):
            assert p.requires_grad == required
            assert p.grad is grad
            assert grad is None or torch.equal(grad, numbers)
        for old, new in zip(saved, flat, strict=True):
            same = torch.equal(old, new) if isinstance(old, torch.Tensor) else np.array_equal(old, new)
            assert same or bool((np.asarray(old) != np.asarray(old)).any()), "changed the caller's value"
        assert torch.equal(torch_state, torch.get_rng_state())
        assert np.array_equal(numpy_state, np.random.get_state()[1])


def quietly(attack):
    """What an attack returns; it may warn of dead gradients, once, and of nothing else."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = attack()
    told = [str(warning.message) for warning in caught]
    dead = int(found.dead.sum())
    assert len(told) == min(dead, 1), told
    assert all(text.startswith(f"{dead} of ") for text in told), told
    return found


def overflows(s):
    """Radii whose squares float32 cannot hold: a right result or a refusal, as the method likes."""
    return bool((torch.as_tensor(s["eps"]) > 1e8).any())


def judged(attack, s):
    """What an attack returns, None where it refused a radius whose squares float32 cannot hold."""
    if not overflows(s):
        return quietly(attack)
    try:
        return quietly(attack)
    except ValueError:
        refused(attack)


def refused(attack):
    """The attack raises one clear line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises((ValueError, TypeError)) as caught:
            attack()
    assert type(caught.value) in (ValueError, TypeError)
    text = str(caught.value)
    assert 8 < len(text) < 400, text
    assert "\n" not in text, text
    assert "Traceback" not in text
    return text
