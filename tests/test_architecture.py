"""Who may import whom, what is public, and that files stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import art_lowrank

PACKAGE = Path(art_lowrank.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HOSTS = {"art", "torchattacks", "robustbench", "autoattack", "pyautoattack"}
ALLOWED = {  # what a part of the package may import of the others
    "attack": {"attack", "files"},
    "weights": {"weights", "spectra"},
    "training": {"attack", "weights", "training", "files", "record", "statistics", "demo"},
    "hosts": {"attack", "weights", "training", "hosts", "files"},
    "evaluate": {
        *("attack", "weights", "training", "hosts", "demo", "evaluate"),
        *("files", "record", "statistics", "spectra"),
    },
    "demo": {"attack", "weights", "training", "hosts", "evaluate", "demo", "record", "statistics", "spectra"},
    "plot": {"attack", "statistics"},
    "files": set(),
    "record": set(),
    "statistics": set(),
    "spectra": set(),
}


def part_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Every module imported anywhere in the file, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    part = part_of(path)
    for name in imports(path):
        first, *rest = name.split(".")
        if first in HOSTS:
            assert part in ("hosts", "demo"), f"{path.name} imports the host {first}"
        if first == "ray":
            assert path == PACKAGE / "evaluate" / "ray.py", f"{path.name} imports Ray"
        if first == "accelerate":
            assert path == PACKAGE / "training" / "distributed.py", f"{path.name} imports accelerate"
        if first == "art_lowrank" and rest and part in ALLOWED:
            assert rest[0] in ALLOWED[part], f"{path.name} imports {name}"
        if part in ("attack", "weights"):
            assert first in {"__future__", "art_lowrank", "safetensors", "torch", *sys.stdlib_module_names}, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_small(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 280
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or body[-1].end_lineno - body[0].lineno < 45, f"{path.name}: {node.name}"


def test_public_names():
    assert set(art_lowrank.__all__) <= set(dir(art_lowrank))
    for name in set(art_lowrank.__all__) - {"LoRaPGD"}:
        assert getattr(art_lowrank, name).__name__ == name
    with pytest.raises(AttributeError, match="'nonsense'"):
        art_lowrank.nonsense  # noqa: B018


def test_import_is_cheap():
    code = "import sys, art_lowrank; print([m for m in ('torch', 'art', 'torchattacks', 'numpy') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.strip() == "[]"


def test_the_core_works_without_art():
    code = (
        "import sys, torch; sys.modules['art'] = None; sys.modules['torchattacks'] = None\n"
        "from art_lowrank import lowrank_pgd\n"
        "x = torch.rand(2, 1, 4, 4)\n"
        "print(lowrank_pgd(lambda x: x.flatten(1)[:, :3], x, torch.tensor([0, 1]), eps=0.1).x.shape)\n"
        "import art_lowrank\n"
        "try: art_lowrank.LoRaPGD\n"
        "except ImportError as error: print(error)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert "torch.Size([2, 1, 4, 4])" in shown.stdout
    assert "pip install 'art-lowrank[torchattacks]'" in shown.stdout


def test_typed():
    assert (PACKAGE / "py.typed").exists()
