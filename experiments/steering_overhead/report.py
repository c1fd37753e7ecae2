"""The benchmark's table and plot, from its results alone."""

from pathlib import Path
from typing import Any

LABELS = {
    "idle": "plugin loaded, nothing asked",
    "configurations_1": "every request steered, 1 configuration",
    "configurations_8": "8 configurations in the batch",
    "configurations_64": "64 configurations",
    "configurations_256": "256 configurations",
    "gated_256": "256 configurations, each with a gate of its own (token)",
    "latched_256": "256 configurations, each with a gate of its own (latch)",
    "replace_256": "256 configurations of replace",
    "rotate_256": "256 configurations of rotate",
    "mlp_out_256": "256 configurations at mlp_out",
    "all_layers": "every request steered on every layer",
    "capture": "pooled capture of every layer",
    "monitor": "8 directions monitored on every token",
    "monitor_256": "256 directions monitored on every token of every request",
    "lens": "two layers of every request read by the lens at every generated token",
    "separate_process": "(for comparison: stock vLLM in another process)",
}
SWEEP_LABELS = {
    "hooks_per_configuration": "hooks, one configuration after another",
    "hooks_one_batch": "hooks, a vector for each row, one batch",
}


def write(document: dict[str, Any], folder: Path) -> str:
    """Write `table.md` and `overhead.png`; returns the table."""
    text = table(document)
    (folder / "table.md").write_text(text)
    _plot(document, folder / "overhead.png")
    return text


def table(document: dict[str, Any]) -> str:
    """Markdown: throughput against stock vLLM, median and the interval of the median."""
    columns = [(mode, name) for mode, workloads in document["measured"].items() for name in workloads]
    variants = list(next(iter(next(iter(document["measured"].values())).values())))
    lines = [
        "| throughput / stock vLLM | " + " | ".join(f"{name}, {mode}" for mode, name in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for variant in variants:
        measured = [document["measured"][mode][name].get(variant) for mode, name in columns]
        cells = ["" if figures is None else _cell(figures) for figures in measured]
        lines.append(f"| {LABELS[variant]} | " + " | ".join(cells) + " |")
    sweep = document.get("sweep_vs_transformers")
    if sweep:
        detail = sweep["detail"]
        lines += [
            "",
            f"Trials a second over transformers ({detail['work']}):",
            "",
            "| | times as many | equal replies |",
        ]
        lines.append("|---|---|---|")
        for way, label in SWEEP_LABELS.items():
            lines.append(f"| {label} | {_cell(detail[way], digits=2)} | {detail[way]['equal_replies']:.0%} |")
    return "\n".join(lines) + "\n"


def _cell(figures: dict[str, Any], digits: int = 3) -> str:
    low, high = figures["interval_of_median"]
    return f"{figures['median']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _plot(document: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - slow to import

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    series = [(mode, name) for mode, workloads in document["measured"].items() for name in workloads]
    variants = list(document["measured"][series[0][0]][series[0][1]])
    figure, axes = plt.subplots(figsize=(8, 0.55 * len(variants) + 1.6))
    for s, (mode, name) in enumerate(series):
        of = document["measured"][mode][name]
        at = [i for i, variant in enumerate(variants) if variant in of]  # compiled, stock is another process always
        figures = [of[variants[i]] for i in at]
        medians = [f["median"] for f in figures]
        spans = [f["interval_of_median"] for f in figures]
        errors = [
            [m - low for m, (low, _) in zip(medians, spans, strict=True)],
            [high - m for m, (_, high) in zip(medians, spans, strict=True)],
        ]
        places = [i + (s - (len(series) - 1) / 2) * 0.11 for i in at]
        axes.errorbar(medians, places, xerr=errors, fmt="o", markersize=4, capsize=2, label=f"{name}, {mode}")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(variants)), [LABELS[variant] for variant in variants])
    axes.invert_yaxis()
    axes.set_xlabel("throughput / stock vLLM: median of paired runs\nand the interval of the median")
    axes.legend(fontsize=7, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
