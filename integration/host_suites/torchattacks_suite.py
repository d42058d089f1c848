"""torchattacks' own test of its attacks, unchanged, run against `LoRaPGD` (and, to compare with, its PGDL2)."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from suite import HERE, Refused, Row, checkout_of, copied, needed, outcomes, parser, table

ADDRESS, TAG = "https://github.com/Harry24k/adversarial-attacks-pytorch", "v3.5.1"
TEST = "code_coverage/test_atks.py"
ROWS = [Row(name, ("test_atks", f"test_atks_on_cifar10[{name}]")) for name in ("LoRaPGD", "PGDL2")]


def main() -> int:
    args = parser(__doc__).parse_args()
    needed("torchattacks", "art_lowrank", "pytest", "sklearn")
    with tempfile.TemporaryDirectory() as name:
        checkout = checkout_of(args.checkout, ADDRESS, TAG, Path(name))
        folder = copied(checkout, ("torchattacks", TEST), Path(name) / "run")
        shutil.copy(HERE / "torchattacks_conftest.py", folder / "conftest.py")
        found = outcomes(folder, [TEST], {}, ["-o", "junit_logging=system-out"])
    said = "\n".join(outcome.said for outcome in found.values())
    print(*(line for line in said.splitlines() if line and not line.startswith("----")), sep="\n")
    return 0 if table(ROWS, found) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Refused as refusal:
        sys.exit(f"{Path(__file__).name}: {refusal}")
