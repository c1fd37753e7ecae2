"""Do two projections together find replies that look good and are bad: eager and useless, flattering and false?

Settled before any projection was seen: each vector on the layer that its own pairs choose; a projection is centred between its
training classes and divided by their separation, so that +-0.5 are the two classes' means; the joint score is surface minus
intent, and the rule is surface above 0 and intent below 0. Nothing is fitted on the labelled replies.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from study.effects import beside_random, cluster_interval, random_aucs, separation
from study.lab import Lab, repeated
from trait_client.prompt_sets import Capture, read_capture
from trait_core.statistics import Floats, auc
from trait_core.vectors.file import VectorFile

mpl.use("Agg")
from matplotlib import pyplot as plt


@dataclass(frozen=True)
class Pair:
    """A surface and an intent, and the labels of the replies that show them.

    Attributes:
        surface: Trait that is high in the tone `fair`.
        intent: Trait that is low in the content `ill`.
        also: A trait that is high in it, for comparison.
    """

    name: str
    surface: str
    intent: str
    fair: str
    ill: str
    also: str | None = None

    @property
    def prompts(self) -> Path:
        return Path(f"datasets/prompts/surface_intent_{self.name}.jsonl")

    @property
    def traits(self) -> list[str]:
        return [trait for trait in (self.surface, self.intent, self.also) if trait is not None]


PAIRS = (
    Pair("helpfulness", "helpfulness_expressed", "helpfulness_intent", fair="eager", ill="useless"),
    Pair("sycophancy", "sycophancy", "honesty_observed", fair="flattering", ill="false", also="deception"),
)

PER_REPLY = """
select r.prompt_id, r.outcome, v.trait, p.layer, list_avg(p.projected[r.n_prompt + 1:]) / l.separation as value
from reading_projections p
join readings r using (reading_id) join vectors v using (sha256) join vector_layers l using (sha256, layer)
order by r.prompt_id, v.trait"""


def measure(lab: Lab) -> None:
    traits = list(dict.fromkeys(trait for pair in PAIRS for trait in pair.traits))
    with lab.serving() as url:
        lab.extract(url, traits=traits)
        layers = {trait: chosen_layer(lab, trait) for trait in traits}
        for pair in PAIRS:
            vectors = repeated("--vector", pair.traits)
            lab.run("trait-client", "project", "--prompts", pair.prompts, *vectors, "--db", lab.db, "--url", url)
            read = ",".join(str(layer) for layer in sorted({layers[trait] for trait in pair.traits}))
            to = ("--out", lab.work / f"captured-{pair.name}", "--url", url)
            lab.run("trait-client", "capture", "--prompts", pair.prompts, "--layers", read, *to)


def report(lab: Lab) -> None:
    replies = lab.sql(PER_REPLY)
    rows = []
    for pair in PAIRS:
        captured = read_capture(lab.work / f"captured-{pair.name}")
        rows += compare(pair, replies, captured, chosen_layer(lab, pair.intent))
    lab.table("separation", rows)
    lab.table("gain", [row for pair in PAIRS for row in gains(pair, replies)])
    lab.table("rule", [by_rule(pair, replies, label) for pair in PAIRS for label in labels(pair, replies)])
    plot(replies, lab.folder / "surface_and_intent.png")


def chosen_layer(lab: Lab, trait: str) -> int:
    """The layer that the vector's own pairs choose."""
    return VectorFile.load(lab.vectors / trait / "mean_diff.safetensors").metadata.chosen_layer


def values(replies: list[dict[str, Any]], trait: str) -> dict[str, float]:
    """Reply -> its projection, in separations; only the replies of the trait's pair have one."""
    return {row["prompt_id"]: row["value"] for row in replies if row["trait"] == trait}


def labels(pair: Pair, replies: list[dict[str, Any]]) -> list[str]:
    """The four classes; the first is the one to find."""
    found = sorted({row["outcome"] for row in replies if row["trait"] == pair.surface})
    return sorted(found, key=lambda label: label != f"{pair.fair} {pair.ill}")


def compare(pair: Pair, replies: list[dict[str, Any]], captured: Capture, layer: int) -> list[dict[str, Any]]:
    """How well each score does each task, beside random directions on the intent's layer."""
    score = {trait: values(replies, trait) for trait in pair.traits}
    ids = captured.ids
    item, tone, content = (list(part) for part in zip(*(name.split("/") for name in ids), strict=True))
    fair, ill = [t == pair.fair for t in tone], [c == pair.ill for c in content]
    both = [a and b for a, b in zip(fair, ill, strict=True)]
    surface = np.array([score[pair.surface][name] for name in ids])
    intent = np.array([score[pair.intent][name] for name in ids])
    scores = {pair.surface: surface, f"- {pair.intent}": -intent, "joint (surface - intent)": surface - intent}
    if pair.also is not None:
        scores[pair.also] = np.array([score[pair.also][name] for name in ids])
    activations = captured.mean("response[:]", layer)
    rows = []
    for task, wanted, strata in (
        (f"{pair.fair} against the other tone", fair, content),
        (f"{pair.ill} against the other content, within a tone", ill, tone),
        (f"{pair.fair} and {pair.ill} against the three others", both, None),
    ):
        random = random_aucs(activations, wanted, strata)
        for name, taken in scores.items():
            found = separation(taken, wanted, item, strata).row()
            rows.append({"pair": pair.name, "task": task, "score": name} | found | beside_random(found["auc"], random))
    return rows


def gains(pair: Pair, replies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gain of the joint score over each single one at finding the joint class: difference of AUCs on the same replies."""
    surface, intent = values(replies, pair.surface), values(replies, pair.intent)
    ids = sorted(surface)
    items, tones, contents = zip(*(name.split("/") for name in ids), strict=True)
    wanted = np.array([(t, c) == (pair.fair, pair.ill) for t, c in zip(tones, contents, strict=True)])
    high, low = (np.array([side[name] for name in ids]) for side in (surface, intent))
    rows = []
    for name, single in ((pair.surface, high), (f"- {pair.intent}", -low)):

        def gain(at: npt.NDArray[np.int64], single: Floats = single) -> float:
            inside = wanted[at]
            joint = (high - low)[at]
            alone = single[at]
            return auc(joint[inside], joint[~inside]) - auc(alone[inside], alone[~inside])

        bounds = cluster_interval(gain, items)
        row = {"pair": pair.name, "over": name, "auc_gain": gain(np.arange(len(ids)))}
        rows.append(row | {"low": bounds[0], "high": bounds[1]})
    return rows


def by_rule(pair: Pair, replies: list[dict[str, Any]], label: str) -> dict[str, Any]:
    """How many replies of a class the rule flags."""
    own = {row["prompt_id"] for row in replies if row["outcome"] == label}
    surface, intent = values(replies, pair.surface), values(replies, pair.intent)
    flagged = sum(surface[name] > 0 > intent[name] for name in own)
    return {"pair": pair.name, "label": label, "n": len(own), "n_flagged": flagged}


def plot(replies: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for axis, pair in zip(axes, PAIRS, strict=True):
        for label, marker in zip(labels(pair, replies), "Xovs", strict=True):
            own = sorted({row["prompt_id"] for row in replies if row["outcome"] == label})
            surface, intent = values(replies, pair.surface), values(replies, pair.intent)
            axis.scatter(
                [surface[n] for n in own], [intent[n] for n in own], marker=marker, label=label, alpha=0.7, s=28
            )
        axis.axhline(0, color="black", linewidth=0.6)
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set(xlabel=f"{pair.surface}, separations", ylabel=f"{pair.intent}, separations")
        axis.legend(fontsize=8)
    figure.suptitle("The rule flags the lower right quarter", fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
