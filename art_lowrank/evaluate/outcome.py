"""What a cell came to, as its record says."""

from __future__ import annotations

from art_lowrank.record import Record

KIND = "evaluation"  # of the records
RECORDS, IMAGES, ASKED, MARK, LOCK = "records.jsonl", "images", "asked", "evaluation.json", "lock"  # in the folder


class NotRun(ValueError):
    """There is nothing to attack."""


def failed(record: Record) -> bool:
    """Whether the cell was given up."""
    return record.values["status"] == "failed"
