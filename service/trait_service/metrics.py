"""Prometheus metrics of steering, in addition to vLLM's own on `/metrics`.

No label carries a prompt, or a value that a caller can choose (names of vectors, keys, paths).
"""

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

from trait_service.resolving.resolve import ResolvedSteering

REQUESTS = Counter(
    "trait_requests", "Requests that were answered, by what they asked of the residual stream.", ["kind"]
)
TERMS = Counter("trait_terms", "Steering terms sent to the engine, one for each layer.", ["operation"])
DOSE = Histogram(
    "trait_relative_dose",
    "Relative dose (|a| / residual norm) of each steering term.",
    buckets=(0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 5.0),
)
POSITIONS = Counter("trait_steered_positions", "Positions that were steered, counted in the worker.", ["part"])
CAPTURES = Counter("trait_captures", "Texts whose activations were captured.")
REFUSALS = Counter("trait_refusals", "Requests that were refused or failed, by HTTP status.", ["status"])
IN_FLIGHT = Gauge("trait_requests_in_flight", "Requests that are being answered, waiting ones included.")
BANK_ROWS = Gauge("trait_bank_rows", "Rows of the vector bank.", ["state"])

KINDS = ("steered", "monitored", "captured", "plain")

for _kind in KINDS:
    REQUESTS.labels(_kind)


def count_run(steering: ResolvedSteering | None, *, monitored: bool, captured: bool) -> None:
    """Count a prompt that goes to the engine."""
    kinds = {"steered": steering is not None, "monitored": monitored, "captured": captured}
    for kind, asked in kinds.items():
        if asked:
            REQUESTS.labels(kind).inc()
    if not any(kinds.values()):
        REQUESTS.labels("plain").inc()
    if captured:
        CAPTURES.inc()
    for term in steering.applied if steering else ():
        TERMS.labels(term.operation).inc()
        DOSE.observe(term.relative_dose)


def count_positions(prompt: int, generated: int) -> None:
    """Count the steered positions of one prompt, as the worker reports them."""
    POSITIONS.labels("prompt").inc(prompt)
    POSITIONS.labels("generated").inc(generated)


def expose_bank(rows: int, held: Callable[[], int], resident: Callable[[], int]) -> None:
    """Publish the bank's occupancy, read whenever the metrics are scraped."""
    BANK_ROWS.labels("all").set(rows)
    BANK_ROWS.labels("held").set_function(held)
    BANK_ROWS.labels("resident").set_function(resident)
