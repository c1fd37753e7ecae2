"""What the command line prints on stdout: rich tables, or the same rows as JSON."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from trait_client.vector_file import VectorFile

from trait_extraction.datasets import TraitDataset
from trait_extraction.pipeline import Extracted
from trait_extraction.scenarios import Scenario


def result_row(result: Extracted) -> dict[str, Any]:
    """One vector file of a run, at its chosen layer."""
    meta = result.vector.metadata
    evidence = meta.layers[meta.chosen_layer]
    return {
        "trait": meta.trait,
        "method": meta.method,
        "path": str(result.path),
        "sha256": result.sha256,
        "reused": result.reused,
        "registered": result.registered,
        "positions": meta.positions,
        "n_scenarios": meta.n_positive,
        "n_held_out": meta.n_held_out,
        "chosen_layer": meta.chosen_layer,
        "chosen_because": meta.chosen_because,
        **evidence.model_dump(),
    }


def result_table(results: Sequence[Extracted]) -> Table:
    """The vector files of a run."""
    columns = ["trait", "method", "layer", "AUC", "Cohen's d", "separation", "/ norm"]
    table = _table("Held-out evidence at the chosen layer", columns, text={"trait", "method"})
    for result in results:
        meta = result.vector.metadata
        at = meta.layers[meta.chosen_layer]
        table.add_row(
            meta.trait,
            meta.method,
            str(meta.chosen_layer),
            _number(at.auc),
            _number(at.cohens_d),
            _number(at.separation),
            _number(at.separation / at.residual_norm),
        )
    return table


def result_lines(results: Sequence[Extracted]) -> list[str]:
    """Where each vector file stands, and the name it was registered under."""
    return [
        f"{result.path}{' (stood already)' if result.reused else ''}"
        + (f", registered as {result.registered}" if result.registered else "")
        for result in results
    ]


def dataset_row(dataset: TraitDataset) -> dict[str, Any]:
    """One valid trait folder."""
    return {
        "trait": dataset.trait,
        "category": dataset.category,
        "style": dataset.style,
        "n_scenarios": dataset.n_scenarios,
        "n_questions": len(dataset.steering.questions),
        "mean_words_positive": _mean_words(dataset.positive),
        "mean_words_negative": _mean_words(dataset.negative),
        "metric": None if dataset.steering.metric is None else dataset.steering.metric["kind"],
        "digest": dataset.digest,
    }


def dataset_table(datasets: Sequence[TraitDataset]) -> Table:
    """Valid trait folders. Words are those of the text that is read: the reply, else the prompt."""
    columns = ["trait", "style", "pairs", "questions", "words +/-", "metric"]
    table = _table("Trait datasets", columns, text={"trait", "style", "metric"})
    for row in map(dataset_row, datasets):
        table.add_row(
            f"{row['category']}/{row['trait']}",
            row["style"],
            str(row["n_scenarios"]),
            str(row["n_questions"]),
            f"{row['mean_words_positive']:.1f} / {row['mean_words_negative']:.1f}",
            row["metric"] or "-",
        )
    return table


def vector_table(vector: VectorFile) -> Table:
    """A vector file's evidence, layer by layer; the chosen layer is marked."""
    meta = vector.metadata
    title = f"{meta.trait}, {meta.method}, {meta.positions}, {meta.model}"
    columns = ["layer", "separation", "centre", "residual norm", "/ norm", "AUC", "accuracy", "Cohen's d"]
    table = _table(title, columns, text=set())
    for layer, at in sorted(meta.layers.items()):
        chosen = layer == meta.chosen_layer
        table.add_row(
            f"{'* ' if chosen else ''}{layer}",
            _number(at.separation),
            _number(at.centre),
            _number(at.residual_norm),
            _number(at.separation / at.residual_norm),
            _number(at.auc),
            _number(at.accuracy),
            _number(at.cohens_d),
            style="bold" if chosen else None,
        )
    return table


def _table(title: str, columns: Sequence[str], text: set[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for column in columns:
        left = column in text
        table.add_column(column, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"


def _mean_words(side: Sequence[Scenario]) -> float:
    return sum(len((s.response or s.prompt).split()) for s in side) / len(side)
