"""Small nets and images every test can ask for. Nothing is downloaded; seeds are fixed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from art_lowrank.demo.digits import digits, trained_net


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests run in parallel processes; more threads each would only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def launch():
    """`launch("3,2", script, ...)`: three processes that train together, then two; none may hang, or say anything."""

    def launched(*command):
        launcher = [sys.executable, "-W", "error", Path(__file__).with_name("launch.py"), *command]
        env, both = {**os.environ, "OMP_NUM_THREADS": "1"}, {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        running = subprocess.Popen(launcher, env=env, text=True, start_new_session=True, **both)
        try:
            shown, _ = running.communicate(timeout=240)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
        assert (running.returncode, shown) == (0, ""), shown

    return launched


@pytest.fixture(scope="session")
def test_digits():
    """100 test images of digits."""
    test = digits()[1]
    return test._replace(x=test.x[:100], y=test.y[:100])


@pytest.fixture(scope="session")
def digits_net():
    """A small net trained on the digits for a second or two."""
    return trained_net(digits()[0], epochs=6)


@pytest.fixture
def colour_net():
    """An untrained convolutional net on (3, 12, 10) images, with batch normalisation and dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Tanh(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(960, 5),
        )
    return net.eval()


@pytest.fixture
def colour_images():
    """Seven (3, 12, 10) images, some pixels on the bounds, and labels of five classes."""
    generator = torch.Generator().manual_seed(2)
    x = (torch.rand(7, 3, 12, 10, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    return x, torch.randint(0, 5, (7,), generator=generator)


@pytest.fixture(scope="session")
def fuzz():
    """The fuzz tests' nets, settings and checks, by path: test files cannot import each other."""
    found = SimpleNamespace()
    for name in ("fuzz_calls", "fuzz_checks"):
        spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        vars(found).update(vars(module))
    return found
