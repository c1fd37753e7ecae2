"""Stored results of a comparison, for the command line and the dashboard."""

from dataclasses import dataclass
from typing import Any

from trait_client.results import ResultReader
from trait_core.errors import InvalidRequestError

_COMPARISON = "SELECT * FROM variant_comparisons WHERE comparison_id = ?"

_EFFECTS = """
SELECT v.name AS vector, v.trait, v.method, e.* EXCLUDE (comparison_id)
FROM variant_effects e JOIN vectors v USING (sha256)
WHERE e.comparison_id = ?
ORDER BY v.name, e.layer, list_position(['own', 'base', 'variant', 'given', 'prompt'], e.text)
"""

_SPANS = """
SELECT v.name AS vector, s.* EXCLUDE (comparison_id), r.tokens
FROM variant_spans s
JOIN vectors v USING (sha256)
JOIN variant_texts t ON t.comparison_id = s.comparison_id AND t.prompt_id = s.prompt_id
                    AND t.text = CASE WHEN s.text = 'prompt' THEN (
                        SELECT min(o.text) FROM variant_texts o
                        WHERE o.comparison_id = s.comparison_id AND o.prompt_id = s.prompt_id) ELSE s.text END
JOIN readings r ON r.reading_id = t.base_reading_id
WHERE s.comparison_id = ? AND s.rank <= ?
ORDER BY v.name, s.layer, list_position(['base', 'variant', 'given', 'prompt'], s.text), s.rank
"""

_AROUND = 8
"""Tokens of context on either side of a span."""


@dataclass(frozen=True)
class StoredComparison:
    """A comparison and its findings.

    Attributes:
        comparison: Row of `variant_comparisons`.
        effects: Rows of `variant_effects` with the vector's name, trait and method.
        spans: Rows of `variant_spans` with the vector's name and the text `before` and `after` the span's `words`.
    """

    comparison: dict[str, Any]
    effects: list[dict[str, Any]]
    spans: list[dict[str, Any]]


def read_comparison(reader: ResultReader, comparison_id: str, *, most_spans: int) -> StoredComparison:
    """Read a comparison.

    Args:
        reader: The database.
        comparison_id: Id of the comparison.
        most_spans: Spans of each direction and text.

    Raises:
        InvalidRequestError: There is none with this id.
    """
    found = reader.records(_COMPARISON, [comparison_id])
    if not found:
        raise InvalidRequestError(f"no comparison {comparison_id[:80]!r} is in the database", param="comparison")
    spans = reader.records(_SPANS, [comparison_id, most_spans])
    for span in spans:
        tokens, start, stop = span.pop("tokens"), span["start"], span["stop"]
        span["before"] = "".join(tokens[max(0, start - _AROUND) : start])
        span["after"] = "".join(tokens[stop : stop + _AROUND])
    return StoredComparison(found[0], reader.records(_EFFECTS, [comparison_id]), spans)
