"""Does steering with a trait's direction damage neutral text more than a random direction of the same dose, and what does an effect cost?

Settled beforehand: the traits, each on the layer that its own pairs chose, three doses, two random directions, the first 12 neutral
passages. Damage is the KL divergence from the unsteered model on passages that no trait's data has, nats a token. A trait's direction
is compared with random ones by the ratio of its KL to their mean, on a logarithmic scale; the interval draws whole traits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from study.effects import cluster_interval
from study.lab import Lab
from trait_client.sweeps.experiment import Experiment

mpl.use("Agg")
from matplotlib import pyplot as plt

SETTINGS = """
select trait, layer, coefficient, n, trait_delta, if(trait_delta * delta < 0, -ci_high, ci_low) as low,
       if(trait_delta * delta < 0, -ci_low, ci_high) as high, verdict, coherence, kl, kl_low, kl_high, random_kl, random_kl_low,
       random_kl_high, n_random, on_front
from effect_and_damage where n_random > 0 order by trait, coefficient"""


def measure(lab: Lab) -> None:
    file = lab.folder / "experiment.toml"
    with lab.serving() as url:
        lab.extract(url, traits=Experiment.load(file).traits, methods=["mean_diff"])
        lab.run("trait-client", "sweep", file, "--db", lab.db, "--url", url)


def report(lab: Lab) -> None:
    settings = lab.sql(SETTINGS)
    lab.table("settings", settings)
    lab.table("ratios", ratios(settings))
    plot(settings, lab.folder / "damage_beside_effect.png")


def ratios(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each dose the geometric mean over traits of KL over that of random directions, and how many traits lie beyond all of them."""
    rows = []
    for coefficient in sorted({row["coefficient"] for row in settings}):
        own = [row for row in settings if row["coefficient"] == coefficient]
        logs = np.array([np.log(row["kl"] / row["random_kl"]) for row in own])

        def mean(at: npt.NDArray[np.int64], logs: npt.NDArray[np.float64] = logs) -> float:
            return float(np.exp(logs[at].mean()))

        low, high = cluster_interval(mean, range(len(own)))
        rows.append(
            {
                "coefficient": coefficient,
                "traits": len(own),
                "ratio": mean(np.arange(len(own))),
                "low": low,
                "high": high,
                "beyond_all_random": sum(row["kl"] > row["random_kl_high"] for row in own),
                "mean_kl": float(np.mean([row["kl"] for row in own])),
                "mean_random_kl": float(np.mean([row["random_kl"] for row in own])),
            }
        )
    return rows


def plot(settings: Sequence[Mapping[str, Any]], path: Any) -> None:
    """Left: effect against KL, a line for each trait over its doses. Right: KL over dose, beside the random directions."""
    traits = list(dict.fromkeys(row["trait"] for row in settings))
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for colour, trait in zip(plt.colormaps["tab10"].colors, traits, strict=False):
        own = [row for row in settings if row["trait"] == trait]
        kl = [row["kl"] for row in own]
        left.plot(kl, [row["trait_delta"] for row in own], "o-", color=colour, markersize=4, label=trait)
        right.plot([row["coefficient"] for row in own], kl, "o-", color=colour, markersize=4)
        right.plot([row["coefficient"] for row in own], [row["random_kl"] for row in own], ":", color=colour)
    left.set(
        xscale="log", xlabel="damage: KL on neutral text, nats a token", ylabel="effect on the trait's metric, points"
    )
    left.axhline(0, color="black", linewidth=0.5)
    left.legend(fontsize=7)
    right.set(yscale="log", xlabel="coefficient (dose)", ylabel="KL on neutral text, nats a token")
    right.plot([], [], "-", color="grey", label="the trait's direction")
    right.plot([], [], ":", color="grey", label="random directions (mean)")
    right.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
