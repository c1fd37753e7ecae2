"""Calibration of a model: its massive dimensions and sink positions, found once on neutral texts and stored."""

import numpy as np
from trait_core.errors import ServiceError
from trait_core.schema import ActivationInput, ActivationsRequest
from trait_core.storage import json_sha256

from trait_extraction.massive import RULE, MassiveDimensions
from trait_extraction.reading.source import Source
from trait_extraction.reading.stage_store import KeyedLines, model_identity

FILE = "massive.jsonl"
"""Name of the file of calibrations, in the folder of the stages."""

TEXTS = (
    "The library on the corner opens at nine and closes at six, except on Sundays and holidays.",
    "Most of the bridge was rebuilt after the flood, with stone from the old quarry up the river.",
    "To make the dough, mix the flour with water and leave it to rest for about an hour.",
    "The train to the coast stops at four small stations and takes a little over two hours.",
    "A map of the valley hangs in the hall, next to a row of coats and two umbrellas.",
    "In the spring the farmers sow barley, and in the autumn they plough the fields again.",
    "The museum keeps a collection of clocks, some of which are still wound every single day.",
    "Rain is expected in the north tomorrow, while the south stays dry and rather mild all day.",
)
"""Neutral texts of at least 12 tokens."""
N_POSITIONS = 12
"""Number of positions of each text that are read, from the first."""


def calibrate(source: Source, stored: KeyedLines) -> MassiveDimensions:
    """The massive dimensions of the served model, from the store if it has been calibrated before.

    Every text is read at each of its first positions on all layers, one text at a time, since positions are not pooled.

    Args:
        source: The model.
        stored: Calibrations of earlier runs; a new one is added.

    Raises:
        ServiceError: The service failed, or answered with values that are not finite or fewer positions.
    """
    key = json_sha256([model_identity(source.info), TEXTS, N_POSITIONS, RULE])
    if (known := stored.get(key)) is not None and not source.again:
        return MassiveDimensions.from_json(known)
    source.report(f"calibrating {source.info.model}: reading {len(TEXTS)} neutral texts for massive dimensions")
    magnitude, norms = np.zeros(()), np.zeros(())
    for text in TEXTS:
        request = ActivationsRequest(
            inputs=[ActivationInput(text=text)], positions=[f"all[:{N_POSITIONS}]"], pooling="none"
        )
        rows = np.abs(source.model.activations(request).each(0).astype(np.float64))
        if len(rows) != N_POSITIONS or not np.isfinite(rows).all():
            raise ServiceError(
                f"calibration read {len(rows)} positions of {N_POSITIONS}, or values that are not finite: serve the model in "
                "float32 or bfloat16"
            )
        magnitude = magnitude + rows.mean(axis=0) / len(TEXTS)
        norms = norms + np.linalg.norm(rows, axis=2) / len(TEXTS)
    found = MassiveDimensions.of(magnitude, norms)
    stored.put(key, found.as_json())
    return found
