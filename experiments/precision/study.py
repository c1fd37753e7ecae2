"""Vectors and steering at BF16, INT8 W8A8, INT4 W4A16 and FP8: does a vector survive quantisation, of either kind?

Settled beforehand: traits, layers and doses (those of `make demo`), the four checkpoints (rounded to nearest, without data), the
pairing by prompt.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from study.effects import shift
from study.lab import DTYPES, Lab, repeated
from trait_client.http import TraitClient
from trait_client.sweeps.experiment import Experiment
from trait_core.vectors.file import VectorFile

mpl.use("Agg")
from matplotlib import pyplot as plt

WEIGHTS = {"bf16": "bfloat16", "w8a8": "int8", "w4a16": "int32", "fp8": "float8_e4m3fn"}
"""Precision -> type that the loaded weights must have; INT4 comes packed, eight weights in an int32."""
SCHEMES = [precision for precision in WEIGHTS if precision != "bf16"]
OWN, FROM_BF16 = "mean_diff", "mean_diff.bf16"

CELLS = """
select trait, precision, method, layer, coefficient, n, baseline, steered, delta, ci_low, ci_high, coherence,
       control_low, control_high, verdict
from cell_summary where measure = 'lexical'
order by trait, precision, method"""

# A prompt's delta and coherence at each precision, with each vector.
TRIALS = """
select d.trait, c.precision, c.method, d.prompt_id, d.delta, s.value as coherence
from trial_deltas d
join cells c using (cell_id)
join scores s on s.trial_id = d.trial_id and s.name = 'coherence'
where d.kind = 'steered' and d.measure = 'lexical'"""


def measure(lab: Lab) -> None:
    quantise(lab)
    weights: list[dict[str, Any]] = []
    for precision in WEIGHTS:
        weights += at_precision(lab, precision)
        lab.table("weights", weights)


def report(lab: Lab) -> None:
    cells = lab.sql(CELLS)
    lab.table("by_precision", cells)
    cosines = compare_directions(lab, Experiment.load(lab.folder / "experiment.toml"))
    lab.table("direction_cosines", cosines)
    trials = lab.sql(TRIALS)
    lab.table("paired", [row for measure in ("delta", "coherence") for row in against_bf16(trials, measure)])
    plot(cells, cosines, lab.folder / "precision.png")


def quantise(lab: Lab) -> None:
    """Make the three checkpoints, unless they exist."""
    for scheme in SCHEMES:
        out = lab.work / "models" / scheme
        if not out.exists():
            lab.run("trait-service", "model", "quantize", lab.model, "--scheme", scheme, "--out", out)


def at_precision(lab: Lab, precision: str) -> list[dict[str, Any]]:
    """Extract, register those vectors and BF16's, sweep; returns what the service says of its weights."""
    experiment = Experiment.load(lab.folder / "experiment.toml")
    # Another model computes in bfloat16 at every precision, as in its other studies; INT8 then differs from BF16 in its weights alone.
    flags = ("--dtype", "bfloat16") if precision == "bf16" or lab.model in DTYPES else ()
    model = None if precision == "bf16" else lab.work / "models" / precision
    with lab.serving(*flags, model=model, name=precision) as url, TraitClient(url) as client:
        to = ("--out", lab.work / "vectors" / precision, "--register", "--url", url)
        lab.run("trait-extract", "run", *repeated("--trait", experiment.traits), "--splits", 1, *to)
        for trait in experiment.traits:
            client.put_vector(f"{trait}.{FROM_BF16}", relabelled(vector(lab, "bf16", trait)).to_bytes())
        definition = lab.work / f"{precision}.toml"
        where = f'\n[precision.{precision}]\nurl = "{url}"\nweights = "{WEIGHTS[precision]}"\n'
        datasets = f'datasets = "{Path("datasets/traits").resolve()}"\n'
        definition.write_text(datasets + (lab.folder / "experiment.toml").read_text() + where)
        lab.run("trait-client", "sweep", definition, "--db", lab.db)
        info = client.info()
    return [
        {"precision": precision, "dtype": info.dtype, "quantization": info.quantization or "-"}
        | {"type_of_weights": of, "share_of_bytes": share}
        for of, share in info.weights.items()
    ]


def vector(lab: Lab, precision: str, trait: str) -> VectorFile:
    return VectorFile.load(lab.work / "vectors" / precision / trait / "mean_diff.safetensors")


def relabelled(file: VectorFile) -> VectorFile:
    """The same directions under a method of its own, so that one experiment sweeps both."""
    return VectorFile(file.metadata.model_copy(update={"method": FROM_BF16}), file.directions)


def compare_directions(lab: Lab, experiment: Experiment) -> list[dict[str, Any]]:
    """Cosine of BF16's directions with those extracted at each precision: on the steered layer, and over all layers."""
    rows = []
    for trait in experiment.traits:
        reference = vector(lab, "bf16", trait)
        (layer,) = experiment.layers_of(trait)
        for precision in (scheme for scheme in SCHEMES if (lab.work / "vectors" / scheme / trait).exists()):
            other = vector(lab, precision, trait)
            cosines = {at: float(d @ other.directions[at]) for at, d in reference.directions.items()}
            worst = min(cosines, key=cosines.__getitem__)
            rows.append(
                {"trait": trait, "precision": precision, "layer": layer, "cosine": cosines[layer]}
                | {
                    "mean_of_layers": float(np.mean(list(cosines.values()))),
                    "lowest": cosines[worst],
                    "lowest_at": worst,
                }
            )
    return rows


def against_bf16(trials: list[dict[str, Any]], measure: str) -> list[dict[str, Any]]:
    """Each precision minus BF16, paired by prompt: for each trait, and for all together."""
    found = {(r["precision"], r["method"], r["trait"], r["prompt_id"]): r[measure] for r in trials}
    rows = []
    for precision in (scheme for scheme in SCHEMES if scheme in {at for at, *_ in found}):
        for method in (OWN, FROM_BF16):
            gaps = {
                (trait, prompt): value - found["bf16", FROM_BF16, trait, prompt]
                for (at, of, trait, prompt), value in found.items()
                if (at, of) == (precision, method)
            }
            for trait in ("all traits", *sorted({trait for trait, _ in gaps})):
                moved = shift([gaps[key] for key in sorted(gaps) if trait in ("all traits", key[0])])
                low, high = moved.interval
                verdict = "not distinguishable from 0" if low <= 0 <= high else "higher" if low > 0 else "lower"
                rows.append(
                    {"measure": measure, "precision": precision, "vector": "own" if method == OWN else "of BF16"}
                    | {"trait": trait, "n": moved.n, "difference": moved.mean, "low": low, "high": high}
                    | {"verdict": verdict}
                )
    return rows


def plot(cells: list[dict[str, Any]], cosines: list[dict[str, Any]], path: Path) -> None:
    traits = list(dict.fromkeys(row["trait"] for row in cells))
    precisions = [precision for precision in WEIGHTS if precision in {row["precision"] for row in cells}]
    figure, axes = plt.subplots(1, len(traits) + 1, figsize=(14, 4), layout="constrained")
    for axis, trait in zip(axes, traits, strict=False):
        for method, colour, nudge in ((OWN, "tab:blue", -0.1), (FROM_BF16, "tab:orange", 0.1)):
            own = {row["precision"]: row for row in cells if (row["trait"], row["method"]) == (trait, method)}
            line = [own[precision] for precision in precisions]
            error = [[r["delta"] - r["ci_low"] for r in line], [r["ci_high"] - r["delta"] for r in line]]
            x = np.arange(len(line)) + nudge
            label = "vector of this precision" if method == OWN else "vector of BF16"
            axis.errorbar(x, [r["delta"] for r in line], yerr=error, fmt="o", color=colour, label=label)
            for at, row in zip(x, line, strict=True):
                axis.plot([at, at], [row["control_low"], row["control_high"]], color="grey", linewidth=6, alpha=0.4)
        axis.axhline(0, color="black", linewidth=0.5)
        axis.set_xticks(range(len(precisions)), precisions)
        axis.set_ylim(-12, 105)
        axis.set_ylabel(f"delta of the metric of {trait}, points", fontsize=8)
        axis.set_title(f"{trait}: delta [95 %] (grey: random)", fontsize=9)
    axes[0].legend(fontsize=7, loc="upper left")
    for trait in traits:
        own = [row for row in cosines if row["trait"] == trait]
        axes[-1].plot([r["precision"] for r in own], [r["cosine"] for r in own], "o", label=trait)
    axes[-1].set_ylim(0.9, 1.005)
    axes[-1].set_title("cosine with the direction of BF16", fontsize=9)
    axes[-1].legend(fontsize=7)
    figure.savefig(path, dpi=100)
    plt.close(figure)
