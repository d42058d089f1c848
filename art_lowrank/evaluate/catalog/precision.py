"""Attacks under mixed precision: the search sees the model in bfloat16, what it finds is judged in float32."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from art_lowrank.evaluate.bench import Attack, AttackEntry, Subject
from art_lowrank.evaluate.spec import Spec

FULL, HALF = "float32", "bf16"


def lowered(spec: Spec, precision: str) -> Spec:
    """The attack in this precision, where it does not say its own."""
    if precision == FULL or "precision" in spec.options:
        return spec
    options = {**spec.options, "precision": precision}
    return Spec(spec.name, spec.words, options, (*spec.parts, f"precision={precision}"))


def split(spec: Spec) -> tuple[Spec, bool]:
    """A host's attack without its precision, and whether that is half; its losses are not scaled against underflow."""
    precision = spec.options.get("precision", FULL)
    if precision not in (FULL, HALF):
        raise ValueError(f"{spec}: precision is {precision!r}; it takes {FULL} or {HALF}, fp16 is for lowrank-pgd")
    options = {key: value for key, value in spec.options.items() if key != "precision"}
    parts = tuple(part for part in spec.parts if part.partition("=")[0] != "precision")
    return Spec(spec.name, spec.words, options, parts), precision == HALF


def halved(entry: AttackEntry, spec: Spec) -> AttackEntry:
    """The same attack on the model under autocast."""

    def prepare(subject: Subject) -> Attack:
        return entry.prepare(replace(subject, model=Halved(subject.model)))

    return replace(entry, text=spec.text, meaning={**entry.meaning, "spec": spec.identity}, prepare=prepare)


class Halved(nn.Module):
    """A model under autocast, with logits in the images' kind of numbers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            logits: Tensor = self.model(x)
        return logits.to(x.dtype)
