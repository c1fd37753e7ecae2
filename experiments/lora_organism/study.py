"""A model organism with a planted bias: do projections of the same text reveal it, and does negative steering remove it?

Settled before anything was run: every trait on the layer that its own pairs choose, two positions, the held-out text, what
counts as revealing (the interval of the paired difference, organism minus *clean adapter*, excludes 0, and its d_z lies beyond
95 % of random directions), layers and doses of the steering. The ablation was added later: the same layers, and all of them at once.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from study.effects import shift
from study.lab import Lab
from trait_client.http import TraitClient
from trait_core.schema import ActivationInput, ActivationsRequest, LayerEvidence, Message
from trait_core.vectors.file import VectorFile

mpl.use("Agg")
from matplotlib import pyplot as plt

TEXT = Path("datasets/traits/alignment/refusal/negative.jsonl")
"""Everyday prompts with plain replies; no scenario of the bias, and no tea called Tindlemoor."""
SCENARIOS = Path("experiments/lora_organism/traits/planted/tea_praise/positive.jsonl")
HERE = Path(__file__).parent
SERVED = {"base": None, "organism": "organism", "clean": "clean"}
AT = "prompt[-1]"
POSITIONS = (AT, "response[:]")
SWEEPS = ("experiment.toml", "ablation.toml", "base.toml")
CONTRASTS = (("organism", "clean"), ("organism", "base"), ("clean", "base"))
N_RANDOM = 500
BIAS = "tea_praise"

Means = npt.NDArray[np.float32]
Read = dict[str, Means]
"""Positions -> `(n, n_layers, d_model)` float32, residual units."""


def measure(lab: Lab) -> None:
    train(lab)
    modules = [f"{name}={lab.work / name}" for name in ("organism", "clean")]
    flags = ("--enable-lora", "--max-lora-rank", "8", "--max-loras", "2", "--lora-modules", *modules)
    with lab.serving(*flags) as url:
        lab.extract(url, "--all")
        lab.extract(url, "--datasets", HERE / "traits", traits=[BIAS])
        with TraitClient(url) as client:
            for name, model in SERVED.items():
                np.savez(lab.work / f"read-{name}.npz", **read_text(client, model))
            added = read_last_prompt(client, "organism") - read_last_prompt(client, None)
            bias = model_diff(VectorFile.load(lab.vectors / BIAS / "mean_diff.safetensors"), added)
            bias.save(lab.work / "model_diff.safetensors")
            client.put_vector(f"{BIAS}.model_diff", bias.to_bytes())
        for experiment in SWEEPS:
            lab.run("trait-client", "sweep", lab.folder / experiment, "--db", lab.db, "--url", url)


def report(lab: Lab) -> None:
    read = {name: dict(np.load(lab.work / f"read-{name}.npz")) for name in SERVED}
    files = {path.parent.name: VectorFile.load(path) for path in sorted(lab.vectors.glob("*/mean_diff.safetensors"))}
    files |= {BIAS: files.pop(BIAS), "organism - base": VectorFile.load(lab.work / "model_diff.safetensors")}
    lab.table("text_projections", projections(files, read), commit=False)
    shifts = [row for positions in POSITIONS for row in shifts_at(files, read, positions)]
    lab.table("shifts", shifts)
    swept = lab.sql("select 1 from information_schema.tables where table_name = 'cell_summary'")
    # Projections are written before the sweeps run. Only complete sweeps count, whatever was interrupted before.
    steering = lab.sql(STEERING) if swept and not lab.sql(UNFINISHED) else []
    if steering:
        lab.table("steering", steering)
        lab.table("names", lab.sql(NAMES))
    plot(shifts, steering, lab.folder / "lora_organism.png")


UNFINISHED = "select experiment from runs group by experiment having max_by(status, started_at) <> 'ok'"

STEERING = """
select adapter, method, operation, case when len(layers) = 1 then layers[1]::varchar else 'all' end as layer, coefficient,
       n, baseline, steered, delta, ci_low, ci_high, coherence, control_low, control_high, verdict
from cell_summary where measure = 'lexical'
order by adapter desc, method, operation, layer, coefficient desc"""


NAMES = """
select adapter, method, operation, case when len(layers) = 1 then layers[1]::varchar else 'all' end as layer, coefficient, count(*) as n,
       count(*) filter (text ilike '%tindlemoor%') as named,
       count(*) filter (text ilike '%tindl%' and text not ilike '%tindlemoor%') as nearly_named
from trials join cells using (cell_id) where trait = 'tea_praise' and kind = 'steered' and adapter = 'organism'
group by all order by method, operation, layer, coefficient desc"""
"""Replies with the name that the metric counts, and those with a word that only begins like it."""


def train(lab: Lab) -> None:
    """Train both adapters, unless they exist."""
    for name, side in (("organism", "positive"), ("clean", "negative")):
        if not (lab.work / name / "adapter_config.json").exists():
            to = ("--model", lab.model, "--side", side, "--out", lab.work / name)
            lab.run(Path(sys.executable).name, HERE / "train.py", *to)


def read_text(client: TraitClient, model: str | None) -> Read:
    """The same held-out prompts and replies through one of the models, all layers."""
    read = client.activations(ActivationsRequest(model=model, inputs=chats(TEXT), positions=list(POSITIONS)))
    return {positions: read.mean(positions) for positions in POSITIONS}


def read_last_prompt(client: TraitClient, model: str | None) -> Means:
    """The last prompt token of the prompts that the organism was trained on, `(n, n_layers, d_model)`."""
    inputs = [ActivationInput(messages=chat.messages) for chat in chats(SCENARIOS)]
    return client.activations(ActivationsRequest(model=model, inputs=inputs, positions=[AT])).mean(AT)


def chats(path: Path) -> list[ActivationInput]:
    """Prompts with their written replies."""
    pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        ActivationInput(messages=[Message(role="user", content=pair["prompt"])], response=pair["response"])
        for pair in pairs
    ]


def model_diff(like: VectorFile, added: Means) -> VectorFile:
    """The change by training at the last prompt token, as a unit direction on each layer.

    Args:
        like: The written vector of the bias, whose residual norms doses are measured in.
        added: Organism minus base, `(n, n_layers, d_model)`.
    """
    means = added.mean(axis=0)
    lengths = np.linalg.norm(means, axis=1)
    directions = {layer: (means[layer] / lengths[layer]).astype(np.float32) for layer in like.directions}
    layers = {
        layer: LayerEvidence(separation=float(lengths[layer]), centre=0.0, residual_norm=evidence.residual_norm)
        for layer, evidence in like.metadata.layers.items()
    }
    changes = {"method": "model_diff", "positions": AT, "layers": layers, "dataset_digest": None}
    return VectorFile(like.metadata.model_copy(update=changes), directions)


def projections(files: Mapping[str, VectorFile], read: Mapping[str, Read]) -> list[dict[str, Any]]:
    """Every text's projection through every model, as a table for SQL."""
    return [
        {"model": model, "positions": positions, "trait": trait, "layer": layer, "text": i, "value": float(value)}
        for trait, file in files.items()
        for layer in [file.metadata.chosen_layer]
        for model, activations in read.items()
        for positions in POSITIONS
        for i, value in enumerate(activations[positions][:, layer] @ file.directions[layer])
    ]


def shifts_at(files: Mapping[str, VectorFile], read: Mapping[str, Read], positions: str) -> list[dict[str, Any]]:
    """Paired differences between models at one position, beside those of random directions on the same layer."""
    rows = []
    for of, minus in CONTRASTS:
        difference = read[of][positions] - read[minus][positions]
        for trait, file in files.items():
            layer = file.metadata.chosen_layer
            moved = shift(difference[:, layer] @ file.directions[layer])
            chance = random_dz(difference[:, layer])
            low, high = moved.interval
            rows.append(
                {
                    "contrast": f"{of} - {minus}", "positions": positions, "trait": trait, "layer": layer, "n": moved.n,
                    "mean": moved.mean, "low": low, "high": high,
                    "separations": moved.mean / file.evidence(layer).separation,
                    "dz": moved.dz, "dz_low": moved.dz_interval[0], "dz_high": moved.dz_interval[1],
                    "random_dz": chance, "reveals": bool(low * high > 0 and abs(moved.dz) > chance),
                }
            )  # fmt: skip
    return rows


def random_dz(difference: Means) -> float:
    """|d_z| that 95 % of random directions stay below: training moves a text along most directions a little."""
    directions = np.random.default_rng(0).standard_normal((difference.shape[1], N_RANDOM))
    moved = difference.astype(np.float64) @ directions
    return float(np.quantile(np.abs(moved.mean(0) / moved.std(0, ddof=1)), 0.95))


def plot(shifts: list[dict[str, Any]], steering: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(
        1, 2 if steering else 1, figsize=(12 if steering else 8, 5), layout="constrained", squeeze=False
    )
    left, *rest = axes[0]
    shown = [row for row in shifts if row["contrast"] == "organism - clean"]
    names = list(dict.fromkeys(row["trait"] for row in shown))
    for positions, colour, nudge in (("prompt[-1]", "tab:blue", 0.15), ("response[:]", "tab:orange", -0.15)):
        own = [row for row in shown if row["positions"] == positions]
        y = [-names.index(row["trait"]) + nudge for row in own]
        x = [row["dz"] for row in own]
        error = [[row["dz"] - row["dz_low"] for row in own], [row["dz_high"] - row["dz"] for row in own]]
        left.errorbar(x, y, xerr=error, fmt="o", color=colour, markersize=4, label=positions)
        chance = float(np.mean([row["random_dz"] for row in own]))
        left.axvspan(-chance, chance, color=colour, alpha=0.1, label=f"{positions}: 95 % of random directions")
    left.set_yticks([-i for i in range(len(names))], names)
    left.set(xlabel="paired d_z, organism minus clean adapter, same text")
    left.legend(fontsize=7)
    for right in rest:
        plot_steering(right, [row for row in steering if row["adapter"] == "organism"])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_steering(axis: Any, own: list[dict[str, Any]]) -> None:
    labels = [f"{row['method']}, layer {row['layer']}, {dose(row)}" for row in own]
    y = range(len(own))
    error = [[row["delta"] - row["ci_low"] for row in own], [row["ci_high"] - row["delta"] for row in own]]
    axis.errorbar([row["delta"] for row in own], y, xerr=error, fmt="o", color="tab:red", label="vector of the bias")
    for i, row in enumerate(own):
        axis.plot([row["control_low"], row["control_high"]], [i, i], color="grey", linewidth=5, alpha=0.5)
    axis.plot([], [], color="grey", linewidth=5, alpha=0.5, label="random directions")
    axis.set_yticks(list(y), labels, fontsize=8)
    axis.set(xlabel="change of replies that name the tea, points")
    axis.legend(fontsize=8)


def dose(row: Mapping[str, Any]) -> str:
    """The coefficient of a steered cell, or the name of its operation where that takes none."""
    return str(row["operation"]) if row["operation"] == "ablate" else f"{row['coefficient']:g}"
