"""What the remarks beside a number mean."""

from __future__ import annotations

MEANINGS = {
    "randomised": "the model answers differently from call to call, so what breaks, and the worst case, include chance",
    "probabilities": "the model returns probabilities, not logits; many attacks are weak against that",
    "dynamic": "the model differentiates while it answers; attacks that do not see through that prove little",
    "constant": "the model answers the same to every image",
    "no gradient": "the model's gradient is zero there: attacks that use gradients prove nothing (try square)",
    "no image is right": "so there was nothing to attack; art-lowrank doctor looks at a model's input",
    "broken outside the ball": "misclassified, but moved too far; not counted as broken",
    "with NaN logits": "after the attack; counted as broken",
    "without gradient": "a gradient was zero or not finite and the image was not broken; not to be called robust",
}


def kind_of(remark: str) -> str:
    """The kind a remark is of: `no gradient` of `no gradient on 3 of 16`."""
    return next((kind for kind in MEANINGS if kind in remark), remark)
