"""Exports a low-rank LeNet5 to ONNX, as it is and as pairs of plain layers, and runs both in ONNX Runtime.

Same logits as torch to 1e-4, and the time beside the dense net's. Writes nothing but to a temporary folder.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from contenders import chosen
from cost import Timed, ratio
from lenet import lenet5, mnist
from torch import nn

from art_lowrank.weights import densify, factorize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        plain = session(lenet5(0), Path(folder) / "dense.onnx")
        for keep, rule in ((0.2, "uniform"), (0.2, "activation"), (0.07, "activation")):
            layers = factorize(lenet5(0), ranks=chosen(keep, rule, 0))
            factored = session(layers, Path(folder) / "factored.onnx")
            pairs = session(densify(layers, pairs=True), Path(folder) / "pairs.onnx")
            print(f"keep={keep} {rule} ranks: low-rank layers / dense {ratio(factored, plain, repeats)}")
            print(f"keep={keep} {rule} ranks: pairs / dense           {ratio(pairs, plain, repeats)}", flush=True)


def session(model: nn.Module, path: Path) -> Timed:
    """The exported model's forward pass, after a check that it says what torch says."""
    model.eval()
    x = mnist().test.x[:100]
    torch.onnx.export(
        model,
        (x,),
        path,
        input_names=["images"],
        output_names=["logits"],
        dynamo=True,
        verbose=False,
        external_data=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    runner = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {"images": x.numpy()}
    with torch.no_grad():
        apart = float(np.abs(runner.run(None, given)[0] - model(x).numpy()).max())
    if apart > 1e-4:
        raise SystemExit(f"{path.name}: ONNX Runtime and torch are {apart:.2e} apart")
    print(f"{path.name}: {path.stat().st_size:,} bytes, {apart:.1e} from torch", flush=True)

    def run() -> None:
        runner.run(None, given)

    return run


if __name__ == "__main__":
    main()
