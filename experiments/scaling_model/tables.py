"""The tables of docs/scaling.md.

python experiments/scaling_model/tables.py                print them
python experiments/scaling_model/tables.py --write        put them into docs/scaling.md
python experiments/scaling_model/tables.py --calibrate    take experiments/steering_overhead/added_time.json again
"""

import argparse
import math
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
import marked_tables
from marked_tables import table
from model import (
    FLOAT32,
    MODELS,
    ROOT,
    SMOLLM2,
    Load,
    Machine,
    bank_bytes,
    calibrate,
    monitor_bytes,
    pool_bytes,
    read_calibration,
    requests_per_second,
    step,
    table_bytes,
)

DOCUMENT = ROOT / "docs" / "scaling.md"
LOAD, MACHINE = Load(), Machine()
VARIANTS = {
    "idle": "nothing asked",
    "configurations_256": "256 configurations, one layer each",
    "all_layers": "every request on every layer",
    "capture": "pooled capture of every layer",
    "monitor": "8 directions monitored",
}


def memory() -> str:
    """Memory of the plugin on every GPU."""
    rows = []
    for model in MODELS:
        used = [
            bank_bytes(model),
            table_bytes(model, LOAD.at_once),
            monitor_bytes(model, LOAD.at_once),
            pool_bytes(model),
        ]
        room = MACHINE.memory_bytes * MACHINE.memory_used - model.bytes_of_weights / model.gpus
        needed = LOAD.at_once * LOAD.mean_length * model.kv_bytes_per_token / model.gpus
        sizes = [_size(each) for each in (*used, sum(used), room, needed)]
        rows.append([model.name, *sizes, f"{sum(used) / room:.1%}"])
    head = [
        "",
        "bank, 4096 rows",
        "request table, 256",
        "monitoring, 256",
        "sums of pools, 256, on one",
        "together",
        "left beside the weights",
    ]
    return table([*head, "keys and values of the load", "plugin's part of what is left"], rows)


def added() -> str:
    """Time that steering adds to a decode step of 256 requests."""
    calibration = read_calibration()
    rows = []
    for variant, label in VARIANTS.items():
        row = [label]
        for model in MODELS:
            one = step(model, LOAD, MACHINE, calibration, variant)
            row.append(f"{one.layers * 1e3:.2f} + {one.host * 1e3:.1f} ms: {one.added:.1%}")
        rows.append(row)
    steps = [step(model, LOAD, MACHINE, calibration, "idle") for model in MODELS]
    rows.insert(
        0, ["(the step itself: GPUs + vLLM's host)", *(f"{s.gpu * 1e3:.0f} + {s.engine * 1e3:.0f} ms" for s in steps)]
    )
    return table(["on the GPU + on the host: part of the step", *(model.name for model in MODELS)], rows)


def replicas() -> str:
    """How many replicas and GPUs 1,000 and 100,000 requests a second take."""
    calibration = read_calibration()
    rows = []
    for model in MODELS:
        for variant in ("idle", "configurations_256", "all_layers"):
            one = step(model, LOAD, MACHINE, calibration, variant)
            rate = requests_per_second(model, LOAD, MACHINE, one)
            numbers = [math.ceil(wanted / rate) for wanted in (1_000, 100_000)]
            counts = [f"{n:,} ({n * model.gpus:,} GPUs)" for n in numbers]
            rows.append([model.name, VARIANTS[variant], f"{rate:.1f}", *counts])
    return table(["", "", "requests/s of one replica", "1,000 requests/s", "100,000 requests/s"], rows)


def capture() -> str:
    """Data that leaves the device, and the first limit that it meets."""
    calibration = read_calibration()
    rows = []
    for model in MODELS:
        pooled = model.n_layers * model.d_model * FLOAT32
        rate = requests_per_second(model, LOAD, MACHINE, step(model, LOAD, MACHINE, calibration, "capture"))
        rows.append(
            [
                model.name,
                _size(pooled),
                f"{_size(pooled * rate)}/s",
                _size(pooled),
                f"{MACHINE.disk / pooled:,.0f}",
                f"{rate * (LOAD.n_prompt + LOAD.n_generated):,.0f}",
            ]
        )
    head = ["", "a pool of every layer", "one pool a request, full replica", "every position: a token"]
    return table([*head, "tokens/s that a disk of 2 GB/s takes", "tokens/s of a full replica"], rows)


def bank() -> str:
    """Distinct vectors that requests in flight may use before the bank of 4096 rows is full."""
    rows = [
        [model.name, f"{4096:,}", f"{4096 // model.n_layers:,}", _size(bank_bytes(model, 256 * model.n_layers))]
        for model in MODELS
    ]
    return table(["", "one layer each", "every layer each", "bank for 256 vectors on every layer"], rows)


def check() -> str:
    """The formulas against what was measured where both exist: the shape of SmolLM2 on two CPU cores."""
    calibration = read_calibration()
    rows = []
    for variant in ("configurations_256", "all_layers", "capture"):
        seconds = calibration.layers[variant] * calibration.step_seconds
        bytes_moved = LOAD.at_once * SMOLLM2.n_layers * SMOLLM2.d_model * 4 * FLOAT32
        if variant == "configurations_256":
            bytes_moved /= SMOLLM2.n_layers
        measured = [calibration.layers[variant], calibration.step[variant], calibration.requests[variant]]
        rows.append(
            [
                VARIANTS[variant],
                *(f"{share:.2%}" for share in measured),
                f"{bytes_moved / seconds / 1e9:.1f} GB/s",
                f"{calibration.host_per_token(variant) * 1e6:.1f} us",
                f"{calibration.host_per_request(variant) * 1e6:.0f} us",
            ]
        )
    head = [
        "",
        "layers",
        "step",
        "requests",
        "bytes at the layers / time",
        "host, a request and step",
        "host, a request",
    ]
    return table(head, rows)


TABLES = {
    "check": check,
    "memory": memory,
    "added": added,
    "replicas": replicas,
    "capture": capture,
    "bank": bank,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    parser.add_argument("--calibrate", action="store_true", help="take the measured ratios again")
    options = parser.parse_args()
    if options.calibrate:
        calibrate()
    if options.write:
        DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(f"{name}:\n\n{make()}" for name, make in TABLES.items()))


def filled(text: str) -> str:
    """The document with each table between its marks."""
    return marked_tables.filled(text, {name: make() for name, make in TABLES.items()})


def _size(n_bytes: float) -> str:
    for unit in ("B", "KB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"


if __name__ == "__main__":
    main()
