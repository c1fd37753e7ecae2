"""A report as one HTML file: no script, nothing loaded from elsewhere, light and dark."""

from collections.abc import Callable
from html import escape

from trait_core.schema import LayerEvidence

from trait_extraction.fitting.layer_choice import chosen_by
from trait_extraction.report.charts import Curve, curves, histogram
from trait_extraction.report.content import MOST_TEXTS, Text, TraitReport

COLOURS = ("m0", "m1", "m2", "m3", "m4", "m5")
HALVES = "projection in half separations: ±1 is the average training example of either side, 0 the midpoint"

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1c1f; --muted: #5d6168; --line: #dfe0e3; --back: #f6f6f4; --card: #fff;
  --c0: #2456c8; --c1: #b8440f; --c2: #1d7a4f; --c3: #7b3fb0; --c4: #7a7d84; --c5: #a07a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececea; --muted: #a3a7ae; --line: #33353a; --back: #121316;
  --card: #1b1c20; --c0: #8aa6ff; --c1: #f2905c; --c2: #63c795; --c3: #c79af0; --c4: #a0a3aa; --c5: #d9b84a; } }
* { box-sizing: border-box; } body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1.4rem 1rem 3rem; } h1 { margin: 0 0 .2rem; font-size: 1.6rem; }
h2 { font-size: 1.1rem; margin: 0 0 .3rem; } h3 { font-size: .95rem; margin: .6rem 0 .1rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem; margin: 1rem 0; }
p { margin: .3rem 0; max-width: 90ch; } .muted { color: var(--muted); font-size: .88rem; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem 1.6rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; } th { color: var(--muted); font-weight: 500; text-align: left; }
th, td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; display: block; } .grid { stroke: var(--line); } .mark { stroke: var(--muted); stroke-dasharray: 3 3; }
.tick, .unit { fill: var(--muted); font-size: 12px; text-anchor: middle; } .end { text-anchor: end; } .unit { text-anchor: start; }
.line { fill: none; stroke-width: 1.8; } .band { opacity: .13; stroke: none; } .dot { stroke: none; }
.line.m0 { stroke: var(--c0); } .line.m1 { stroke: var(--c1); } .line.m2 { stroke: var(--c2); } .line.m3 { stroke: var(--c3); } .line.m4 { stroke: var(--c4); stroke-dasharray: 4 3; } .line.m5 { stroke: var(--c5); }
.m0 { fill: var(--c0); } .m1 { fill: var(--c1); } .m2 { fill: var(--c2); } .m3 { fill: var(--c3); } .m4 { fill: var(--c4); } .m5 { fill: var(--c5); } .line { fill: none !important; }
.key i { display: inline-block; width: 1.1em; height: .35em; border-radius: 2px; margin-right: .4em; vertical-align: middle; } .key { margin-right: 1.1em; }
i.m0 { background: var(--c0); } i.m1 { background: var(--c1); } i.m2 { background: var(--c2); } i.m3 { background: var(--c3); } i.m4 { background: var(--c4); } i.m5 { background: var(--c5); }
.bar { opacity: .6; } .bar.positive, i.positive { fill: var(--c1); background: var(--c1); } .bar.negative, i.negative { fill: var(--c0); background: var(--c0); }
.text { border-top: 1px solid var(--line); padding: .5rem 0; } .text p { white-space: pre-wrap; overflow-wrap: anywhere; } .value { font-variant-numeric: tabular-nums; font-weight: 600; }
"""


def page(report: TraitReport) -> str:
    """The page of one trait, HTML."""
    meta = report.main.metadata
    colours = {method: _colour(method, i) for i, method in enumerate(report.vectors)}
    body = [
        f"<h1>{escape(report.name)}</h1>",
        (
            f'<p class="muted">{escape(meta.model)}, {meta.n_layers} layers of width {meta.d_model}; {escape(meta.style or "imported")}, '
            f"{meta.n_positive} pairs, {meta.n_held_out} held out, read at {escape(meta.positions)}</p>"
        ),
        f"<p>Layer <b>{report.layer}</b>, chosen by {escape(chosen_by(meta))}: {escape(meta.chosen_because)}</p>",
        _section("Held-out evidence by layer", _evidence(report, colours)),
        _section(f"The two sides at layer {report.layer}", _separation(report)),
        _section("Nearest traits", _neighbours(report)),
        _section("Held-out texts", _texts(report)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(report.name)} · trait vectors</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body><main>\n{chr(10).join(body)}\n</main></body>\n</html>\n"
    )


def _colour(method: str, i: int) -> str:
    return "m4" if method == "random" else [c for c in COLOURS if c != "m4"][i % (len(COLOURS) - 1)]


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _evidence(report: TraitReport, colours: dict[str, str]) -> str:
    key = "".join(f'<span class="key"><i class="{c}"></i>{escape(m)}</span>' for m, c in colours.items())
    charts = [
        _curves(report, colours, "AUC", lambda at: at.auc, lambda at: at.auc_interval, low=0.5, high=1.0),
        _curves(
            report, colours, "accuracy", lambda at: at.accuracy, lambda at: at.accuracy_interval, low=0.5, high=1.0
        ),
        _curves(report, colours, "Cohen's d", lambda at: at.cohens_d, lambda at: at.cohens_d_interval),
        _curves(report, colours, "separation / norm", lambda at: at.separation / at.residual_norm, lambda _: None),
    ]
    head = "".join(
        f'<th class="{"" if name == "method" else "n"}">{name}</th>'
        for name in ("method", "AUC", "95 %", "accuracy", "95 %", "Cohen's d", "95 %", "separation", "/ norm")
    )
    rows = []
    for method, vector in report.vectors.items():
        at = vector.evidence(report.layer)
        cells = [_number(at.auc), _interval(at.auc_interval), _number(at.accuracy), _interval(at.accuracy_interval)]
        cells += [_number(at.cohens_d), _interval(at.cohens_d_interval), _number(at.separation)]
        cells.append(_number(at.separation / at.residual_norm))
        rows.append(f"<tr><td>{escape(method)}</td>" + "".join(f'<td class="n">{c}</td>' for c in cells) + "</tr>")
    return (
        '<p class="muted">Bands: 95 per cent bootstrap intervals over splits and scenarios. Dashed: the chosen layer. '
        f"Telling texts apart does not say where a vector steers: sweeps do.</p><p>{key}</p>"
        f'<div class="grid2">{"".join(f"<div>{chart}</div>" for chart in charts)}</div>'
        f"<h3>At layer {report.layer}</h3>"
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _curves(
    report: TraitReport,
    colours: dict[str, str],
    unit: str,
    value: Callable[[LayerEvidence], float | None],
    band: Callable[[LayerEvidence], tuple[float, float] | None],
    *,
    low: float | None = None,
    high: float | None = None,
) -> str:
    drawn = {
        method: Curve(
            colours[method],
            {layer: value(at) for layer, at in vector.metadata.layers.items()},
            {layer: band(at) for layer, at in vector.metadata.layers.items()},
        )
        for method, vector in report.vectors.items()
    }
    return curves(drawn, unit=unit, marked=report.layer, low=low, high=high)


def _separation(report: TraitReport) -> str:
    if not report.held_out:
        return '<p class="muted">No projections stand beside the vector files: run <code>trait-extract run --force</code>.</p>'
    charts = [
        f"<div><h3>{escape(method)}</h3>{histogram(*sides, unit='half separations')}</div>"
        for method, sides in report.held_out.items()
    ]
    key = '<span class="key"><i class="positive"></i>positive</span><span class="key"><i class="negative"></i>negative</span>'
    return f'<p class="muted">Held-out texts, {HALVES}.</p><p>{key}</p><div class="grid2">{"".join(charts)}</div>'


def _neighbours(report: TraitReport) -> str:
    if not report.neighbours:
        return '<p class="muted">No other trait of this model stands in the folder.</p>'
    rows = "".join(
        f'<tr><td>{escape(each.name)}</td><td class="n">{each.cosine:+.2f}</td></tr>' for each in report.neighbours
    )
    return (
        f'<p class="muted">Cosine of the {escape(report.main.metadata.method)} directions at layer {report.layer}; two random '
        f"directions of this width lie within ±{2 / report.main.metadata.d_model**0.5:.2f}.</p>"
        f'<div class="wide"><table><thead><tr><th>trait</th><th class="n">cosine</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _texts(report: TraitReport) -> str:
    if report.texts is None:
        return f'<p class="muted">{escape(report.texts_missing or "")}</p>'
    top, bottom = report.texts[:MOST_TEXTS], report.texts[-MOST_TEXTS:]
    return (
        f'<p class="muted">By {escape(report.main.metadata.method)} at layer {report.layer}, {HALVES}.</p>'
        f'<div class="grid2"><div><h3>highest</h3>{"".join(map(_text, top))}</div>'
        f"<div><h3>lowest</h3>{''.join(map(_text, reversed(bottom)))}</div></div>"
    )


def _text(text: Text) -> str:
    response = "" if text.response is None else f"<p>{escape(text.response)}</p>"
    return (
        f'<div class="text"><span class="value">{text.value:+.2f}</span> <span class="muted">{text.side}</span>'
        f'<p class="muted">{escape(text.prompt)}</p>{response}</div>'
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.2f}..{interval[1]:.2f}"
