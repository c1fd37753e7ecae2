"""`trait-extract report`: the evidence for a trait's vectors on one page."""

from trait_extraction.report.content import TraitReport, read_report
from trait_extraction.report.page import page

__all__ = ["TraitReport", "page", "read_report"]
