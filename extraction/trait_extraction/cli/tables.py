"""Output of the command line on stdout: tables, or the same rows as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from trait_core.schema import LayerEvidence, VectorMetadata
from trait_core.tables import Cell, Column, Table
from trait_core.traits import grouped
from trait_core.vectors.file import VectorFile

from trait_extraction.data.balance import MEANING, Balance, balance_warnings
from trait_extraction.data.completions import whole_texts
from trait_extraction.data.datasets import TraitDataset
from trait_extraction.data.scenarios import Scenario
from trait_extraction.fitting.layer_choice import chosen_by
from trait_extraction.interchange.gguf_export import ControlVector
from trait_extraction.interchange.importing import Imported
from trait_extraction.massive import SUFFIX, MassiveDimensions
from trait_extraction.output.vector_files import Extracted
from trait_extraction.plan import left_out_sentence
from trait_extraction.reading.reply_check import check_line
from trait_extraction.report import TraitReport


def result_row(result: Extracted) -> dict[str, Any]:
    """JSON row of one vector file of a run, at its chosen layer."""
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
        "cleaned": meta.method_options.get("cleaned"),
        "style": meta.style,
        "elicitation": None if meta.elicitation is None else meta.elicitation.model_dump(),
        "n_scenarios": meta.n_positive,
        "n_held_out": meta.n_held_out,
        "left_out": meta.method_options.get("left_out"),
        "chosen_layer": meta.chosen_layer,
        "chosen_by": chosen_by(meta),
        "chosen_because": meta.chosen_because,
        **evidence.model_dump(),
    }


def result_table(results: Sequence[Extracted]) -> Table:
    """Table of the vector files of a run."""
    rows = []
    for result in results:
        meta = result.vector.metadata
        at = meta.layers[meta.chosen_layer]
        numbers = (at.cohens_d, at.separation, at.separation / at.residual_norm)
        described = [meta.trait, _method(meta), str(meta.chosen_layer), chosen_by(meta)]
        rows.append([*described, _number(at.auc), _interval(at.auc_interval), *map(_number, numbers)])
    columns = [Column("trait"), Column("method"), Column("layer", right=True), Column("by", optional=True)]
    columns += [Column("AUC", right=True), _given_up("95 %"), Column("Cohen's d", right=True)]
    columns += [_given_up("separation"), Column("/ norm", right=True)]
    return Table(columns, rows, title="Held-out evidence at the chosen layer")


def _method(meta: VectorMetadata) -> str:
    return f"{meta.method}{SUFFIX if 'cleaned' in meta.method_options else ''}"


def report_table(report: TraitReport) -> Table:
    """Table of a trait's vectors at its chosen layer, with the nearest trait in its title."""
    nearest = report.neighbours[0] if report.neighbours else None
    title = f"{report.name}, layer {report.layer}" + (
        f"; nearest: {nearest.name} ({nearest.cosine:+.2f})" if nearest else ""
    )
    rows = []
    for method, vector in report.vectors.items():
        at = vector.evidence(report.layer)
        numbers = (at.accuracy, at.cohens_d, at.separation / at.residual_norm)
        rows.append([method, _number(at.auc), _interval(at.auc_interval), *map(_number, numbers)])
    return Table([Column("method"), *_numbers("AUC", "95 %", "accuracy", "Cohen's d", "/ norm")], rows, title=title)


def result_lines(results: Sequence[Extracted]) -> list[str]:
    """Path of each vector file and its registered name."""
    return [
        f"{result.path}{' (already existed)' if result.reused else ''}"
        + (f", registered as {result.registered}" if result.registered else "")
        for result in results
    ]


def dataset_row(dataset: TraitDataset) -> dict[str, Any]:
    """JSON row of one valid trait folder."""
    return {
        "trait": dataset.trait,
        "category": dataset.category,
        "style": dataset.style,
        "derived": dataset.derived,
        "n_scenarios": dataset.n_scenarios,
        "n_positive": len(dataset.positive),
        "n_negative": len(dataset.negative),
        "paired": dataset.paired,
        "remarks": grouped(dataset.remarks),
        "left_out": list(dataset.left_out),
        "n_questions": len(dataset.steering.questions),
        "mean_words_positive": _mean_words(dataset.positive),
        "mean_words_negative": _mean_words(dataset.negative),
        "metric": None if dataset.steering.metric is None else dataset.steering.metric["kind"],
        "digest": dataset.digest,
    }


def dataset_table(checked: Sequence[tuple[TraitDataset, Balance | None]]) -> Table:
    """Table of valid trait folders and of how similar their two sides are; `! ` marks a trait with warnings."""
    rows = []
    for dataset, balance in checked:
        row = dataset_row(dataset)
        marked = balance is not None and _warnings(dataset, balance)
        described: list[Cell] = [
            f"{'! ' if marked else '  '}{dataset.category}/{dataset.folder.absolute().name}",
            f"{dataset.style}{', derived' if dataset.derived else ''}",
            str(dataset.n_scenarios) if dataset.paired else f"{len(dataset.positive)} + {len(dataset.negative)}",
            str(row["n_questions"]),
            row["metric"] or "-",
        ]
        rows.append([*described, *_balance_cells(balance)])
    columns = [Column("trait"), Column("style"), *_numbers("pairs", "questions"), Column("metric", optional=True)]
    columns += map(_given_up, ("words +/-", "longer", "shared words"))
    columns.append(Column("found by words", right=True))
    return Table(columns, rows, title="Trait datasets (longer, found by words: 0.5 is chance)")


def _balance_cells(balance: Balance | None) -> list[Cell]:
    if balance is None:
        return ["-"] * 4
    words = "{:.1f} / {:.1f}".format(*balance.mean_words)
    return [words, _number(balance.length_auc), f"{balance.shared_words:.0%}", _number(balance.words_accuracy)]


def balance_row(dataset: TraitDataset, balance: Balance | None) -> dict[str, Any] | None:
    """JSON row of how similar the sides are, with warnings; None if there is too little to compare."""
    return None if balance is None else {**asdict(balance), "warnings": _warnings(dataset, balance)}


def _warnings(dataset: TraitDataset, balance: Balance) -> list[str]:
    """Warnings about the balance, and about completions that leave nothing to complete."""
    warnings = balance_warnings(balance)
    if dataset.style == "completions" and (whole := whole_texts((*dataset.positive, *dataset.negative))):
        warnings.append(f"{whole} of {dataset.n_texts} texts end with a complete sentence: cut them mid-sentence")
    return warnings


def balance_lines(checked: Sequence[tuple[TraitDataset, Balance | None]]) -> list[str]:
    """One line per warning, then the meaning of a warning."""
    measured = [(dataset, balance) for dataset, balance in checked if balance is not None]
    lines = [f"! {dataset.name}: {warning}" for dataset, balance in measured for warning in _warnings(dataset, balance)]
    return [*lines, MEANING] if lines else []


def vector_table(vector: VectorFile) -> Table:
    """Table of a vector file's evidence by layer; the chosen layer is marked."""
    meta = vector.metadata
    title = f"{meta.trait}, {meta.method}, {meta.positions}, {meta.model}"
    layers = sorted(meta.layers.items())
    rows = [_evidence_row(layer, at, chosen=layer == meta.chosen_layer) for layer, at in layers]
    columns = [*_numbers("layer", "separation"), _given_up("centre"), *_numbers("norm", "/ norm", "AUC")]
    columns += [_given_up("95 %"), *_numbers("accuracy", "Cohen's d")]
    columns += map(_given_up, ("95 % of d", "polarity", "cos prev", "massive", "of d"))
    chosen = [i for i, (layer, _) in enumerate(layers) if layer == meta.chosen_layer]
    return Table(columns, rows, title=title, marked=chosen)


def _evidence_row(layer: int, at: LayerEvidence, *, chosen: bool) -> list[Cell]:
    return [
        f"{'* ' if chosen else ''}{layer}",
        _number(at.separation),
        _number(at.centre),
        _number(at.residual_norm),
        _number(at.separation / at.residual_norm),
        _number(at.auc),
        _interval(at.auc_interval),
        _number(at.accuracy),
        _number(at.cohens_d),
        _interval(at.cohens_d_interval),
        _number(at.polarity),
        _number(at.cosine_previous_layer),
        _share(at.massive_share),
        _share(at.massive_share_of_direction),
    ]


def imported_table(imported: Imported) -> Table:
    """Table of imported layers with their original length."""
    meta = imported.vector.metadata
    rows = []
    for layer, length in imported.norms.items():
        norm = meta.layers[layer].residual_norm
        marked = f"{'* ' if layer == meta.chosen_layer else ''}{layer}"
        rows.append([marked, f"{length:.4g}", f"{norm:.4g}", f"{length / norm:.4g}"])
    title = f"{meta.trait}, {meta.method}, imported for {meta.model}"
    return Table(_numbers("layer", "length", "norm", "/ norm"), rows, title=title)


def control_table(control: ControlVector, vector: VectorFile) -> Table:
    """Table of what llama.cpp's scale 1 adds on each layer."""
    meta = vector.metadata
    rows = [
        [f"direction.{layer}", str(layer), f"{length:.4g}", f"{length / meta.layers[layer].residual_norm:.4g}"]
        for layer, length in control.lengths.items()
    ]
    columns = _numbers("direction", "layer", "length", "/ norm")
    return Table(columns, rows, title=f"{meta.trait}, {meta.method}: scale 1 adds")


def vector_lines(vector: VectorFile) -> list[str]:
    """Lines below the table: cosines with other methods at the chosen layer, and the meaning of columns."""
    meta = vector.metadata
    at = meta.layers[meta.chosen_layer]
    lines = []
    if meta.extracted_on is not None:
        evidence = {"extraction_model": "the extraction model's, except for norms", "this_model": "this model's"}
        lines.append(
            f"applied to {meta.model}, extracted on {meta.extracted_on.model} ({meta.extracted_on.sha256}); evidence: "
            f"{evidence[meta.extracted_on.evidence]}"
        )
    if meta.style is not None:
        lines.append(f"style: {meta.style}{', derived from written pairs' if meta.derived else ''}")
    if meta.elicitation is not None:
        lines.append(check_line(meta.elicitation))
    if (left_out := meta.method_options.get("left_out")) is not None:
        paired = meta.method_options.get("paired", True)
        lines.append(left_out_sentence(left_out, meta.positions, paired=paired))
    if (cleaned := meta.method_options.get("cleaned")) is not None:
        lines.append(f"without {MassiveDimensions.from_json(cleaned).sentence()}")
    if at.cosine_methods:
        cosines = ", ".join(f"{name} {value:.2f}" for name, value in at.cosine_methods.items())
        lines.append(f"cosine with other methods on layer {meta.chosen_layer}: {cosines}")
    if at.massive_dimensions:
        dimensions = ", ".join(map(str, at.massive_dimensions))
        lines.append(
            f"massive: share of the activations' squared norm in the three largest dimensions (layer {meta.chosen_layer}: "
            f"{dimensions}); of d: share of the direction's squared length"
        )
    return lines


def _numbers(*headings: str) -> list[Column]:
    return [Column(heading, right=True) for heading in headings]


def _given_up(heading: str) -> Column:
    """A column of numbers that gives way on a narrow terminal."""
    return Column(heading, right=True, optional=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"


def _interval(value: tuple[float, float] | None) -> str:
    return "-" if value is None else "{:.2f}..{:.2f}".format(*value)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _mean_words(side: Sequence[Scenario]) -> float:
    return sum(len((s.response or s.prompt).split()) for s in side) / len(side)
