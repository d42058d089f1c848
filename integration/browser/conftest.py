"""Chromium, and the reports that are opened in it: a real one, one whose every text is hostile, a large one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from art_lowrank.evaluate.plan import CLEAN, Cell
from art_lowrank.evaluate.report.command import Asked, report
from art_lowrank.evaluate.threat import Threat
from art_lowrank.record import JSON, Record, append, pack

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
# the last ones keep Chromium itself from asking the network for anything
ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
ATTACKS = ("lowrank-pgd[rank=1]", "lowrank-pgd[rank=full]", "rank-curve", "eps-curve[eps=[0.25,0.5,1],rank=2]")

N = 50
CALL = "window.hacked=(window.hacked||0)+1"
HOSTILE = (
    f"<script>{CALL}</script><img src=x onerror={CALL}><svg onload={CALL}>",
    f"\"' autofocus tabindex=1 onfocus=\"{CALL}\" style='position:fixed;inset:0'",
    f"--></title></style></script></details></table><script>{CALL}</script>",
    f'<a href="javascript:{CALL}">a</a><iframe src="https://example.org/"></iframe>&lt;b&gt;{{{{7*7}}}}',
    "\u202egnp.exe \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u2067\u0661",  # right to left, never ended
    "W" * 400,
)


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    return HOSTILE


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: tox run -e browser")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on PATH, and CHROMIUM names none")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The page of a kind of folder, written when it is first asked for."""
    makers = {"real": _real, "hostile": _hostile, "large": _large(24, 12), "eight": _large(8, 8)}
    root, known = tmp_path_factory.mktemp("reports"), {}

    def page_of(kind: str) -> Path:
        if kind not in known:
            makers[kind](root / kind)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # matplotlib's, of names that are too long for its PNG
                report(Asked(root / kind), say=lambda line: None)
            known[kind] = root / kind / "report" / "index.html"
        return known[kind]

    return page_of


@pytest.fixture
def opened(browser: Browser, files: Callable[[str], Path]) -> Iterator[Callable[..., Page]]:
    """A page in a window of its own: `opened("real", color_scheme="dark")`; what it said and asked for is kept.

    `page.heard` has its messages and errors, `page.asked` its requests. Nothing but the document is let through.
    """
    contexts = []

    def open_page(kind: str, width: int = 1280, hash: str = "", **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, offline=True, **options)
        contexts.append(context)
        address = files(kind).as_uri()
        context.route(lambda url: url.split("#")[0] != address, lambda route: route.abort())
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.heard, page.asked = [], []
        page.on("console", lambda message: page.heard.append(message.text))
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address + hash)
        return page

    yield open_page
    for context in contexts:
        context.close()


def _real(folder: Path) -> None:
    """The built-in nets for digits, attacked; one of them by an attack less, so that a number is missing."""
    from art_lowrank.evaluate import Plan, evaluate  # the other folders need no torch

    models = ("digits:standard", "digits:adversarial", "digits:low-rank")
    evaluate(Plan(models=models, images=100, attacks=ATTACKS), folder, verbose=False)
    evaluate(Plan(models=models[:2], images=100, attacks=("lowrank-pgd[rank=2]",)), folder, verbose=False)


def _large(models: int, attacks: int) -> Callable[[Path], None]:
    """Records as the engine writes them, by the command that makes large folders."""
    spec = importlib.util.spec_from_file_location("many", Path(__file__).parents[1] / "evaluate" / "many.py")
    module: Any = importlib.util.module_from_spec(spec) if spec else SimpleNamespace()

    def write(folder: Path) -> None:
        spec.loader.exec_module(module)
        module.write_many(folder, models, attacks, 200)

    return write


def _hostile(folder: Path) -> None:
    """Every text a record can hold is one that a careless page would run, or be broken or torn apart by."""
    folder.mkdir()
    draws, threat = np.random.default_rng(0), Threat("L2", 0.5)
    data, texts = HOSTILE[3], {"model_hash": HOSTILE[0], "data_hash": HOSTILE[2], "most_common": 5, "classes": 10}
    for number, name in enumerate(HOSTILE):
        common: dict[str, JSON] = {"model": {"spec": name, "files": [name]}, "data": {"spec": data}}
        cell = Cell(name, data, 0, N, CLEAN, 0, {**common, "attack": CLEAN})
        _append(folder, cell, np.ones(N, bool), {**texts, "doubts": list(HOSTILE)})
        ranks = [f"lowrank-pgd[rank={rank},{name[:20]}=1]" for rank in (1, 2)]
        for place, attack in enumerate((*HOSTILE, *ranks)):
            meant: dict[str, JSON] = {**common, "attack": {"spec": attack, "threat": threat.meaning()}, "after": []}
            attacked = Cell(name, data, 0, N, attack, 0, meant, (cell.id,))
            known = {**texts, "attacked": pack([True] * N), "threat": str(threat), "gradients": 10 * N}
            failed = {"error": name, "type": "ValueError", "traceback": HOSTILE[0]}
            _append(folder, attacked, draws.random(N) < 0.9 - 0.1 * number, failed if place == number else known)


def _append(folder: Path, cell: Cell, held: Any, values: dict[str, Any]) -> None:
    if "error" not in values:
        values = {**values, "status": "done", "robust": pack(held.tolist()), "right": int(held.sum())}
    settings = {"cell": cell.id, "start": 0, "stop": N, "meant": dict(cell.identity)}
    volatile = {"seconds": 0.5, "device": HOSTILE[0], "batch_size": 128, "finished": HOSTILE[0]}
    asked = ("evaluation", cell.model, cell.images, cell.attack, cell.seed, N, settings)
    append(folder / "records.jsonl", Record(*asked, {"status": "failed", **values}, volatile, {HOSTILE[1]: HOSTILE[0]}))
