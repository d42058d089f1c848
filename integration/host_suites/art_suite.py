"""ART's own tests of its PGD and of two of its trainers, run against `LowRankPGD`."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from suite import Outcomes, Refused, Row, Swap, checkout_of, copied, needed, outcomes, parser, swapped, table

ADDRESS, TAG = "https://github.com/Trusted-AI/adversarial-robustness-toolbox", "1.20.1"
PGD = "tests/attacks/test_projected_gradient_descent.py"
TRADES = "tests/defences/trainer/test_adversarial_trainer_trades_pytorch.py"
MADRY = "tests/defences/trainer/test_adversarial_trainer_madry_pgd.py"
PGD_IMPORT = (
    "from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent import ProjectedGradientDescent\n"
)
TRADES_IMPORT = "from art.attacks.evasion import ProjectedGradientDescent\n"
MADRY_IMPORT = "from art.defences.trainer.adversarial_trainer_madry_pgd import AdversarialTrainerMadryPGD\n"
LOW_RANK = "from art_lowrank import LowRankPGD as ProjectedGradientDescent\n"
FULL_RANK = "from subclasses import FullRankPGD as ProjectedGradientDescent\n"
COMPARED = "test_6_framework_pytorch_mnist"

# What ART's conftest and helpers import of TensorFlow and Keras also for the PyTorch tests. They stand before the real
# ones: TensorFlow 2.21 imported before the triton of torch 2.15 ends the process.
STUBS = {
    "tensorflow/__init__.py": '__version__ = "2.0.0"\n',
    "keras/__init__.py": "",
    "keras/backend.py": "def clear_session():\n    pass\n",
}


class Variant(NamedTuple):
    """A file of ART's tests, under a name of its own, with our attack in place of ART's."""

    name: str
    source: str
    swaps: tuple[Swap, ...]  # our class
    tests: tuple[str, ...]
    also: tuple[Swap, ...] = ()  # made for ART's own class too


FITS = tuple(
    f"test_adversarial_trainer_trades_pytorch_{name}_and_predict[{labels}]"
    for name in ("fit", "fit_generator")
    for labels in ("one_hot", "numerical")
)
VARIANTS = (
    Variant(
        "test_pgd_unchanged",
        PGD,
        (Swap(PGD_IMPORT, LOW_RANK),),
        ("test_1_classifier_type_check_fail", "test_4_pytorch_iris_pt", "test_check_params_pt"),
    ),
    Variant("test_pgd_full_rank", PGD, (Swap(PGD_IMPORT, FULL_RANK),), ("test_5_pytorch_mnist",)),
    Variant("test_trades_linf_full_rank", TRADES, (Swap(TRADES_IMPORT, FULL_RANK),), FITS),
    Variant(
        "test_trades_l2_low_rank",
        TRADES,
        (Swap(TRADES_IMPORT, LOW_RANK),),
        FITS,
        (Swap("norm=np.inf,", "norm=2,"),),
    ),
    Variant(
        "test_madry_l2_low_rank",
        MADRY,
        (Swap(MADRY_IMPORT, "from subclasses import MadryTrainer as AdversarialTrainerMadryPGD\n"),),
        ("test_fit_predict", "test_get_classifier"),
    ),
)
# sections of ART's comparison with its NumPy PGD that ask for what our class does not have
EXPECTED = {
    "PGD with L1 norm": "our class has no l1 ball",
    "PGD with num_random_init=2": "our later restarts follow our seed, not NumPy's global state",
}


def method(text: str, name: str) -> str:
    """The source of a method of the test class."""
    found = re.search(rf"    def {name}\(.*?(?=^    def |^if __name__|\Z)", text, re.S | re.M)
    if found is None:
        raise Refused(f"{PGD}: it has no method {name}")
    return found[0]


def sections(text: str) -> dict[str, str]:
    """Title and source of every section of ART's comparison with its NumPy PGD."""
    body = method(text, "_test_framework_vs_numpy")
    parts = re.split(r"^        # Test (PGD with .*|the masking .*)\n", body, flags=re.M)
    if len(parts) < 3:
        raise Refused(f"{PGD}: _test_framework_vs_numpy has no sections '# Test PGD with ...'")
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def one_test_each(text: str) -> str:
    """ART's comparison as one test for every section, because a test says nothing of what follows its first failure."""
    caller = method(text, COMPARED)
    added = ""
    for number, source in enumerate(sections(text).values(), 1):
        added += f"    def section_{number}(self, classifier):\n{source}"
        renamed = [
            Swap(COMPARED, f"{COMPARED}_{number}"),
            Swap("self._test_framework_vs_numpy(", f"self.section_{number}("),
        ]
        added += swapped(caller, renamed, PGD)
    return swapped(text, [Swap(caller, added)], PGD)


def prepared(variant: Variant, folder: Path, with_ours: bool) -> tuple[list[str], list[Row]]:
    """Write the variant's file; the tests pytest is asked for, and their lines of the table."""
    path = folder / variant.source
    text = path.read_text()
    tests = {name: (name, "") for name in variant.tests}
    if variant.name == "test_pgd_full_rank":
        for number, title in enumerate(sections(text), 1):
            tests[f"{COMPARED}_{number}"] = (f"{COMPARED}: {title}", EXPECTED.get(title, ""))
        text = one_test_each(text)
    text = swapped(text, variant.also + (variant.swaps if with_ours else ()), variant.source)
    target = path.with_name(f"{variant.name}.py")
    target.write_text(text)
    prefix = f"{target.relative_to(folder)}::" + ("TestPGD::" if variant.source == PGD else "")
    short = variant.name.removeprefix("test_")
    rows = [Row(f"{short}: {title}", (variant.name, name), why) for name, (title, why) in tests.items()]
    return [prefix + name for name in tests], rows


def stubbed(folder: Path) -> Path:
    """A folder with the stand-ins for TensorFlow and Keras."""
    for name, text in STUBS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def home(folder: Path, mnist: Path | None) -> Path:
    """A home directory whose ART data folder holds MNIST, if the user has it."""
    data = folder / ".art" / "data"
    data.mkdir(parents=True)
    if mnist is not None:
        if not mnist.is_file():
            raise Refused(f"--mnist {mnist} is no file; give an mnist.npz, or leave it out and ART downloads it")
        shutil.copy(mnist, data / "mnist.npz")
    return folder


def ran(checkout: Path, scratch: Path, mnist: Path | None, with_ours: bool) -> tuple[Outcomes, list[Row]]:
    """The outcomes with our class or with ART's own, and the table's lines."""
    folder = copied(checkout, ("tests", "utils", "conftest.py"), scratch / "run")
    prepared_all = [prepared(variant, folder, with_ours) for variant in VARIANTS]
    tests = [test for found, _ in prepared_all for test in found]
    env = {"HOME": str(home(scratch / "home", mnist)), "PYTHONPATH": str(stubbed(scratch / "stubs"))}
    found = outcomes(folder, tests, env, ["--framework=pytorch"])
    return found, [row for _, rows in prepared_all for row in rows]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--mnist", type=Path, metavar="FILE", help="an mnist.npz; without, ART downloads it")
    options.add_argument(
        "--control", action="store_true", help="run ART's own attack as well: what it fails, is not ours"
    )
    args = options.parse_args()
    needed("art", "art_lowrank", "pytest", "requests", "sklearn")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        checkout = checkout_of(args.checkout, ADDRESS, TAG, scratch)
        print(f"installed ART {version('adversarial-robustness-toolbox')}, tests written for {TAG}", flush=True)
        ours, rows = ran(checkout, scratch / "ours", args.mnist, True)
        control = ran(checkout, scratch / "control", args.mnist, False)[0] if args.control else None
    return 0 if table(rows, ours, control) else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        sys.exit(main())
    except Refused as refusal:
        sys.exit(f"{Path(__file__).name}: {refusal}")
