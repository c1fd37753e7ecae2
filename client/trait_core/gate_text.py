"""Gates as text, `harmful@9>0.5`: what `--when` and experiments read, and what result tables hold.

::

    harmful@9>0.5                           # at each position where the centred projection on layer 9 is above 0.5
    harmful>0                               # on the vector's chosen layer
    harmful@9<-0.25, separation             # a bound in units of separation
    harmful@9>0.5, latch                    # from the first such position on; prompt: the prompt's mean decides
    harmful@9>12.5, uncentred               # the projection itself, without the vector's centre
"""

import re
from typing import Any, get_args

from pydantic import ValidationError

from trait_core.errors import InvalidRequestError, first_fault
from trait_core.schema import Gate, Hold

FORM = "VECTOR@LAYER>NUMBER or VECTOR@LAYER<NUMBER, for example harmful@9>0.5"

NO_GATE = "none"
"""Word for no gate, where a list has others."""

WORDS: dict[str, tuple[str, Any]] = {
    "raw": ("unit", "raw"),
    "separation": ("unit", "separation"),
    **{hold: ("hold", hold) for hold in get_args(Hold)},
    "centred": ("centred", True),
    "uncentred": ("centred", False),
}
"""Word behind the bound -> field of the gate, and its value."""

_BOUND = re.compile(r"\s*(?P<vector>[^@<>\s,]+)\s*(?:@\s*(?P<layer>\d+))?\s*(?P<side>[<>])\s*(?P<bound>[^\s,]+)\s*")


def parse_gate(text: str, **fields: Any) -> Gate:
    """Read a gate.

    Args:
        text: The gate, as the module's text shows it.
        fields: Fields of the gate for which the text has no word.

    Raises:
        InvalidRequestError: The text does not have the form, or a value is out of its range.
    """
    bound, *words = text.split(",")
    found = _BOUND.fullmatch(bound)
    try:
        number = float(found["bound"]) if found else None
    except ValueError:
        number = None
    if found is None or number is None:
        raise InvalidRequestError(f"when {text!r} is refused: write {FORM}", param="when")
    given: dict[str, Any] = {"above" if found["side"] == ">" else "below": number}
    for word in (word.strip() for word in words):
        if word not in WORDS:
            raise InvalidRequestError(
                f"when {text!r} is refused: {word!r} is not one of {', '.join(WORDS)}", param="when"
            )
        name, value = WORDS[word]
        if name in given:
            raise InvalidRequestError(f"when {text!r} is refused: it gives {name} twice", param="when")
        given[name] = value
    layer = None if found["layer"] is None else int(found["layer"])
    try:
        return Gate(vector=found["vector"], layer=layer, **{**fields, **given})
    except ValidationError as error:
        raise InvalidRequestError(f"when {text!r} is refused: {first_fault(error).reason}", param="when") from error


def gate_text(gate: Gate, vector: str | None = None) -> str:
    """Write a gate, so that `parse_gate` reads the same one.

    Args:
        gate: The gate.
        vector: Name to write in place of the gate's own reference, which may be a hash.
    """
    side, bound = (">", gate.above) if gate.above is not None else ("<", gate.below)
    assert bound is not None, "a gate has one bound"
    layer = "" if gate.layer is None else f"@{gate.layer}"
    words: list[str] = [gate.unit] if gate.unit != "raw" else []
    words += [gate.hold] if gate.hold != "token" else []
    words += ["uncentred"] if not gate.centred else []
    return ", ".join([f"{vector or gate.reference}{layer}{side}{bound!r}", *words])
