"""The check of monitoring: projections of every token on every layer, of plain and steered requests in one batch."""

import numpy as np

from trait_service.engine.monitor_columns import MonitorColumn, MonitorColumns
from trait_service.engine.spec import MonitorSpec
from trait_service.verify.bench import Bench
from trait_service.verify.findings import Finding, judged
from trait_service.verify.probe import Answer, Ask, Direction


def projections_are_right(bench: Bench) -> Finding:
    """Projections equal those of transformers' streams, and steering moves them by its dose on its own layer alone."""
    prompt = bench.prompts[2]
    slanted = MonitorSpec(columns=_columns(bench, bench.slanted, cosines=True))
    random = MonitorSpec(columns=_columns(bench, bench.random))
    push = bench.push(bench.middle)
    asks = [Ask(prompt, monitor=slanted), Ask(prompt, monitor=random), Ask(prompt, [push], monitor=random)]
    answers = bench.engine.run(asks)
    n_rows = [(0 if each.projections is None else len(each.projections)) for each in answers]
    expected = [len(prompt) + len(each.token_ids) - 1 for each in answers]
    if n_rows != expected:
        return Finding(status="failed", detail=f"{n_rows} positions were projected, expected {expected}")
    read, plain, steered = (_finite(each) for each in answers)
    difference = _beside_dose(steered[: len(prompt)] - plain[: len(prompt)], push.value, bench.middle)
    compared = f"projections on all {bench.engine.n_layers} layers: those of a steered request with its dose"
    if bench.reference is not None:
        streams = bench.reference.streams([*prompt, *answers[0].token_ids[:-1]]).numpy()
        difference = max(difference, _beside_streams(read, streams, bench.slanted.array))
        compared += ", those of an unsteered one with transformers in float32"
    allowed = bench.precision.capture
    return judged(
        difference <= allowed,
        compared=compared,
        detail=f"difference {difference:.2g} relative to the dose, or to the stream's norm; allowed {allowed:.2g}",
        difference=difference,
        allowed=allowed,
    )


def _columns(bench: Bench, direction: Direction, *, cosines: bool = False) -> MonitorColumns:
    """A direction on each layer, and after those its cosines."""
    kinds = (False, True) if cosines else (False,)
    return MonitorColumns.of(
        [
            MonitorColumn(layer=layer, direction=direction.sha256, cosine=cosine)
            for cosine in kinds
            for layer in range(bench.engine.n_layers)
        ]
    )


def _finite(answer: Answer) -> np.ndarray:
    return np.nan_to_num(np.asarray(answer.projections, dtype=np.float64), nan=np.inf)


def _beside_dose(moved: np.ndarray, dose: float, layer: int) -> float:
    """Largest error, relative to the dose: up to the steered layer nothing moves, and there each prompt token by the dose.

    Args:
        moved: `(n_prompt, n_layers)`: projections of the steered request minus those of the plain one.
        dose: Residual units.
        layer: The steered layer.
    """
    expected = np.where(np.arange(layer + 1) == layer, dose, 0.0)
    return float(np.abs(moved[:, : layer + 1] - expected).max() / abs(dose))


def _beside_streams(read: np.ndarray, streams: np.ndarray, direction: np.ndarray) -> float:
    """Largest error of projections, relative to the stream's norm, and of cosines.

    Args:
        read: `(n_tokens, 2 * n_layers)`: projections, then cosines.
        streams: `(n_layers, n_tokens, d_model)` float32.
        direction: `(d_model,)` float32.
    """
    norms = np.linalg.norm(streams, axis=-1).T
    expected = (streams @ direction).T / norms
    projections, cosines = np.split(read, 2, axis=1)
    return float(max(np.abs(projections / norms - expected).max(), np.abs(cosines - expected).max()))
