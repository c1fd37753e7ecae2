"""Measure how much knowledge steering costs: the accuracy of two harnesses over dose, for real and for random directions.

lm-evaluation-harness reads log-likelihoods, Inspect reads what the model writes. Both know a model by its name only: each setting
is an alias (`MODEL+VECTOR@COEFFICIENT`). The traits, doses and questions were fixed before any run.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from study.lab import ROOT, Lab
from trait_core.statistics import paired_delta
from trait_core.vectors.file import VectorFile
from trait_core.vectors.random import random_vector
from trait_steering import TraitClient, model_folder

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
PROGRAMS = ROOT / ".cache" / "harnesses" / "bin"
QUESTIONS = ROOT / "datasets" / "damage" / "choices.jsonl"

TRAITS = ("sycophancy", "refusal")
COEFFICIENTS = (1, 2, 3, 4)
SEEDS = (1, 2, 3)
"""Seeds of the random directions. Each has the scale of the first trait's vector on the layer that its file chose."""

LM_EVAL, INSPECT = "lm-eval", "inspect"
BY_CHANCE = 0.25

ANSWERS = "answers.json"
"""The committed answers, from which tables and plot are made."""

Right = Mapping[str, Mapping[str, float]]
"""Model -> id of a question -> 1 or 0."""


def measure(lab: Lab) -> None:
    if not (PROGRAMS / "lm_eval").is_file():
        sys.exit("lm-evaluation-harness and Inspect are not installed: make harnesses")
    for name in ("choices.yaml", "choices.py", "letters.py"):
        shutil.copy(HERE / name, lab.work)
    shutil.copy(QUESTIONS, lab.work)
    with lab.serving() as url:
        lab.extract(url, traits=TRAITS, methods=["mean_diff"])
        like = VectorFile.load(lab.vectors / TRAITS[0] / "mean_diff.safetensors")
        with TraitClient(url) as client:
            for seed in SEEDS:
                client.put_vector(f"random_{seed}", random_vector(like, seed).to_bytes())
        ask(lab.work, url, model_folder(lab.model), [lab.model, *aliases(lab.model)])


def aliases(model: str) -> list[str]:
    """The names of all steered settings."""
    vectors = [*TRAITS, *(f"random_{seed}" for seed in SEEDS)]
    return [f"{model}+{vector}@{coefficient}" for vector in vectors for coefficient in COEFFICIENTS]


def ask(folder: Path, url: str, tokenizer: Path, models: Sequence[str], limit: int = 0) -> None:
    """Run both harnesses on all models.

    Args:
        folder: Holds the tasks and the questions; gets `lm-eval.json` and Inspect's logs.
        url: The service.
        tokenizer: Folder of the model.
        models: The base model and its aliases.
        limit: Questions to ask; 0: all.
    """
    program(folder, url, "python", "choices.py", url, tokenizer, f"{LM_EVAL}.json", limit, *models)
    shutil.rmtree(folder / INSPECT, ignore_errors=True)
    named = ",".join(f"openai-api/trait/{model}" for model in models)
    options = ["--max-tokens", 4, "--temperature", 0, "--display", "none", "--log-format", "json"]
    options += ["--log-dir", INSPECT, "--max-connections", 32, "--max-tasks", 2]
    if limit:
        options += ["--limit", limit]
    program(folder, url, "inspect", "eval", "letters.py", "--model", named, *options)


def program(folder: Path, url: str, name: str, *arguments: object) -> None:
    """Run a program of the harnesses' environment; the study ends where it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"TRAIT_BASE_URL": f"{url}/v1", "TRAIT_API_KEY": "none", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([PROGRAMS / name, *map(str, arguments)], cwd=folder, env=environment, check=False)  # noqa: S603
    if done.returncode:
        sys.exit(f"{name} ended with exit code {done.returncode}")


def answers(folder: Path) -> dict[str, Right]:
    """Harness -> its answers, from the files that `ask` leaves."""
    by_inspect: dict[str, dict[str, float]] = {}
    for path in (folder / INSPECT).glob("*.json"):
        log = json.loads(path.read_text())
        model = log["eval"]["model"].removeprefix("openai-api/trait/")
        by_inspect[model] = {each["id"]: each["scores"]["letter"]["value"] for each in log["samples"]}
    return {LM_EVAL: json.loads((folder / f"{LM_EVAL}.json").read_text()), INSPECT: by_inspect}


def report(lab: Lab) -> None:
    if (lab.work / f"{LM_EVAL}.json").is_file():
        keep(answers(lab.work), lab.folder / ANSWERS)
    rows = accuracies(kept(lab.folder / ANSWERS), lab.model)
    lab.table("accuracy", rows)
    plot(rows, lab.folder / "capability_under_steering.png")


def keep(found: Mapping[str, Right], path: Path) -> None:
    """Write every answer: for each harness and model a text of 0 and 1, in the order of the questions."""
    ids = question_ids()
    written = {
        harness: {model: "".join(f"{each[name]:.0f}" for name in ids) for model, each in sorted(right.items())}
        for harness, right in found.items()
    }
    path.write_text(json.dumps(written, indent=1) + "\n")


def kept(path: Path) -> dict[str, Right]:
    """The answers that `keep` wrote."""
    ids = question_ids()
    return {
        harness: {model: dict(zip(ids, map(float, text), strict=True)) for model, text in right.items()}
        for harness, right in json.loads(path.read_text()).items()
    }


def question_ids() -> list[str]:
    """Ids of the questions, in their order."""
    return [json.loads(line)["id"] for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


def accuracies(found: Mapping[str, Right], model: str) -> list[dict[str, Any]]:
    """One row for each harness, vector and dose: the change of the accuracy, paired by question, 95 per cent."""
    rows = []
    for harness, right in found.items():
        base = right[model]
        for name in sorted(right):
            vector, _, coefficient = name.removeprefix(model).removeprefix("+").partition("@")
            delta = paired_delta(right[name], base)
            low, high = delta.interval or (None, None)
            rows.append(
                {
                    "harness": harness,
                    "vector": vector or "none",
                    "coefficient": float(coefficient or 0),
                    "n": delta.n,
                    "accuracy": delta.steered,
                    "delta": delta.delta,
                    "low": low,
                    "high": high,
                }
            )
    return rows


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    harnesses = list(dict.fromkeys(row["harness"] for row in rows))
    figure, axes = plt.subplots(1, len(harnesses), figsize=(9, 3.6), sharey=True)
    for panel, harness in zip(axes, harnesses, strict=True):
        of_harness = [row for row in rows if row["harness"] == harness]
        base = next(row["accuracy"] for row in of_harness if row["vector"] == "none")
        for vector in vectors_of(of_harness):
            steps = sorted((row["coefficient"], row["accuracy"]) for row in of_harness if row["vector"] == vector)
            random = vector.startswith("random_")
            style = {"color": "0.65", "lw": 1} if random else {"lw": 2, "label": vector}
            panel.plot([0, *(x for x, _ in steps)], [base, *(y for _, y in steps)], marker="o", ms=3, **style)
        panel.axhline(BY_CHANCE, color="0.8", ls=":")
        panel.set(title=harness, xlabel="coefficient (dose)", ylim=(0, 1))
    axes[0].set_ylabel("accuracy")
    axes[0].plot([], [], color="0.65", label="random directions")
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def vectors_of(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The vectors of the steered rows, each once."""
    return [vector for vector in dict.fromkeys(row["vector"] for row in rows) if vector != "none"]
