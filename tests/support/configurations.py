"""Sixty ways to steer, monitor or leave a request alone, as a client writes them: what one service serves side by side."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import parity_product
from trait_core.schema import RESID_POST
from trait_core.vectors.inline import inline_vector
from trust_harness import LAYER, Target
from vector_fixtures import random_vector

GATE, GATE_LAYER = "gate", LAYER - 4
MONITORED = [f"monitored-{i}" for i in range(4)]
"""The set that requests share: one of these is of what the MLP adds."""
OF_MLP = "of-mlp"
PLAIN = 4
"""Configurations that steer nothing: two of those monitor."""
COEFFICIENTS = {
    "add": 5.0, "ablate": 0.0, "set": 5.0, "scale": -3.0, "floor": 5.0, "ceiling": -5.0, "replace": 10.0, "rotate": 30.0,
    "subspace": 0.0, "preserve_norm": 6.0,
}  # fmt: skip


@dataclass(frozen=True)
class Configuration:
    """One way to ask.

    Args:
        fields: `steering` and `monitor` of a request's body.
        shares: It may read its prompt from the prefix cache.
        gated: It has a gate.
    """

    name: str
    fields: dict[str, Any]
    shares: bool
    gated: bool


def register(target: Target) -> None:
    """Put the vectors that the configurations name into the registry; `canary` is there."""
    files = {GATE: random_vector(target.info, 40, GATE_LAYER)}
    files |= {name: random_vector(target.info, 50 + i, LAYER + i) for i, name in enumerate(MONITORED)}
    files[OF_MLP] = random_vector(target.info, 60, LAYER, hook_point="mlp_out")
    with target.client() as client:
        for name, vector in files.items():
            client.put(f"/v1/vectors/{name}", content=vector.to_bytes()).raise_for_status()


def configurations(n: int, d_model: int, seed: int = 22) -> list[Configuration]:
    """`n` different ones: combinations of `parity_product`, every third with a monitor, and `PLAIN` others."""
    monitors = [None, {"vectors": MONITORED, "prompt": False}, {"vectors": [OF_MLP], "at": "mlp_out"}]
    drawn = random.Random(seed).sample(parity_product.whole(), n - PLAIN)
    made = [_steered(i, case, d_model, monitors[i % 6] if i % 6 < 3 else None) for i, case in enumerate(drawn)]
    for i in range(PLAIN):
        monitor = monitors[i % 3]
        fields = {"monitor": monitor} if monitor else {"cache_salt": f"user {i}"}
        made.append(
            Configuration(f"plain {i}", fields, monitor is None or not monitor.get("prompt", True), gated=False)
        )
    return made


def _steered(i: int, case: parity_product.Case, d_model: int, monitor: dict[str, Any] | None) -> Configuration:
    """A combination on a vector of its own, sent with the request, or on the registered one."""
    draw = np.random.default_rng(1000 + i)
    inline = [inline_vector(draw.normal(size=d_model), "float16").model_dump() for _ in range(2)]
    registered = case.at == RESID_POST and i % 2 == 0
    vector: Any = "canary" if registered else inline[0]
    operation = {"subspace": "ablate", "preserve_norm": "add"}.get(case.operation, case.operation)
    term = {
        "vector": [vector, inline[1]] if case.operation == "subspace" else vector,
        "coefficient": COEFFICIENTS[case.operation],
        "layers": [LAYER],
        "at": case.at,
        "operation": operation,
        "scope": {"positions": [2, 150]} if case.scope == "positions" else case.scope,
        "preserve_norm": case.operation == "preserve_norm",
    }
    hold, _, side = case.gate.partition(" ")
    if hold != "none":
        bound = {"prompt": -1.0, "latch": 0.5}.get(hold, 0.0)
        term["when"] = {"vector": GATE, side or "above": bound, "hold": hold, "centred": False}
    fields = {"steering": {"terms": [term]}} | ({"monitor": monitor} if monitor else {})
    shares = hold not in ("latch", "prompt") and (monitor is None or not monitor.get("prompt", True))
    return Configuration(f"{i}: {case.name}", fields, shares, gated=hold != "none")
