"""Records of strength.py as Markdown: robust accuracy, then the targets. A pure function of the records."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from facts import ROBUST_NETS, SOURCE, WORDS, label, number
from targets import Robust, Row, Rows, Verdict, verdicts

from art_lowrank.record import JSON, Record, read, unpack
from art_lowrank.statistics import wilson


def markdown(records: Iterable[Record]) -> str:
    """One section for every set of images: its tables by radius, then the targets where it has the robust nets."""
    latest = {record.id: record for record in records if record.kind == "strength"}
    data = dict.fromkeys(record.data for record in latest.values())
    return "\n".join(line for name in data for line in _section(name, [r for r in latest.values() if r.data == name]))


def markdown_rows(records: Iterable[Record], eps: float, names: Sequence[str]) -> list[str]:
    """The table of some attacks on the robust nets, in the order of their names."""
    latest = list({record.id: record for record in records}.values())
    rows, gradients = _rows(latest), {_label(r): r.values["gradients_per_image"] for r in latest}
    return _table({(eps, name): rows[eps, name] for name in names}, eps, ROBUST_NETS, gradients)


def promises(records: Iterable[Record]) -> list[str]:
    """The targets on the robust nets, a line each."""
    rows = _rows({record.id: record for record in records}.values())
    return [f"- {one.target}: {one.summary}. **{WORDS[one.met]}**" for one in verdicts(rows, ROBUST_NETS)]


def _section(data: str, records: list[Record]) -> list[str]:
    rows, gradients = _rows(records), {_label(r): r.values["gradients_per_image"] for r in records}
    nets = list(dict.fromkeys(record.model for record in records))
    lines = [f"## {data}", "", *_caption(records)]
    for eps in sorted({eps for eps, _ in rows}):
        names = [name for name in nets if any(name in row for (radius, _), row in rows.items() if radius == eps)]
        lines += [f"### l2, eps {eps}", "", *_table(rows, eps, names, gradients), ""]
    if set(ROBUST_NETS) <= set(nets):
        lines += ["### Targets", "", *(line for verdict in verdicts(rows, ROBUST_NETS) for line in _told(verdict)), ""]
    return lines


def _rows(records: Iterable[Record]) -> Rows:
    """Robust outcomes by radius and attack, then by net, seeds stacked."""
    found: dict[tuple[float, str], dict[str, list[Robust]]] = {}
    for record in records:
        row = found.setdefault((number(record.settings["eps"]), _label(record)), {})
        flags = unpack(str(record.values["broken"]), record.n)
        row.setdefault(record.model, []).append(1 - np.array(flags, dtype=np.float64))
    return {key: {net: np.stack(seeds) for net, seeds in row.items()} for key, row in found.items()}


def _label(record: Record) -> str:
    return label(record.attack, record.settings)


def _caption(records: Sequence[Record]) -> list[str]:
    n = records[0].n
    seeds = sorted({record.seed for record in records if record.seed is not None})
    sources = sorted({r.versions.get(SOURCE, "unknown") for r in records if r.attack.startswith(("lowrank", "lora"))})
    widest = max(number(r.values["max_distance"]) / number(r.settings["eps"]) - 1 for r in records)
    half = 50 * (wilson(n // 2, n).high - wilson(n // 2, n).low)
    note = " (MIXED: measure again)" if len(sources) > 1 else ""
    return [
        f"Robust accuracy in percent, mean over seeds {seeds} (attacks without randomness: one run), n = {n}:",
        f"the 95 % interval of one number is at most +-{half:.1f} points. An image is broken if the net errs on what",
        f"the attack returned. Largest distance: eps + {1e6 * max(widest, 0):.2f} millionths.",
        f"Digest of our attack's source: {', '.join(sources)}{note}.",
        "",
    ]


def _table(rows: Rows, eps: float, nets: Sequence[str], gradients: Mapping[str, JSON]) -> list[str]:
    head = ["attack", "gradients", *(name.removeprefix("cifar10_") for name in nets), "mean"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for (radius, name), row in rows.items():
        if radius == eps:
            lines.append(f"| {' | '.join([name, str(gradients[name]), *_percents(row, nets)])} |")
    return lines


def _percents(row: Row, nets: Sequence[str]) -> list[str]:
    values = [100 * float(row[net].mean()) if net in row else None for net in nets]
    known = [value for value in values if value is not None]
    mean = f"{sum(known) / len(known):.1f}" if len(known) == len(nets) else "-"
    return [*("-" if value is None else f"{value:.1f}" for value in values), mean]


def _told(verdict: Verdict) -> list[str]:
    each = "; ".join(f"{net.removeprefix('cifar10_')} {one.points(2)}" for net, one in verdict.differences.items())
    remarks = [f"  - higher rank, {remark}" for remark in verdict.remarks]
    return [f"- **{WORDS[verdict.met]}** {verdict.target}: {verdict.summary}", f"  - {each or '-'}", *remarks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path, nargs="?", default=Path("integration/results/strength.jsonl"))
    print(markdown(read(parser.parse_args().records)))


if __name__ == "__main__":
    main()
