"""Steps of an engine that a test writes down itself: the view of a runner, a small state, and its directions."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from trait_service.engine.engine_shape import EngineShape
from trait_service.engine.runner_view import StepView
from trait_service.engine.settings import EngineSettings
from trait_service.engine.spec import RequestSpec
from trait_service.engine.state import SteeringState

N_LAYERS, D_MODEL = 3, 4
EAST, NORTH = np.eye(D_MODEL, dtype=np.float32)[:2]
SHAPE = EngineShape(N_LAYERS, D_MODEL, max_requests=3, max_tokens=32, device=torch.device("cpu"))


def digest(direction) -> str:
    """A direction's name in the bank."""
    return hashlib.sha256(direction.tobytes()).hexdigest()


def small_state(**shape) -> SteeringState:
    """Two directions in its bank; `shape` differs from `SHAPE`."""
    settings = EngineSettings(bank_rows=2, terms_per_layer=4, capture_rows=3)
    state = SteeringState(settings, replace(SHAPE, **shape))
    for direction in (EAST, NORTH):
        state.bank.put(digest(direction), direction.tobytes())
    return state


def view_of(
    requests: Mapping[str, tuple[RequestSpec | None, int, int, int]], input_ids: torch.Tensor | None = None
) -> StepView:
    """The view of a step: request id -> spec, length of its prompt, tokens computed before, tokens of the step."""
    of_each = list(requests.values())
    return StepView(
        request_ids=list(requests),
        n_scheduled=np.array([n for _, _, _, n in of_each]),
        n_computed=np.array([computed for _, _, computed, _ in of_each]),
        n_prompt=lambda i: requests[i][1],
        extra_args=lambda i: spec.to_extra_args() if (spec := requests[i][0]) else None,
        input_ids=input_ids,
    )
