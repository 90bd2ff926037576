"""The mean of vectors over ranks, compressed, inside a loop of one's own."""

from .aggregator import Aggregator
from .report import Report

__all__ = ["Aggregator", "Report"]
