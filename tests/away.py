"""Checks the wheel that tox has built, and lays the tests where no checkout is near: `away.py CHECKOUT`."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path


def main(root: Path) -> None:
    with zipfile.ZipFile(os.environ["TOX_PACKAGE"]) as wheel:
        found = {name: wheel.read(name) for name in wheel.namelist()}
    package = {path.relative_to(root).as_posix(): path for path in (root / "art_lowrank").rglob("*") if path.is_file()}
    wanted = {name: path.read_bytes() for name, path in package.items() if path.suffix != ".pyc"}
    about = {name: data for name, data in found.items() if name.startswith("art_lowrank-")}
    differing = {name for name in {*wanted, *found} - about.keys() if wanted.get(name) != found.get(name)}
    assert not differing, f"not as in the checkout: {sorted(differing)}"
    assert "art_lowrank/py.typed" in found
    for name in ("licenses/LICENSE", "entry_points.txt"):
        assert any(path.endswith(f".dist-info/{name}") for path in about), f"{name} is missing"
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(root / name, ".")
    for name in ("tests", "integration"):
        if (root / name).exists():
            shutil.copytree(root / name, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
