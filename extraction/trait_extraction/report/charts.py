"""Charts as inline SVG: lines with bands over layers, and histograms of two sides. Colours are the page's classes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 640, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 40


@dataclass(frozen=True)
class Curve:
    """A value at each layer.

    Args:
        colour: CSS class.
        values: Layer -> value; None is a gap.
        bands: Layer -> interval.
    """

    colour: str
    values: Mapping[int, float | None]
    bands: Mapping[int, tuple[float, float] | None]


def curves(drawn: Mapping[str, Curve], *, unit: str, marked: int, low: float | None, high: float | None) -> str:
    """Lines over layers, the chosen one marked.

    Args:
        drawn: Name -> curve.
        unit: Label of the upright axis.
        marked: Layer.
        low: Of the axis; None takes it from the values.
        high: The same.
    """
    values = [v for curve in drawn.values() for v in curve.values.values() if v is not None]
    layers = sorted({layer for curve in drawn.values() for layer in curve.values})
    if not values:
        return '<p class="muted">nothing was measured</p>'
    bottom = min(0.0, *values) if low is None else min(low, *values)
    top = max(values) if high is None else high
    scale_x = _scale(layers[0], max(layers[-1], layers[0] + 1), LEFT, WIDTH - RIGHT)
    scale_y = _scale(bottom, top if top > bottom else bottom + 1, HEIGHT - BOTTOM, TOP)
    parts = _grid(_ticks(bottom, top), scale_y)
    step = max(1, len(layers) // 10)
    parts += [_label(scale_x(layer), HEIGHT - BOTTOM + 16, str(layer)) for layer in layers[::step]]
    parts.append(_label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "layer"))
    parts.append(
        f'<line class="mark" x1="{scale_x(marked):.1f}" x2="{scale_x(marked):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    )
    for curve in drawn.values():
        inside = [(layer, band) for layer, band in sorted(curve.bands.items()) if band is not None]
        if inside:
            edge = [(layer, band[1]) for layer, band in inside] + [(layer, band[0]) for layer, band in reversed(inside)]
            points = " ".join(f"{scale_x(x):.1f},{scale_y(min(max(y, bottom), top)):.1f}" for x, y in edge)
            parts.append(f'<polygon class="band {curve.colour}" points="{points}"/>')
    for name, curve in drawn.items():
        known = [(layer, value) for layer, value in sorted(curve.values.items()) if value is not None]
        points = " ".join(f"{scale_x(x):.1f},{scale_y(y):.1f}" for x, y in known)
        parts.append(f'<polyline class="line {curve.colour}" points="{points}"/>')
        for x, y in known:
            band = curve.bands.get(x)
            said = f"{name}, layer {x}: {y:.3g}" + (f" [{band[0]:.3g}, {band[1]:.3g}]" if band else "")
            parts.append(
                f'<circle class="dot {curve.colour}" cx="{scale_x(x):.1f}" cy="{scale_y(y):.1f}" r="{4 if x == marked else 2}">'
                f"<title>{escape(said)}</title></circle>"
            )
    return _svg(parts, f"{unit} by layer", unit)


def histogram(positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64], *, unit: str) -> str:
    """Both sides in equal bins, one above the other's axis.

    Args:
        positive: `(n,)`.
        negative: `(m,)`.
        unit: Label of the level axis.
    """
    both = np.concatenate([positive, negative])
    low, high = float(min(both.min(), -1.5)), float(max(both.max(), 1.5))
    edges = np.linspace(low, high, 25)
    counts = [np.histogram(side, edges)[0] for side in (positive, negative)]
    most = int(max(c.max() for c in counts))
    scale_x = _scale(low, high, LEFT, WIDTH - RIGHT)
    scale_y = _scale(0, most, HEIGHT - BOTTOM, TOP)
    parts = _grid([0.0, *(float(n) for n in {max(1, most // 2), most})], scale_y)
    for side, count in zip(("positive", "negative"), counts, strict=True):
        for i, n in enumerate(count.tolist()):
            if n:
                x, width = scale_x(edges[i]), scale_x(edges[i + 1]) - scale_x(edges[i])
                parts.append(
                    f'<rect class="bar {side}" x="{x:.1f}" y="{scale_y(n):.1f}" width="{width:.1f}" '
                    f'height="{scale_y(0) - scale_y(n):.1f}"><title>{side}: {n} from {edges[i]:.2f} to {edges[i + 1]:.2f}</title></rect>'
                )
    parts.append(f'<line class="mark" x1="{scale_x(0):.1f}" x2="{scale_x(0):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    parts += [_label(scale_x(x), HEIGHT - BOTTOM + 16, f"{x:+.0f}" if x else "0") for x in _whole_ticks(low, high)]
    parts.append(_label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, unit))
    return _svg(parts, f"held-out texts, {unit}", "texts")


def _svg(parts: Sequence[str], said: str, unit: str) -> str:
    title = f'<text class="unit" x="4" y="{TOP - 1}">{escape(unit)}</text>'
    return (
        f'<svg viewBox="0 -8 {WIDTH} {HEIGHT + 8}" role="img" aria-label="{escape(said, quote=True)}">'
        f"{''.join(parts)}{title}</svg>"
    )


def _grid(ticks: Sequence[float], scale_y: "_Scale") -> list[str]:
    parts = []
    for tick in ticks:
        y = scale_y(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{y + 4:.1f}">{tick:g}</text>')
    return parts


def _label(x: float, y: float, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def _scale(low: float, high: float, start: float, stop: float) -> _Scale:
    return _Scale(low, high, start, stop)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, four or so."""
    span = (high - low) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _whole_ticks(low: float, high: float) -> range:
    return range(math.ceil(low), math.floor(high) + 1, max(1, math.ceil((high - low) / 12)))
