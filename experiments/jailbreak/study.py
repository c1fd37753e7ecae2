"""Does the refusal projection, before the first token, predict which jailbreak prompts this model will refuse?

Settled before any outcome was seen: the layer (the one that the refusal vector's own pairs choose, by held-out evidence), the
length of replies, what counts as a refusal (the trait's metric), and that comparisons within wrappers are the ones that count.
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jailbreak.build_prompts import OUT as PROMPTS
from jailbreak.build_prompts import write
from study.effects import beside_random, random_aucs, separation
from study.lab import SMALL, Lab, repeated
from trait_client.prompt_sets import read_capture
from trait_client.scoring.evaluation import EvaluationSpec
from trait_core.vectors.file import VectorFile

mpl.use("Agg")
from matplotlib import pyplot as plt

MAX_TOKENS = 40
"""Enough for the 160 characters that the refusal metric reads."""
CAPTURED = {"last prompt token": "prompt[-1]", "reply": "response[:]"}

# Of a prompt: its last token's projection, and the mean over the reply's own tokens, on each layer.
PER_PROMPT = """
select r.prompt_id, r.outcome, p.layer, p.projected[r.n_prompt] as "last prompt token",
       list_avg(p.projected[r.n_prompt + 1:]) as reply
from reading_projections p join readings r using (reading_id)
order by r.prompt_id, p.layer"""


def measure(lab: Lab) -> None:
    prompts = prompt_set(lab)
    with lab.serving() as url:
        at_url = ("--url", url)
        lab.extract(url, traits=["refusal"])
        layers = [word for n in range(refusal(lab).metadata.n_layers) for word in ("--layer", n)]
        project = ("trait-client", "project", "--prompts", prompts, "--vector", "refusal", *layers)
        project = (*project, "--max-tokens", MAX_TOKENS, "--db", lab.db, *at_url)
        lab.run(*project)
        replies = label(lab)
        lab.run(*project)  # the same readings, and nothing else: their outcomes are written beside them
        capture = (
            "trait-client",
            "capture",
            "--prompts",
            replies,
            "--layers",
            chosen_layer(lab),
            "--out",
            lab.work / "captured",
        )
        lab.run(*capture, *repeated("--positions", CAPTURED.values()), *at_url)


def report(lab: Lab) -> None:
    rows, layer = lab.sql(PER_PROMPT), chosen_layer(lab)
    found = separations(lab, rows, layer)
    lab.table("separation", found)
    by_layer = [row for n in range(refusal(lab).metadata.n_layers) for row in compare(rows, n, "last prompt token")]
    lab.table("layers", by_layer)
    wrappers = by_wrapper([row for row in rows if row["layer"] == layer])
    lab.table("wrappers", wrappers)
    plot(by_layer, found, wrappers, layer, lab.folder / "jailbreak.png")


def prompt_set(lab: Lab) -> Path:
    """The prompts; outcomes of the small model are kept with them in the datasets, those of another beside its work."""
    if lab.model == SMALL:
        return PROMPTS
    file = lab.work / "prompts.jsonl"
    if not file.exists():
        rows = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
        write([{key: value for key, value in row.items() if key != "outcome"} for row in rows], file)
    return file


def refusal(lab: Lab) -> VectorFile:
    """The refusal vector of the written pairs."""
    return VectorFile.load(lab.vectors / "refusal/mean_diff.safetensors")


def chosen_layer(lab: Lab) -> int:
    """The layer that the refusal vector's own pairs choose."""
    return refusal(lab).metadata.chosen_layer


def label(lab: Lab) -> Path:
    """Write each prompt's outcome into the prompt set; return a prompt set with the model's replies."""
    metric = EvaluationSpec.load(Path("datasets/traits"), "refusal").metric
    replies = {row["prompt_id"]: row["response"] for row in lab.sql("select prompt_id, response from readings")}
    prompts = prompt_set(lab)
    rows = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["outcome"] = "failure" if metric.score(replies[row["id"]]) else "success"
    write(rows, prompts)
    file = lab.work / "replies.jsonl"
    lines = [json.dumps(row | {"response": replies[row["id"]] or " "}, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def compare(rows: list[dict[str, Any]], layer: int, part: str) -> list[dict[str, Any]]:
    """The refused prompts against the others on one layer: all with all, and within wrappers."""
    at = [row for row in rows if row["layer"] == layer and row[part] is not None]
    wrappers, requests = zip(*(row["prompt_id"].split("/") for row in at), strict=True)
    refused = [row["outcome"] == "failure" for row in at]
    scores = [row[part] for row in at]
    return [
        {"part": part, "compared": name, "layer": layer, **separation(scores, refused, requests, strata).row()}
        for name, strata in (("all prompts", None), ("within wrappers", wrappers))
    ]


def separations(lab: Lab, rows: list[dict[str, Any]], layer: int) -> list[dict[str, Any]]:
    """Both parts on the chosen layer, beside random directions on the same activations."""
    captured = read_capture(lab.work / "captured")
    wrappers = [name.split("/")[0] for name in captured.ids]
    refused = [outcome == "failure" for outcome in captured.manifest.outcomes]
    found = []
    for part, positions in CAPTURED.items():
        activations = captured.mean(positions, layer)
        for row in compare(rows, layer, part):
            random = random_aucs(activations, refused, wrappers if row["compared"] == "within wrappers" else None)
            found.append(row | beside_random(row["auc"], random))
    return found


def by_wrapper(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How often each wrapper's prompts are refused, most first."""
    names = list(dict.fromkeys(row["prompt_id"].split("/")[0] for row in rows))
    table = []
    for name in names:
        own = [row for row in rows if row["prompt_id"].startswith(f"{name}/")]
        n_refused = sum(row["outcome"] == "failure" for row in own)
        table.append(
            {"wrapper": name, "n": len(own), "n_refused": n_refused, "refused_percent": 100 * n_refused / len(own)}
        )
    return sorted(table, key=lambda row: -row["n_refused"])


def plot(
    by_layer: list[dict[str, Any]], found: list[dict[str, Any]], wrappers: list[dict[str, Any]], layer: int, path: Path
) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for name, colour in (("all prompts", "tab:grey"), ("within wrappers", "tab:blue")):
        line = [row for row in by_layer if row["compared"] == name]
        x = [row["layer"] for row in line]
        left.plot(x, [row["auc"] for row in line], color=colour, label=name)
        left.fill_between(x, [r["auc_low"] for r in line], [r["auc_high"] for r in line], color=colour, alpha=0.15)
    band = next(r for r in found if (r["part"], r["compared"]) == ("last prompt token", "within wrappers"))
    left.errorbar(
        [layer], [0.5], [[0.5 - band["random_auc_low"]], [band["random_auc_high"] - 0.5]], color="black", capsize=4,
        linestyle="none", label="random directions, within wrappers (95 %)",
    )  # fmt: skip
    left.axhline(0.5, color="black", linewidth=0.6)
    left.axvline(layer, color="tab:red", linewidth=0.8, linestyle=":", label=f"layer {layer}, chosen beforehand")
    left.set(xlabel="layer", ylabel="AUC, refused above not refused", ylim=(0, 1))
    left.set_title("Refusal projection of the last prompt token")
    left.legend(fontsize=8, loc="lower right")
    right.barh([row["wrapper"] for row in wrappers][::-1], [row["refused_percent"] for row in wrappers][::-1])
    right.set(xlabel="refused, % of 26 requests")
    right.set_title("Refusals by wrapper")
    figure.savefig(path, dpi=110)
    plt.close(figure)
