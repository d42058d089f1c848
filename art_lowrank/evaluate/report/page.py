"""The page: one HTML file that asks the network for nothing. The template shows, this file prepares."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from art_lowrank import __version__
from art_lowrank.evaluate.entries import Entry
from art_lowrank.evaluate.outcome import failed
from art_lowrank.evaluate.published import Card, published
from art_lowrank.evaluate.report import words
from art_lowrank.evaluate.report.chart import (
    Chart,
    cost_charts,
    eps_charts,
    gradients,
    milliseconds,
    rank_charts,
    rank_text,
)
from art_lowrank.evaluate.report.compare import Comparison
from art_lowrank.evaluate.report.curves import rank_curve_of
from art_lowrank.evaluate.report.flags import KINDS, Flag
from art_lowrank.evaluate.report.pictures import UNREADABLE, Shown, gallery, readable, spectra
from art_lowrank.evaluate.report.ranking import Board, Standing
from art_lowrank.evaluate.report.reproduce import commands
from art_lowrank.evaluate.report.summary import Summary
from art_lowrank.evaluate.report.svg import key, svg
from art_lowrank.evaluate.rows import Row

DATE = re.compile(r"\d{4}-\d\d-\d\d")
OPEN = 3  # models whose part is open at the beginning


@dataclass(frozen=True)
class Section:
    """A model under one threat, as the page shows it."""

    place: int
    entry: Entry
    flags: Sequence[Flag]
    summary: Summary
    attacks: Mapping[str, str]
    pictured: bool

    @property
    def anchor(self) -> str:
        return f"model-{self.place}"

    @cached_property
    def effective(self) -> str:
        """The effective attack rank with its interval."""
        curve = rank_curve_of(self.entry)
        return rank_text(curve.effective) if curve else words.NONE

    @cached_property
    def charts(self) -> list[Chart]:
        return list(cost_charts(self.entry))

    @cached_property
    def images(self) -> tuple[Sequence[Shown], Chart | None, str]:
        """Gallery and spectra, or why there are none."""
        if not self.pictured or self.entry.worst is None:
            return (), None, ""
        try:
            return gallery(self.summary.folder, self.entry), spectra(self.summary.folder, self.entry), ""
        except UNREADABLE as error:
            return (), None, readable(error)

    @property
    def card(self) -> Card | None:
        """What RobustBench has published of the model."""
        return published(self.entry.model)

    def doubts(self, row: Row) -> Sequence[Flag]:
        return self.summary.flags.get(row, ())

    def again(self, row: Row) -> list[str]:
        return commands(row, self.attacks)

    def under(self, attack: str, after: int) -> list[Row]:
        """The rows of a column of the leaderboard, a seed each."""
        return [row for row in self.entry.rows if (row.attack, row.after) == (attack, after)]


@dataclass(frozen=True)
class Part:
    """A leaderboard with what belongs to it."""

    place: int
    board: Board
    sections: Sequence[Section]

    @cached_property
    def charts(self) -> list[Chart]:
        return list(rank_charts(self.board))

    @property
    def lines(self) -> Iterator[tuple[Standing, Section]]:
        return zip(self.board.standings, self.sections, strict=True)

    @property
    def firsts(self) -> list[Section]:
        """The models no other one is shown to be better than, the most robust first."""
        return [section for standing, section in self.lines if standing.place == "1"]

    @cached_property
    def columns(self) -> list[tuple[str, int]]:
        """Every attack that some model met."""
        found = ((row.attack, row.after) for entry in self.board.entries for row in entry.rows if row.threat)
        return list(dict.fromkeys(found))


def page(summary: Summary, comparison: Comparison | None, pictures: int) -> str:
    """The page; the first `pictures` models on it get images."""
    parts = list(_parts(summary, pictures))
    script = _file("script.js")
    return (
        _environment()
        .get_template("index.html.j2")
        .render(
            summary=summary,
            parts=parts,
            sections=[section for part in parts for section in part.sections],
            eps=list(eps_charts(summary.entries)),
            comparison=comparison,
            warnings=summary.warnings,
            kinds=_kinds(parts),
            facts=facts(summary),
            versions=_versions(summary),
            hashes=_hashes(summary),
            opened=OPEN,
            style=Markup(_file("style.css")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            version=__version__,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("art_lowrank.evaluate.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": svg, "share": words.share}
    environment.globals |= {
        "accuracy": words.accuracy, "against": words.against_strongest, "name": words.name, "sentence": words.sentence,
        "time": words.time, "key": key, "seed_text": words.seed_text, "seeds": words.seeds,
        "dash": words.NONE, "cost": gradients,
        "milliseconds": milliseconds, "lowest": lowest,
    }  # fmt: skip
    return environment


def lowest(rows: Sequence[Row]) -> Row | None:
    """The seed that left fewest images."""
    return min((row for row in rows if not row.error), key=lambda row: int(row.robust.sum()), default=None)


def facts(summary: Summary) -> dict[str, str]:
    """What the evaluation was, in numbers."""
    entries = summary.entries
    finished = sorted(filter(DATE.match, (str(record.volatile.get("finished")) for record in summary.records)))
    found = {
        "models": len({entry.model for entry in entries}),
        "attacks": len({row.attack for entry in entries for row in entry.rows}),
        "seeds": len({row.seed for entry in entries for row in entry.rows}),
        "images": max(len(entry.clean.robust) for entry in entries),
        "cells": len(summary.records),
        "failed": sum(failed(record) for record in summary.records),
        "not finished": len(summary.missing),
    }
    last = {"last cell": finished[-1][:16].replace("T", " ")} if finished else {}
    return {name: f"{count:,}" for name, count in found.items() if count} | last


def _parts(summary: Summary, pictures: int) -> Iterator[Part]:
    place, attacks = 0, summary.attacks
    for number, board in enumerate(summary.boards, start=1):
        sections = []
        for entry in board.entries:
            place += 1
            flags = summary.doubts(entry)
            sections.append(Section(place, entry, flags, summary, attacks, place <= pictures))
        yield Part(number, board, sections)


def _kinds(parts: Sequence[Part]) -> dict[str, str]:
    """The kinds of doubt there are, with what they mean."""
    there = {flag.kind for part in parts for section in part.sections for flag in section.flags}
    return {kind: meaning for kind, meaning in KINDS.items() if kind in there}


def _versions(summary: Summary) -> list[tuple[str, int]]:
    """Sets of versions, and of how many cells."""
    found: dict[str, int] = {}
    for record in summary.records:
        if record.versions:
            device = record.volatile.get("device", "")
            text = ", ".join(f"{name} {version}" for name, version in record.versions.items()) + f"; on {device}"
            found[text] = found.get(text, 0) + 1
    return sorted(found.items(), key=lambda item: -item[1])


def _hashes(summary: Summary) -> list[tuple[str, str, str]]:
    """Hashes of every model's weights and of the images it was shown."""
    found = {}
    for entry in summary.entries:
        keys = ("model_hash", "data_hash")
        found[entry.model, entry.data] = tuple(
            " ".join(dict.fromkeys(str(record.values.get(key, "")) for record in entry.clean.done)) for key in keys
        )
    return [(f"{model} on {data}", *map(str, pair)) for (model, data), pair in found.items()]  # type: ignore[misc]


def _file(name: str) -> str:
    text: Any = resources.files("art_lowrank.evaluate.report").joinpath("page", name)
    return str(text.read_text(encoding="utf-8"))
