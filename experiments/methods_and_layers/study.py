"""Which extraction method steers, on which layer, for which traits; does the probe beat the difference of means?

Settled beforehand: layers (early, middle, late), one dose for every trait but French, the pairing (a prompt's delta under one
method minus its delta under difference of means, averaged over the layers), and what an effect is (the delta's interval
excludes 0 and the delta lies beyond every random direction's on that layer).
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from study.effects import cluster_interval, shift
from study.lab import Lab
from trait_client.sweeps.experiment import Experiment
from trait_core.statistics import cohens_d
from trait_core.vectors.file import VectorFile
from trait_extraction.fitting.projections import HeldOutProjections, read_projections

mpl.use("Agg")
from matplotlib import pyplot as plt

REFERENCE = "mean_diff"
Sides = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]

# Every setting beside the random directions at its dose, which were run beside the difference of means.
CELLS = """
select c.trait, c.method, c.layer, c.coefficient, c.n, c.baseline, c.steered, c.delta, c.ci_low, c.ci_high, c.coherence,
       k.control_low, k.control_high,
       case when c.ci_low <= 0 and c.ci_high >= 0 then 'not distinguishable from 0'
            when c.delta > k.control_high and c.ci_low > 0 or c.delta < k.control_low and c.ci_high < 0 then 'effect'
            else 'no more than random directions' end as verdict
from cell_summary c
join cell_summary k using (trait, layer, coefficient, measure)
where measure = 'lexical' and k.method = 'mean_diff'
order by trait, layer, method"""

# A prompt's delta under each method on each layer.
DELTAS = """
select d.trait, c.method, c.layer, d.prompt_id, d.delta
from trial_deltas d join cells c using (cell_id)
where d.kind = 'steered' and d.measure = 'lexical'"""


def measure(lab: Lab) -> None:
    experiment = Experiment.load(lab.folder / "experiment.toml")
    with lab.serving() as url:
        lab.extract(url, "--splits", 1, traits=experiment.traits, methods=experiment.methods)
        lab.table("directions", directions(experiment, lab.vectors))
        lab.table("discrimination", discrimination(experiment, lab.vectors))
        for file in ("experiment.toml", "control.toml"):
            lab.run("trait-client", "sweep", lab.folder / file, "--db", lab.db, "--url", url)


def report(lab: Lab) -> None:
    cells = lab.sql(CELLS)
    lab.table("by_method", cells)
    paired = comparisons(lab.sql(DELTAS))
    lab.table("paired", paired)
    plot(cells, paired, lab.folder / "methods_and_layers.png")


def comparisons(deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each method against difference of means: for each trait over its prompts, and for all traits together."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in deltas:
        found.setdefault((row["trait"], row["prompt_id"], row["method"]), []).append(row["delta"])
    means = {key: float(np.mean(values)) for key, values in found.items()}
    traits = sorted({trait for trait, _, _ in means})
    rows = []
    for method in sorted({method for _, _, method in means} - {REFERENCE}):
        gaps = {
            (trait, prompt): value - means[trait, prompt, REFERENCE]
            for (trait, prompt, of), value in means.items()
            if of == method
        }
        for trait in ("all traits", *traits):
            keys = [key for key in sorted(gaps) if trait in ("all traits", key[0])]
            moved = shift([gaps[key] for key in keys])
            low, high = moved.interval
            verdict = "not distinguishable from 0" if low <= 0 <= high else "better" if low > 0 else "worse"
            rows.append(
                {"method": method, "trait": trait, "n": moved.n, "difference": moved.mean, "low": low, "high": high}
                | {"verdict": verdict}
            )
    return rows


def directions(experiment: Experiment, folder: Path) -> list[dict[str, Any]]:
    """Cosine of each method's direction with difference of means, and its held-out evidence, on the swept layers."""
    rows = []
    for trait in experiment.traits:
        files = {m: VectorFile.load(folder / trait / f"{m}.safetensors") for m in experiment.methods}
        for layer in experiment.layers_of(trait):
            for method, file in files.items():
                evidence = file.evidence(layer)
                cosine = float(file.directions[layer] @ files[REFERENCE].directions[layer])
                rows.append(
                    {"trait": trait, "layer": layer, "method": method, "cosine_mean_diff": cosine}
                    | {"held_out_auc": evidence.auc, "held_out_d": evidence.cohens_d}
                )
    return rows


def discrimination(experiment: Experiment, folder: Path) -> list[dict[str, Any]]:
    """Held-out Cohen's d of each method minus that of difference of means, on the same scenarios, drawn as wholes."""
    rows = []
    for method in experiment.methods[1:]:
        for trait in experiment.traits:
            sides = {name: held_out(folder / trait / f"{name}.safetensors") for name in (REFERENCE, method)}
            for layer in experiment.layers_of(trait):
                reference, other = (sides[name].at(layer) for name in (REFERENCE, method))

                def gain(at: npt.NDArray[np.int64], a: Sides = other, b: Sides = reference) -> float:
                    effects = [cohens_d(positive[at], negative[at]) for positive, negative in (a, b)]
                    return float("nan") if None in effects else effects[0] - effects[1]

                n = len(other[0])
                low, high = cluster_interval(gain, range(n))
                verdict = "not distinguishable from 0" if low <= 0 <= high else "higher" if low > 0 else "lower"
                row = {"method": method, "trait": trait, "layer": layer, "n": n, "d_gain": gain(np.arange(n))}
                rows.append(row | {"low": low, "high": high, "verdict": verdict})
    return rows


def held_out(path: Path) -> HeldOutProjections:
    """Read the held-out projections that the extraction keeps beside a vector file."""
    kept = read_projections(path, VectorFile.load(path).metadata)
    if kept is None:
        sys.exit(f"{path} has no projections of its held-out scenarios: run the study without --report")
    return kept


def plot(cells: list[dict[str, Any]], paired: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(2, 5, figsize=(15, 6), layout="constrained")
    traits = list(dict.fromkeys(row["trait"] for row in cells))
    panels = [axes.flat[i] for i in (0, 1, 2, 3, 5, 6, 7, 8)][: len(traits)]
    methods = list(dict.fromkeys(row["method"] for row in cells))
    for axis, trait in zip(panels, traits, strict=True):
        own = [row for row in cells if row["trait"] == trait]
        layers = sorted({row["layer"] for row in own})
        control = [next(row for row in own if row["layer"] == layer) for layer in layers]
        axis.fill_between(
            layers, [r["control_low"] for r in control], [r["control_high"] for r in control], color="grey", alpha=0.3
        )
        for i, method in enumerate(methods):
            line = [next(row for row in own if row["layer"] == at and row["method"] == method) for at in layers]
            error = [[r["delta"] - r["ci_low"] for r in line], [r["ci_high"] - r["delta"] for r in line]]
            x = [layer + 0.5 * (i - 1.5) for layer in layers]
            axis.errorbar(
                x, [r["delta"] for r in line], yerr=error, marker="o", markersize=3, linewidth=1, label=method
            )
        axis.axhline(0, color="black", linewidth=0.5)
        axis.set_xticks(layers)
        axis.set_title(trait, fontsize=9)
    panels[0].set_ylabel("delta of the metric")
    axes[1, 0].set_ylabel("delta of the metric")
    axes[0, 4].axis("off")
    axes[0, 4].legend(*panels[0].get_legend_handles_labels(), loc="center", title="grey: random directions")
    probe = [row for row in paired if row["method"] == "probe"]
    error = [[r["difference"] - r["low"] for r in probe], [r["high"] - r["difference"] for r in probe]]
    axes[1, 4].errorbar([r["difference"] for r in probe], range(len(probe)), xerr=error, fmt="o", markersize=4)
    axes[1, 4].set_yticks(range(len(probe)), [r["trait"] for r in probe], fontsize=7)
    axes[1, 4].axvline(0, color="black", linewidth=0.5)
    axes[1, 4].set_title("probe minus mean_diff, paired", fontsize=9)
    figure.savefig(path, dpi=100)
    plt.close(figure)
