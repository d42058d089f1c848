"""What a user types for a model, an attack or data: `name[word,key=value,...]`, read and written back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TypeAlias

Value: TypeAlias = "bool | int | float | str | list[Value] | None"
WORDS: dict[str, Value] = {"true": True, "false": False, "none": None}
CLOSING = {"[": "]", "(": ")"}


@dataclass(frozen=True)
class Spec:
    """A name, words without a key, and options; `parts` is what was typed in the brackets, without blanks."""

    name: str
    words: tuple[str, ...] = ()
    options: Mapping[str, Value] = field(default_factory=dict)
    parts: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The spec as one types it."""
        return f"{self.name}[{','.join(self.parts)}]" if self.parts else self.name

    @property
    def identity(self) -> str:
        """The same for everything that means the same: `eps=8/255,rank=3` and `rank=3,eps=0.0313725490196078...`."""
        return json.dumps([self.name, self.words, dict(sorted(self.options.items()))], default=str)

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Spec:
    """Read `name[word,key=value,...]`; values: numbers, fractions such as 8/255, true, false, none, lists, text."""
    text = text.strip()
    name, bracket, rest = text.partition("[")
    name = name.strip()
    if not name or (bracket and not rest.endswith("]")):
        raise ValueError(f"{text!r} is not a name[key=value,...]")
    words: list[str] = []
    options: dict[str, Value] = {}
    parts = _split(rest[:-1], repr(text)) if bracket else []
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            words.append(key)
        elif key in options:
            raise ValueError(f"{text!r} sets {key} twice")
        else:
            options[key] = value_of(value, repr(text))
    return Spec(name, tuple(words), options, tuple(parts))


def value_of(text: str, whole: str = "") -> Value:
    """One value as typed."""
    if text.startswith("[") and text.endswith("]"):
        return [value_of(part, whole) for part in _split(text[1:-1], whole)]
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    if fraction := re.fullmatch(r"([-+]?[\d.]+)/([\d.]+)", text):
        return _fraction(fraction[1], fraction[2], whole)
    if re.fullmatch(r"[-+]?\d+", text):
        return int(text)
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        return float(text)
    return text


def nearest(name: str, known: Iterable[str], kind: str) -> str:
    """What to say about a name that is not known: the one that is meant, perhaps, or what there is."""
    known = sorted(set(known))
    lower = {item.lower(): item for item in known}
    found = get_close_matches(name.lower(), lower, n=3, cutoff=0.5)
    if found:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(lower[item] for item in found)}?"
    some = ", ".join(known[:12]) + (" ..." if len(known) > 12 else "")
    return f"unknown {kind} {name!r}; there are {some}" if known else f"unknown {kind} {name!r}; it takes none"


def check_known(options: Mapping[str, Value], known: Iterable[str], whole: object) -> None:
    """Every option must be one the name takes."""
    for key in options:
        if key not in (known := tuple(known)):
            raise ValueError(f"{whole}: {nearest(key, known, 'parameter')}")


def existing(path: str, whole: object) -> Path:
    """A file the user names."""
    if not Path(path).is_file():
        raise ValueError(f"{whole}: there is no file {path!r}")
    return Path(path)


def _fraction(above: str, below: str, whole: str) -> float:
    try:
        return float(above) / float(below)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{whole}: {above}/{below} is no number") from None


def _split(text: str, whole: str) -> list[str]:
    """Parts between commas that are in no bracket and no quotes; blanks around them are dropped."""
    parts = [part.strip() for part in _parts(text, whole)]
    return [_tight(part) for part in parts if part]


def _tight(part: str) -> str:
    key, equals, value = part.partition("=")
    return f"{key.strip()}={value.strip()}" if equals else key


def _parts(text: str, whole: str) -> Iterator[str]:
    open_brackets, quote, current = [], "", ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in CLOSING:
            open_brackets.append(CLOSING[letter])
        elif open_brackets and letter == open_brackets[-1]:
            open_brackets.pop()
        elif letter == "," and not open_brackets:
            yield current
            current = ""
            continue
        current += letter
    if open_brackets or quote:
        raise ValueError(f"{whole} lacks a closing {open_brackets[-1] if open_brackets else quote}")
    yield current
