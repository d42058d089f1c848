"""Reports of an evaluation's folder: records in, a page and tables out; no model is run, no torch is needed."""

from art_lowrank.evaluate.report.command import Asked, report
from art_lowrank.evaluate.report.summary import Summary, summary_of

__all__ = ["Asked", "Summary", "report", "summary_of"]
