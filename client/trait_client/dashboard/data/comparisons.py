"""Comparisons of two models: what was found, and one prompt's texts with both models' values."""

import dataclasses
import json
from typing import Any

from trait_client.dashboard.data.readings import shown
from trait_client.results import ResultReader
from trait_client.variants.stored import read_comparison
from trait_core.errors import InvalidRequestError

MOST_SPANS = 20

_COMPARISONS = """
SELECT c.comparison_id, c.name, c.base_model, c.variant_model, c.max_tokens, c.compared_at, count(DISTINCT t.prompt_id) AS n
FROM variant_comparisons c JOIN variant_texts t USING (comparison_id)
GROUP BY ALL ORDER BY c.compared_at DESC
"""

_DIRECTIONS = """
SELECT DISTINCT e.sha256 || '|' || e.layer AS key, e.layer, v.trait, v.method, v.name AS vector,
       (v.metadata->>('$.layers."' || e.layer || '".separation'))::DOUBLE AS separation
FROM variant_effects e JOIN vectors v USING (sha256)
WHERE e.comparison_id = ?
ORDER BY v.trait, e.layer, v.method
"""

_TEXTS = """
SELECT v.text, v.base_reading_id, v.n_prompt, v.tokens, v.sha256 || '|' || v.layer AS direction, v.base, v.variant, r.messages,
       r.given, r.finish_reason
FROM variant_readings v JOIN readings r ON r.reading_id = v.base_reading_id
WHERE v.comparison_id = ? AND v.prompt_id = ?
ORDER BY v.text
"""


def comparisons(reader: ResultReader) -> list[dict[str, Any]]:
    """All comparisons, newest first."""
    return reader.records(_COMPARISONS)


def comparison(reader: ResultReader, comparison_id: str) -> dict[str, Any]:
    """Effects, spans, directions and prompt ids of one comparison.

    Raises:
        InvalidRequestError: There is none with this id.
    """
    found = read_comparison(reader, comparison_id, most_spans=MOST_SPANS)
    prompts = "SELECT DISTINCT prompt_id FROM variant_texts WHERE comparison_id = ? ORDER BY ALL"
    return dataclasses.asdict(found) | {
        "directions": reader.records(_DIRECTIONS, [comparison_id]),
        "prompts": [prompt_id for (prompt_id,) in reader.rows(prompts, [comparison_id])],
    }


def compared(reader: ResultReader, comparison_id: str, prompt_id: str) -> dict[str, Any]:
    """One prompt's texts: tokens and, for each direction, both models' projections by token, residual units.

    Raises:
        InvalidRequestError: The comparison has no such prompt.
    """
    texts: dict[str, dict[str, Any]] = {}
    for row in reader.records(_TEXTS, [comparison_id, prompt_id]):
        text = texts.setdefault(
            row["text"],
            {name: row[name] for name in ("text", "n_prompt", "tokens", "finish_reason")}
            | {
                "messages": [shown(turn) for turn in json.loads(row["messages"])] if row["messages"] else None,
                "values": {},
            },
        )
        text["values"][row["direction"]] = {
            side: [round(value, 4) for value in row[side]] for side in ("base", "variant")
        }
    if not texts:
        raise InvalidRequestError(f"the comparison has no prompt {prompt_id[:80]!r}", param="prompt")
    return {"prompt_id": prompt_id, "texts": list(texts.values())}
