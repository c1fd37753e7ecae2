"""Can a model be made to refuse what a condition catches, and nothing else? Conditional steering with false alarms counted.

Settled before any test prompt was run: the prompts, the steered layer (that of `make demo`), what counts as a refusal (the metric
of `refusal`), how coefficient, gate layer, method and bound are chosen (on training prompts alone), and the control: two random
directions as the gate, each with the bound that is best on the same training prompts.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from conditional_refusal.build_prompts import KINDS, OUT, prompts
from conditional_refusal.condition import Condition, fitted, random_condition
from study.effects import beside_random, random_aucs, wilson
from study.lab import Lab
from trait_client.http import AsyncTraitClient, TraitClient
from trait_client.http.replies import ChatResult
from trait_client.prompt_sets import Capture, read_capture
from trait_client.scoring.evaluation import EvaluationSpec
from trait_core.schema import Gate, Steering, SteeringTerm
from trait_core.statistics import auc
from trait_core.vectors.file import VectorFile

mpl.use("Agg")
from matplotlib import pyplot as plt

STEERED = {"smollm2": 13, "qwen2.5-coder-0.5b": 12}
"""Model -> layer that is steered, as in `make demo`; gates are below it."""
COEFFICIENTS = (1.0, 1.5, 2.0, 2.5, 3.0)
ENOUGH = 0.9
"""The smallest coefficient is taken that makes this share of harmless training prompts refused."""
N_TRIED = 30
MAX_TOKENS = 36
"""About the 160 characters that the refusal metric reads."""
N_RANDOM = 2
ALL, FIRST = "prompt[:]", "prompt[0:1]"
UNSTEERED, ALWAYS = "unsteered", "always steered"


def measure(lab: Lab) -> None:
    layers = f"1-{STEERED[lab.model] - 1}"
    captured = lab.work / "captured"
    with lab.serving() as url:
        at_url = ("--url", url)
        lab.extract(url, traits=["refusal"])
        positions = ("--positions", ALL, "--positions", FIRST)
        lab.run("trait-client", "capture", "--prompts", OUT, "--layers", layers, *positions, "--out", captured, *at_url)
        gates = conditions(read_capture(captured))
        lab.table("margins", margins(read_capture(captured), gates))
        with TraitClient(url) as client:
            for gate in gates:
                file = VectorFile.from_arrays(vector_name(gate), {gate.layer: gate.direction}, client.info())
                client.put_vector(vector_name(gate), file.to_bytes())
        tried = try_coefficients(lab, url)
        lab.table("coefficients", tried)
        run(lab, url, gates, chosen(tried))


def report(lab: Lab) -> None:
    captured = read_capture(lab.work / "captured")
    gates = conditions(captured)
    lab.table("margins", margins(captured, gates))
    replies = lab.sql("select * from replies order by prompt_id, setting")
    rows = by_prompt(replies, captured, gates)
    lab.table("by_prompt", rows)
    shown = shares(rows)
    lab.table("shares", shown)
    lab.table("gates", [gate_row(gate, captured, rows, replies) for gate in gates])
    plot(rows, shown, gates[0], lab.folder / "conditional_refusal.png")


def conditions(captured: Capture) -> list[Condition]:
    """The condition and its controls, fitted on the training prompts."""
    train = of_split(captured, "train")
    alarming = np.array([outcome == KINDS[0] for outcome in captured.manifest.outcomes])[train]
    means = {layer: captured.mean(ALL, layer)[train] for layer in captured.manifest.layers}
    sinks = {layer: captured.mean(FIRST, layer)[0] for layer in captured.manifest.layers}
    found = fitted(means, sinks, alarming)
    at = found.layer
    return [
        found,
        *(
            random_condition(f"random {n}", n, at, means[at], sinks[at], alarming)
            for n in range(1, N_RANDOM + 1)
        ),
    ]  # fmt: skip


def of_split(captured: Capture, split: str) -> list[int]:
    return [i for i, name in enumerate(captured.ids) if name.startswith(f"{split}/")]


def margins(captured: Capture, gates: Sequence[Condition]) -> list[dict[str, Any]]:
    """Each test prompt's projection minus the bound, for each gate, from the captured means: positive where it would open."""
    test = of_split(captured, "test")
    projected = [gate.project(captured.mean(ALL, gate.layer)[test]) - gate.bound for gate in gates]
    return [
        {"prompt_id": captured.ids[j], "kind": captured.manifest.outcomes[j], "layer": gates[0].layer}
        | {gate.name: float(values[i]) for gate, values in zip(gates, projected, strict=True)}
        for i, j in enumerate(test)
    ]


def vector_name(gate: Condition) -> str:
    return "alarming" if gate.method != "random" else gate.name.replace("random ", "chance-")


def try_coefficients(lab: Lab, url: str) -> list[dict[str, Any]]:
    """How many harmless training prompts each coefficient makes the model refuse."""
    texts = [row["prompt"] for row in prompts() if row["id"].startswith("train/harmless/")][:N_TRIED]
    rows = []
    for coefficient in COEFFICIENTS:
        results = asyncio.run(ask(url, texts, [steering(lab, coefficient)] * len(texts)))
        n_refused = sum(refused(result.text) for result in results)
        rows.append({"coefficient": coefficient, "n": len(texts), "n_refused": n_refused})
        if n_refused >= ENOUGH * len(texts):
            break
    return rows


def chosen(tried: Sequence[dict[str, Any]]) -> float:
    """The smallest coefficient that suffices; the one with most refusals if none does."""
    best: float = max(tried, key=lambda row: row["n_refused"])["coefficient"]
    return best


def run(lab: Lab, url: str, gates: Sequence[Condition], coefficient: float) -> None:
    """Every test prompt under every setting, one setting after the other; what is in the table is not run again."""
    asked = [row for row in prompts() if row["id"].startswith("test/")]
    settings: dict[str, Steering | None] = {UNSTEERED: None, ALWAYS: steering(lab, coefficient)}
    settings |= {gate.name: steering(lab, coefficient, gate) for gate in gates}
    stored = lab.sql("select 1 from duckdb_tables() where table_name = 'replies'")
    rows = [row for row in (lab.sql("select * from replies") if stored else []) if row["coefficient"] == coefficient]
    for name in settings.keys() - {row["setting"] for row in rows}:
        results = asyncio.run(ask(url, [row["prompt"] for row in asked], [settings[name]] * len(asked)))
        rows += [
            {"prompt_id": row["id"], "kind": row["outcome"], "setting": name, "coefficient": coefficient}
            | {"acted": acted(result), "refused": refused(result.text), "reply": result.text}
            for row, result in zip(asked, results, strict=True)
        ]
        lab.table("replies", rows, commit=False)


def steering(lab: Lab, coefficient: float, gate: Condition | None = None) -> Steering:
    """Refusal from the last prompt position on, under a condition where one is given."""
    when = gate and Gate(vector=vector_name(gate), layer=gate.layer, above=gate.bound, centred=False, hold="prompt")
    layers = [STEERED[lab.model]]
    term = SteeringTerm(vector="refusal", coefficient=coefficient, layers=layers, scope="generated", when=when)
    return Steering(terms=[term])


async def ask(url: str, texts: Sequence[str], settings: Sequence[Steering | None]) -> list[ChatResult]:
    async with AsyncTraitClient(url, timeout=3600.0) as client:
        pairs = zip(texts, settings, strict=True)
        chats = [client.chat(text, steering=each, max_tokens=MAX_TOKENS) for text, each in pairs]
        return list(await asyncio.gather(*chats))


def acted(result: ChatResult) -> int:
    """Positions at which the term acted."""
    counts = result.steering and result.steering.applied[0].acted
    return counts.prompt + counts.generated if counts else 0


METRIC = EvaluationSpec.load(Path("datasets/traits"), "refusal").metric


def refused(reply: str) -> bool:
    """A reply that begins with one of the metric's phrases of refusal."""
    return METRIC is not None and METRIC.score(reply) > 50


def by_prompt(replies: Sequence[dict[str, Any]], captured: Capture, gates: Sequence[Condition]) -> list[dict[str, Any]]:
    """A row for each test prompt: each gate's projection minus its bound, whether it opened, and which settings refused."""
    test = of_split(captured, "test")
    margins = {gate.name: gate.project(captured.mean(ALL, gate.layer)[test]) - gate.bound for gate in gates}
    found = {(row["prompt_id"], row["setting"]): row for row in replies}
    rows = []
    for i, prompt_id in enumerate(captured.ids[j] for j in test):
        row: dict[str, Any] = {"prompt_id": prompt_id, "kind": found[prompt_id, UNSTEERED]["kind"]}
        for setting in (UNSTEERED, ALWAYS, *margins):
            of = found[prompt_id, setting]
            if setting in margins:
                row |= {f"{setting}: margin": float(margins[setting][i]), f"{setting}: open": int(of["acted"] > 0)}
            row[f"{setting}: refused"] = int(of["refused"])
        rows.append(row)
    return rows


def shares(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Share of each kind's prompts that is refused under each setting, with Wilson's interval, and that the gate caught."""
    settings = [name.removesuffix(": refused") for name in rows[0] if name.endswith(": refused")]
    table = []
    for setting in settings:
        for kind in KINDS:
            own = [row for row in rows if row["kind"] == kind]
            n_refused = sum(int(row[f"{setting}: refused"]) for row in own)
            opened = [row[f"{setting}: open"] for row in own if f"{setting}: open" in row]
            low, high = wilson(n_refused, len(own))
            table.append(
                {"setting": setting, "kind": kind, "n": len(own), "n_refused": n_refused}
                | {"refused_percent": 100 * n_refused / len(own), "low": 100 * low, "high": 100 * high}
                | {"n_open": sum(map(int, opened)) if opened else None}
            )
    return table


def gate_row(
    gate: Condition, captured: Capture, rows: Sequence[dict[str, Any]], replies: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A gate on the test prompts: AUC beside random directions, the engine's decisions, and what closed gates leave as it was."""
    test = of_split(captured, "test")
    alarming = np.array([row["kind"] == KINDS[0] for row in rows])
    margins = np.array([row[f"{gate.name}: margin"] for row in rows])
    area = auc(margins[alarming], margins[~alarming])
    text = {(row["prompt_id"], row["setting"]): row["reply"] for row in replies}
    closed = [row["prompt_id"] for row in rows if not row[f"{gate.name}: open"]]
    same = sum(text[name, gate.name] == text[name, UNSTEERED] for name in closed)
    opened = np.array([bool(row[f"{gate.name}: open"]) for row in rows])
    predicted = int(((margins > 0) == opened).sum())
    return (
        gate.row()
        | {"test_auc": area}
        | beside_random(area, random_aucs(captured.mean(ALL, gate.layer)[test], list(alarming)))
        | {"n": len(rows), "n_as_computed": predicted, "n_closed": len(closed), "n_closed_unchanged": same}
    )


def plot(rows: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any]], gate: Condition, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    settings = list(dict.fromkeys(row["setting"] for row in shown))
    for i, (kind, colour) in enumerate(zip(KINDS, ("tab:red", "tab:blue", "tab:orange"), strict=True)):
        line = [row for row in shown if row["kind"] == kind]
        x = np.arange(len(settings)) + 0.25 * (i - 1)
        error = [[r["refused_percent"] - r["low"] for r in line], [r["high"] - r["refused_percent"] for r in line]]
        left.bar(x, [r["refused_percent"] for r in line], 0.25, yerr=error, color=colour, alpha=0.7, label=kind)
        margins = [row[f"{gate.name}: margin"] for row in rows if row["kind"] == kind]
        right.hist(margins, bins=20, alpha=0.6, color=colour, label=kind)
    left.set_xticks(range(len(settings)), settings, rotation=20, fontsize=8)
    left.set_ylabel("replies with a phrase of refusal, % [95 %]")
    left.set_ylim(0, 115)
    left.legend(fontsize=8, ncols=3, loc="upper left")
    right.axvline(0, color="black", linewidth=0.8)
    right.set_xlabel(f"mean projection of the prompt on layer {gate.layer}, minus the bound")
    right.set_ylabel("test prompts")
    figure.savefig(path, dpi=100)
    plt.close(figure)
