"""Comparison of two models, base and variant, on the same tokens: where do they differ along a trait's direction?"""

from trait_client.variants.readings import Progress
from trait_client.variants.run import CompareOptions, ComparisonOutcome, Responses, run_comparison
from trait_client.variants.sides import Side, opened_sides, side_of
from trait_client.variants.stored import StoredComparison, read_comparison

__all__ = [
    "CompareOptions",
    "ComparisonOutcome",
    "Progress",
    "Responses",
    "Side",
    "StoredComparison",
    "opened_sides",
    "read_comparison",
    "run_comparison",
    "side_of",
]
