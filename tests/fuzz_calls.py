"""What the fuzz tests attack, and how: tiny nets, good and broken, settings that agree or exclude each other, images.

Settings are in the words of `lowrank_pgd`. Loaded by the fixture `fuzz`: test files cannot import each other.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from art_lowrank import Factors
from art_lowrank.attack.options import METHODS

LOGITS = ("linear", "batch norm", "steep")  # models as they should be
SILENT = ("constant", "detached", "hard")  # logits without any gradient
DOUBTFUL = ("nan", "inf", "probabilities", "saturated")  # no logits
RAISES = ("one column", "no batch", "own error")
FLAGS = ("exact_rank", "early_stop", "use_budget", "thorough")


class OwnError(Exception):
    """What a broken model raises; it has to come through."""


class FuzzNet(nn.Module):
    """A tiny net, well-behaved or broken, in training mode; it counts the images it has seen."""

    def __init__(self, kind, shape, classes, seed, dtype=torch.float32):
        super().__init__()
        c, h, w = shape
        self.kind, self.seen = kind, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            ends = [nn.Flatten(), nn.Linear(c * h * w, classes)]
            norm = [nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), nn.Tanh(), nn.Dropout(0.5)]
            self.body = nn.Sequential(*(norm if kind == "batch norm" else []), *ends).to(dtype)
        self.body[-1].bias.grad = torch.ones_like(self.body[-1].bias)

    def forward(self, x):
        self.seen += len(x)
        return self.outputs(self.body(x.to(self.body[-1].weight.dtype)))

    def outputs(self, z):
        broken = {
            "steep": lambda: z * 1e4,
            "constant": lambda: z * 0 + torch.arange(z.shape[1]).to(z),
            "detached": lambda: z.detach(),
            "hard": lambda: nn.functional.one_hot(z.argmax(1), z.shape[1]) * 5.0,
            "nan": lambda: z * torch.nan,
            "inf": lambda: torch.where(z > 0, torch.inf, z),
            "probabilities": lambda: z.softmax(1),
            "saturated": lambda: (z * 1e4).softmax(1),
            "one column": lambda: z[:, :1],
            "no batch": lambda: z[0],
        }
        if self.kind == "own error":
            raise OwnError("the model's own")
        return broken.get(self.kind, lambda: z)()

    def predicted(self, x):
        """Outputs in evaluation mode, on the side."""
        with torch.no_grad():
            twin = copy.deepcopy(self).eval()
            return twin(x).double().numpy()


def fuzz_settings(draw, st, shape, classes, width, without=None):
    """Settings for images (n, c, h, w) in a range of this width: drawn freely, so that some exclude each other.

    `without`: what a host does not have.
    """
    n, c, h, w = shape
    ball = draw(st.sampled_from(sorted(METHODS)))
    odd = draw(st.booleans())  # half of all calls take only what goes together
    rare = st.integers(0, 5).map(lambda i: i == 5)
    s = {
        "norm": np.inf if ball == "inf" else 2 if ball == "2" else ball,
        "method": draw(st.sampled_from(METHODS[ball])),
        "rank": draw(st.one_of(st.integers(1, min(h, w)), st.sampled_from([0.1, 0.5, 0.99, "full"]))),
        "steps": draw(st.integers(0, 4)),
        "loss": draw(st.sampled_from(["auto", "auto", "margin", "smooth-margin", "ce", "dlr"])),
        "targeted": draw(st.booleans()),
        "seed": draw(st.sampled_from([0, 1, -7, 2**40, np.int64(3), None])),
        "restarts": draw(st.integers(1, 2)),
        "precision": draw(st.sampled_from(["float32"] * 4 + ["bf16", "fp16"])),
        "step_size": draw(st.sampled_from([None, None, 0.01 * width, 10 * width])),
        "decay": draw(st.sampled_from([None, None, 0.0, 0.9])),
        "tile": draw(st.sampled_from([None, 1, 2, 3, 20])),
        "init": draw(st.sampled_from(["lora", "lora", "warm-up", "factors"])),
        **{flag: draw(rare) for flag in FLAGS},
    }
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    scale = width * draw(st.sampled_from([0.0, 1e-30, 1e-6, 0.01, 0.1, 0.5, 3.0, 100.0, 1e5, 1e30]))
    shapes = [(), (), (n,), (n, 1, 1, 1)] + ([(c, 1, 1), (h, w), (n, c, h, w)] if ball == "inf" else [])
    of_eps = draw(st.sampled_from(shapes))
    s["eps"] = (torch.rand(of_eps, generator=generator).round(decimals=1) * scale) if of_eps else scale
    if s["init"] == "factors":
        r = draw(st.integers(1, min(h, w) + 1))
        pair = [torch.randn(n, c, *ends, generator=generator) * width for ends in ((h, r), (r, w))]
        s["init"] = Factors(*pair)
    of_mask = draw(st.sampled_from([None, None, (h, w), (n, c, h, w), (n, 1, h, w), (w,), (c, 1, 1), ()]))
    s["mask"] = None if of_mask is None else torch.rand(of_mask, generator=generator).round()
    if s["mask"] is not None and draw(st.booleans()):  # a rectangle, as numbers or as booleans
        rows, columns = (torch.rand(1, 1, *ends, generator=generator).round() for ends in ((h, 1), (1, w)))
        s["mask"] = (rows * columns).to(draw(st.sampled_from([torch.bool, torch.uint8, torch.float16])))
    s.update(without or {})
    return s if odd else _agreeing(s, ball, classes)


def _agreeing(s, ball, classes):
    """The settings without what their method, norm or model has not."""
    plain = {"step_size": None, "decay": None, "mask": None, "tile": None, "init": "lora", "loss": "margin"}
    for name in conflicts({**s, "rank": "full"}, ball, classes, 1):
        s = {**s, name: plain.get(name, False)}
    return {**s, "rank": "full"} if ball == "group-nuc" else s


def conflicts(s, ball, classes, n):
    """Which settings exclude each other; empty where the call has to succeed."""
    method, found = s["method"], []
    rigid = method in ("frank-wolfe", "clipped-latent") or ball == "group-nuc"
    bans = {
        "step_size": method == "paper" or rigid,
        "decay": method == "paper" or rigid,
        "mask": method == "paper" or (s["exact_rank"] and not _is_rectangle(s["mask"])),
        "use_budget": ball != "2" or method == "paper",
        "thorough": method == "paper" or s["targeted"],
        "exact_rank": method == "clipped-latent",
        "tile": ball != "group-nuc",
    }
    found += [name for name, banned in bans.items() if banned and s[name] is not None and s[name] is not False]
    found += ["rank"] if ball == "group-nuc" and s["rank"] != "full" else []
    found += ["init"] if isinstance(s["init"], str) and s["init"] == "warm-up" and method != "paper" else []
    found += ["loss"] if s["loss"] == "dlr" and classes < 3 and s["steps"] and n else []
    found += ["loss"] if s["loss"] == "estimator" and (s["thorough"] or s["precision"] != "float32") else []
    return found


def _is_rectangle(mask):
    if mask is None or mask.ndim < 2:
        return True
    kept = mask != 0
    return bool((kept == kept.any(-1, keepdim=True) & kept.any(-2, keepdim=True)).all())


def fuzz_images(draw, st, shape, low, high, dtype):
    """Images in [low, high] (numbers or tensors): anywhere, on the bounds, partly there, or all one value."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    u = torch.rand(shape, generator=generator, dtype=torch.float64)
    kind = draw(st.sampled_from(["inside", "bounds", "some bounds", "flat"]))
    u = {"inside": u, "bounds": u.round(), "some bounds": (u * 2 - 0.5).clamp(0, 1), "flat": u * 0 + 0.5}[kind]
    low, high = (torch.as_tensor(bound).to(dtype) for bound in (low, high))
    images = (low.double() + u * (high.double() - low.double())).to(dtype)
    return torch.maximum(torch.minimum(images, high), low)
