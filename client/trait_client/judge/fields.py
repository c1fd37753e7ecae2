"""The optional fields of a judge's request: their names at the endpoint, and what to do when it refuses one.

OpenAI's newer models take `max_completion_tokens` in place of `max_tokens`; others forbid logprobs or a temperature. A
refusal in plain words is answered once, and remembered: by the other name, or without logprobs, whose scores are then
the written numbers (mode `sampled`). A field that changes the answer in another way is left out only where `[judge]`
says so.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

RENAMED = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""The two names of the limit of an answer."""

NAMES = ("temperature", "max_tokens", "logprobs", "top_logprobs")
"""Fields that `[judge]` may rename or leave out."""

_UNSUPPORTED = re.compile(
    r"unsupported|not (?:\w+ )?(?:supported|allowed|permitted|available|recogni[sz]ed|enabled)|unrecogni[sz]ed|unknown"
    r"|unexpected|does(?: not|n't) (?:support|allow|accept)|is disabled|extra (?:inputs|fields)",
    re.IGNORECASE,
)
_REFUSING = frozenset({400, 403, 404, 422})


@dataclass(frozen=True)
class RequestFields:
    """Names of the fields at the endpoint.

    Args:
        names: Field -> its name there; None leaves it out. A field that is missing has its own name.
        settled: The name of the limit was changed once already.
    """

    names: Mapping[str, str | None]
    settled: bool = False

    def name_of(self, field: str) -> str | None:
        """The field's name at the endpoint; None if it is not sent."""
        if field == "top_logprobs" and self.name_of("logprobs") is None:
            return None
        return self.names.get(field, field)

    def __str__(self) -> str:
        """`max_tokens = max_completion_tokens, no logprobs`."""
        changed = {name: self.name_of(name) for name in NAMES if self.name_of(name) != name}
        return ", ".join(f"no {field}" if name is None else f"{field} = {name}" for field, name in changed.items())

    def written(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values under the endpoint's names, without those that it does not take."""
        named = ((self.name_of(field), value) for field, value in values.items())
        return {name: value for name, value in named if name is not None}

    def after(self, status: int, message: str, param: str | None) -> Self | None:
        """The fields to try after a refusal; None if its words name no field that can be changed."""
        if status not in _REFUSING:
            return None
        said = f"{param} {message}"
        limit = self.name_of("max_tokens")
        if limit in RENAMED and not self.settled and _names(limit, said) and _UNSUPPORTED.search(message):
            return replace(self, names={**self.names, "max_tokens": RENAMED[limit]}, settled=True)
        refused = status == 403 or _UNSUPPORTED.search(message)
        if self.name_of("logprobs") is not None and "logprob" in said.lower() and refused:
            return replace(self, names={**self.names, "logprobs": None})
        return None

    def hint(self, message: str) -> str:
        """The line of `[judge]` that helps against a refusal; "" if its words name no field of ours."""
        for field in NAMES:
            name = self.name_of(field)
            if name is not None and _names(name, message):
                return f'; to leave it out, or to rename it: fields = {{{field} = false}} or {{{field} = "NAME"}}'
        return ""


def _names(field: str, text: str) -> bool:
    return re.search(rf"(?<![A-Za-z_]){re.escape(field)}(?![A-Za-z_])", text) is not None
