"""`trait-extract report`: what is known of a trait's vectors, as one page."""

from trait_extraction.report.content import TraitReport, read_report
from trait_extraction.report.page import page

__all__ = ["TraitReport", "page", "read_report"]
