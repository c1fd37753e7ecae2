"""Which trait steers, with which method, on which layer; and does anything measured before steering predict it?

Settled beforehand: one dose for every trait but French, every layer, two random directions a layer, and what an effect is: the delta's
interval excludes 0, on the trait's own side, and the delta lies beyond both random directions' on that layer. A trait's delta is that of its
lexical metric, in points of 100; of a trait that has none, the projection of the reply read back unsteered, where 100 points are
the separation of the vector's two training classes.

Steerability of a setting is its delta less the mean of the random directions'. For each vector its rank over the layers is
compared with the rank of what was measured before steering (Spearman); the interval draws whole traits.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from study.effects import cluster_interval
from study.lab import Lab
from trait_client.sweeps.experiment import Experiment
from trait_core.statistics import spearman
from trait_core.vectors.file import VectorFile

mpl.use("Agg")
from matplotlib import pyplot as plt

EFFECT = "effect"
"""A verdict of `SETTINGS`."""
COHERENT = 75.0

SCALES = (
    ("lexical", "points of the metric", 60),
    ("judge", "points of the judge", 60),
    ("projection", "points of the projection", 300),
)
"""Measure, the name of its colours, and where they end."""

SETTINGS = """
with points as (
    select s.*, case when s.trait_delta * s.delta < 0 then -1 else 1 end as side,
           case when s.measure = 'lexical' then 1 else 100 / nullif(abs(l.separation), 0) end as points
    from trait_summary s join vector_layers l on l.sha256 = s.trait_sha256 and l.layer = s.layer
),
shown as (
    select trait, method, layer, coefficient, measure, n, coherence, control_low, control_high, setting_id,
           side * points as scale, delta * scale as moved,
           least(ci_low * scale, ci_high * scale) as low, greatest(ci_low * scale, ci_high * scale) as high
    from points
)
select t.trait, t.method, t.layer, t.coefficient, t.measure, t.n, t.moved as delta, t.low, t.high, t.coherence,
       least(k.control_low * t.scale, k.control_high * t.scale) as random_low,
       greatest(k.control_low * t.scale, k.control_high * t.scale) as random_high, t.setting_id,
       case when t.low > 0 and delta > random_high then 'effect' when t.high < 0 and delta < random_low then 'against the trait'
            when t.low <= 0 and t.high >= 0 then 'not distinguishable from 0' else 'no more than random directions' end as verdict
from shown t
join shown k on (k.trait, k.layer, k.measure) = (t.trait, t.layer, t.measure) and k.control_low is not null
where t.control_low is null or t.method = 'mean_diff'
order by t.trait, t.method, t.layer"""

REPLIES = """
select p.text as prompt, b.text as baseline, t.text as steered
from cells c join trials t using (cell_id) join prompts p using (prompt_id)
join trials b on b.cell_id = c.baseline_id and b.prompt_id = t.prompt_id
where c.setting_id = '{setting}' and c.kind = 'steered'
order by p.prompt_id limit 2"""


def measure(lab: Lab) -> None:
    experiment = Experiment.load(lab.folder / "experiment.toml")
    with lab.serving() as url:
        lab.extract(url, "--splits", 1, traits=experiment.traits, methods=experiment.methods)
        lab.table("evidence", evidence(experiment, lab.vectors))
        for file in ("control.toml", "experiment.toml"):
            lab.run("trait-client", "sweep", lab.folder / file, "--db", lab.db, "--url", url)


def report(lab: Lab) -> None:
    settings = lab.sql(SETTINGS)
    lab.table("map", [{key: value for key, value in row.items() if key != "setting_id"} for row in settings])
    lab.table("best", best(settings))
    lab.table("replies", replies(lab, settings))
    lab.table("predictors", predictors(settings, lab.sql("select * from evidence")))
    plot(settings, lab.folder / "trait_map.png")


def evidence(experiment: Experiment, folder: Path) -> list[dict[str, Any]]:
    """Everything that a vector file says of a layer before anything is steered."""
    rows = []
    for trait in experiment.traits:
        for method in experiment.methods:
            file = VectorFile.load(folder / trait / f"{method}.safetensors")
            for layer, found in sorted(file.metadata.layers.items()):
                rows.append(
                    {
                        "trait": trait,
                        "method": method,
                        "layer": layer,
                        "auc": found.auc,
                        "cohens_d": found.cohens_d,
                        "relative_separation": abs(found.separation) / found.residual_norm,
                        "cosine_previous_layer": found.cosine_previous_layer,
                    }
                )
    return rows


def best(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each trait and method: how many layers have an effect in coherent text, and the strongest of them."""
    rows = []
    for trait, method in dict.fromkeys((row["trait"], row["method"]) for row in settings):
        own = [row for row in settings if (row["trait"], row["method"]) == (trait, method)]
        effects = [row for row in own if row["verdict"] == EFFECT and row["coherence"] >= COHERENT]
        top = max(effects, key=lambda row: row["delta"], default=None)
        rows.append(
            {
                "trait": trait,
                "method": method,
                "measure": own[0]["measure"],
                "layers": len(own),
                "effects": len(effects),
            }
            | {
                name: None if top is None else top[name]
                for name in ("layer", "delta", "low", "high", "random_low", "random_high", "coherence")
            }
        )
    return rows


def replies(lab: Lab, settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The first two prompts of each trait's strongest coherent setting, before and after; the strongest of all where none is an effect."""
    rows = []
    for trait in dict.fromkeys(row["trait"] for row in settings):
        own = [row for row in settings if row["trait"] == trait and row["coherence"] >= COHERENT]
        effects = [row for row in own if row["verdict"] == EFFECT]
        top = max(effects or own, key=lambda row: row["delta"], default=None)
        if top is None:
            continue
        shared = {name: top[name] for name in ("trait", "method", "layer", "coefficient", "delta", "verdict")}
        rows += [shared | text for text in lab.sql(REPLIES.format(setting=top["setting_id"]))]
    return rows


def predictors(settings: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean rank correlation, over the vectors of each method, of steerability with what was measured before."""
    measured = {(row["trait"], row["method"], row["layer"]): row for row in before}
    rows = []
    for method in dict.fromkeys(row["method"] for row in settings):
        of_method = [row for row in settings if row["method"] == method]
        traits = list(dict.fromkeys(row["trait"] for row in of_method))
        for name in ("auc", "cohens_d", "relative_separation", "cosine_previous_layer", "layer"):
            found = []
            for trait in traits:
                pairs = [
                    (measured[trait, method, row["layer"]][name], steerability(row))
                    for row in of_method
                    if row["trait"] == trait
                ]
                told = np.array([pair for pair in pairs if None not in pair], dtype=np.float64)
                rho = spearman(told[:, 0], told[:, 1]) if len(told) > 2 else None
                found.append(float("nan") if rho is None else rho)
            kept = np.array([rho for rho in found if not np.isnan(rho)])
            if not len(kept):
                continue

            def mean(at: npt.NDArray[np.int64], kept: npt.NDArray[np.float64] = kept) -> float:
                return float(kept[at].mean())

            low, high = cluster_interval(mean, range(len(kept)))
            row = {"method": method, "measured_before": name, "traits": len(kept), "mean_rho": float(kept.mean())}
            rows.append(row | {"low": low, "high": high})
    return rows


def steerability(row: Mapping[str, Any]) -> float:
    """A setting's delta less the middle of the two random directions'."""
    return float(row["delta"]) - (float(row["random_low"]) + float(row["random_high"])) / 2


def plot(settings: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A panel for each method and measure: traits by layers; colour: delta beyond random directions; a dot: an effect in coherent text."""
    methods = list(dict.fromkeys(row["method"] for row in settings))
    layers = sorted({row["layer"] for row in settings})
    groups = [
        (label, limit, traits)
        for measure, label, limit in SCALES
        if (traits := sorted({row["trait"] for row in settings if row["measure"] == measure}))
    ]
    figure, axes = plt.subplots(
        len(groups),
        len(methods),
        figsize=(4.6 * len(methods), 1.4 + 0.3 * sum(len(traits) for *_, traits in groups)),
        squeeze=False,
        layout="constrained",
        height_ratios=[len(traits) for *_, traits in groups],
    )
    for line, (label, limit, traits) in zip(axes, groups, strict=True):
        for panel, method in zip(line, methods, strict=True):
            own = [row for row in settings if row["method"] == method and row["trait"] in traits]
            grid = np.full((len(traits), len(layers)), np.nan)
            for row in own:
                y, x = traits.index(row["trait"]), layers.index(row["layer"])
                grid[y, x] = steerability(row)
                if row["verdict"] == EFFECT and row["coherence"] >= COHERENT:
                    panel.plot(x, y, ".", color="black", markersize=4)
            image = panel.imshow(grid, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit)
            panel.set_xticks(range(0, len(layers), 4), layers[::4])
            panel.set_yticks(range(len(traits)), traits if panel is line[0] else [])
        figure.colorbar(image, ax=line, label=label)
    for panel, method in zip(axes[0], methods, strict=True):
        panel.set_title(method)
    for panel in axes[-1]:
        panel.set_xlabel("layer")
    figure.savefig(path, dpi=110)
    plt.close(figure)
