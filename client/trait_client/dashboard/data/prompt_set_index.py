"""Index of a prompt set for filters and ordering, read once and cached: texts, outcomes, metadata and means."""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trait_client.results import ResultReader
from trait_core.errors import InvalidRequestError

REPLY_VALUES = "p.projected[r.n_prompt:r.n_prompt + r.n_response - 1]"
"""Values of the reply's tokens. Each token is produced by the position before it."""

_TEXTS = """
SELECT r.reading_id, r.prompt_id, r.outcome, r.metadata, r.prompt_set, r.n_prompt + r.n_response AS length,
       lower(coalesce(r.text, array_to_string(r.messages->>'$[*].content', chr(10))) || chr(10)
             || coalesce(r.response, '') || chr(10) || r.prompt_id) AS text
FROM readings r JOIN runs s USING (run_id)
WHERE s.experiment = ? AND r.read_for IS NULL
ORDER BY r.prompt_id, r.reading_id
"""

_MEANS = f"""
SELECT p.reading_id, p.sha256 || '|' || p.layer AS direction, list_avg({REPLY_VALUES}) AS mean
FROM reading_projections p JOIN readings r USING (reading_id) JOIN runs s USING (run_id)
WHERE s.experiment = ? AND r.read_for IS NULL
"""

_DIRECTIONS = """
SELECT DISTINCT p.sha256 || '|' || p.layer AS key, p.sha256, p.layer, v.trait, v.name AS vector, v.method,
       (v.metadata->>('$.layers."' || p.layer || '".separation'))::DOUBLE / 2 AS half_separation
FROM reading_projections p JOIN readings r USING (reading_id) JOIN runs s USING (run_id) JOIN vectors v USING (sha256)
WHERE s.experiment = ? AND r.read_for IS NULL
ORDER BY v.trait, p.layer, v.method
"""


MOST_VALUES = 300
"""Values of a field that a picker lists; a field with more does not filter."""

SET_FIELD = "prompt set"
"""Name of the field that tells the sets of a folder apart."""


@dataclass(frozen=True)
class Selection:
    """A filter and an order of readings.

    Attributes:
        name: Name of the prompt set.
        outcome: Outcome to show; None shows all, "" those without an outcome.
        text: Text to find in prompt, reply or id, ignoring case.
        where: Metadata field -> the value that a prompt has there, as `field_values` writes it.
        order: `id`, `length`, or a direction `sha256|layer` for its mean over the reply.
        descending: Largest first.
    """

    name: str
    outcome: str | None = None
    text: str = ""
    order: str = "id"
    descending: bool = False
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One reading; `text` is prompt, reply and id in lower case, `fields` its metadata: field -> values as text."""

    reading_id: str
    prompt_id: str
    outcome: str | None
    length: int
    text: str
    fields: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class PromptSetIndex:
    """A prompt set, ordered by id.

    Attributes:
        means: Direction -> reading -> mean projection of the reply, residual units; only readings with a reply.
        fields: Metadata field -> its values with the number of prompts that have them, in order.
    """

    name: str
    entries: list[Entry]
    means: dict[str, dict[str, float]]
    directions: list[dict[str, Any]]
    fields: dict[str, list[tuple[str, int]]]

    @classmethod
    def read(cls, reader: ResultReader, name: str) -> "PromptSetIndex":
        """Read the index of a prompt set."""
        entries = [
            Entry(reading_id, prompt_id, outcome, length, text, field_values(metadata, prompt_set))
            for reading_id, prompt_id, outcome, metadata, prompt_set, length, text in reader.query(_TEXTS, [name]).rows
        ]
        means: dict[str, dict[str, float]] = defaultdict(dict)
        for reading_id, direction, mean in reader.query(_MEANS, [name]).rows:
            if mean is not None:
                means[direction][reading_id] = mean
        directions = reader.records(_DIRECTIONS, [name])
        outcomes = {entry.reading_id: entry.outcome for entry in entries}
        for each in directions:
            each.update(_summary(means[each["key"]], outcomes))
        return cls(name, entries, dict(means), directions, _counted(entries))

    def select(self, chosen: Selection) -> list[str]:
        """Ids of the selected readings, in order.

        Raises:
            InvalidRequestError: The order is unknown.
        """
        found = [entry for entry in self.entries if _fits(entry, chosen)]
        if chosen.order == "length":
            found.sort(key=lambda entry: entry.length, reverse=chosen.descending)
        elif chosen.order != "id":
            if chosen.order not in self.means:
                raise InvalidRequestError(
                    f"order {chosen.order[:80]!r} is not one of id, length, SHA256|LAYER", param="order"
                )
            means = self.means[chosen.order]
            without = [entry for entry in found if entry.reading_id not in means]
            found = [entry for entry in found if entry.reading_id in means]
            found.sort(key=lambda entry: means[entry.reading_id], reverse=chosen.descending)
            found += without
        elif chosen.descending:
            found.reverse()
        return [entry.reading_id for entry in found]

    def means_of(self, reading_id: str) -> dict[str, float | None]:
        """Direction -> mean over the reply."""
        return {direction: values.get(reading_id) for direction, values in self.means.items()}


def _fits(entry: Entry, chosen: Selection) -> bool:
    if chosen.outcome is not None and entry.outcome != (chosen.outcome or None):
        return False
    if any(value not in entry.fields.get(name, ()) for name, value in chosen.where.items()):
        return False
    return not chosen.text or chosen.text.lower() in entry.text


def field_values(metadata: str | None, prompt_set: str | None) -> dict[str, tuple[str, ...]]:
    """The values of each metadata field as text; a list has several, and an object is its JSON."""
    found = {SET_FIELD: prompt_set} | json.loads(metadata or "{}")
    values: dict[str, tuple[str, ...]] = {}
    for name, value in found.items():
        several = value if isinstance(value, list) else [value]
        values[name] = tuple(dict.fromkeys(_as_text(each) for each in several if each is not None))
    return values


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _counted(entries: Iterable[Entry]) -> dict[str, list[tuple[str, int]]]:
    """Fields that can filter: those with two values or more, but not too many."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    total = 0
    for entry in entries:
        total += 1
        for name, values in entry.fields.items():
            counts[name].update(values)
    return {
        name: sorted(found.items())
        for name, found in counts.items()
        if len(found) <= MOST_VALUES and (len(found) > 1 or 0 < found.total() < total)
    }


def _summary(means: dict[str, float], outcomes: dict[str, str | None]) -> dict[str, Any]:
    """Mean and standard deviation over replies, for all and for each outcome."""
    groups: dict[str | None, list[float]] = defaultdict(list)
    for reading_id, own in means.items():
        groups[outcomes[reading_id]].append(own)
    named = sorted(groups.items(), key=lambda item: (item[0] is None, item[0] or ""))
    overall = _moments(list(means.values()))
    return {
        "reply_mean": overall[0],
        "reply_sd": overall[1],
        "outcomes": [
            {"outcome": outcome, "n": len(values), "mean": _moments(values)[0], "sd": _moments(values)[1]}
            for outcome, values in named
        ],
    }


def _moments(values: list[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    mean = statistics.fmean(values)
    return mean, statistics.stdev(values, mean) if len(values) > 1 else None
