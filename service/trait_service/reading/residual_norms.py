"""Residual norms of the served model, measured once at start-up on a neutral text."""

import numpy as np
from trait_core.errors import InvalidRequestError

from trait_service.reading.reader import ActivationReader

POSITIONS = "all[4:]"
"""The first positions are attention sinks with many times the usual norm."""

NEUTRAL_TEXT = """\
The market opens at seven in the morning. By then the farmers have already set up their tables, and the first buyers \
walk between the rows with baskets and cloth bags. There are apples from the hills, bread that is still warm, eggs in \
grey boxes, and a woman who sells nothing but honey. A boy counts coins on a wooden crate. Near the fountain, two men \
talk about the weather, which has been dry since the middle of April, and about the road to the coast, which is closed \
on Sundays while the bridge is repaired.

A library keeps its books in order so that people can find them again. Each book has a number, and each number stands \
for a subject. When a reader returns a book, someone looks at the number and carries it to its shelf. If the number is \
wrong, the book may be lost for years, although it never left the building. For this reason the staff check one shelf \
every day, from left to right, and write down what is missing.

Water boils at a lower temperature on a mountain than at the sea, because the air presses less on its surface. Cooks \
who live high up know this: their potatoes need more time. The same rule is used in factories, where a pump takes air \
out of a vessel so that a liquid boils while it is only warm. In the evening the workers close the valves, clean the \
floor, and leave a short note for those who come next."""


async def measure_residual_norms(reader: ActivationReader) -> list[float]:
    """Mean token norm after each block, `n_layers` long, over positions 4 and later of `NEUTRAL_TEXT` or of what fits.

    Raises:
        RuntimeError: Nothing of it fits into the model's context, or a norm is not finite and positive.
    """
    try:
        norms = await reader.mean_norms(NEUTRAL_TEXT, POSITIONS)
    except InvalidRequestError as error:
        raise RuntimeError(
            f"the residual norms of the model cannot be measured: {error}; --max-model-len must be 6 or more, "
            "since they are means over positions 4 and later"
        ) from error
    if not np.isfinite(norms).all() or (norms <= 0).any():
        raise RuntimeError(f"the residual norms of the model are not finite and positive: {norms.tolist()}")
    return [float(norm) for norm in norms]
