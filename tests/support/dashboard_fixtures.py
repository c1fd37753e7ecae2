"""A result database whose answers are known, written by the store's own writer, and the dashboard that serves it."""

import contextlib
import dataclasses
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
from trait_client.results import ResultStore
from trait_client.results.damage_rows import DamageRow
from trait_client.results.patch_rows import PatchingRow, PatchRow
from trait_client.results.rows import (
    CellRow,
    CosineRow,
    ProjectionRow,
    PromptRow,
    ReadingProjectionRow,
    ReadingRow,
    RunCellRow,
    ScoreRow,
    TrialRow,
    VectorRow,
    utc_now,
)
from trait_core.schema import LayerEvidence, VectorMetadata

HOSTILE = "<img src=x onerror=\"document.title='owned'\"> & </script><script>alert(1)</script>"
NOBODY = "http://127.0.0.1:9"
"""An address at which no service answers."""
N_PROMPTS = 4
LAYERS = (9, 13)
COEFFICIENTS = (-1.0, 1.5, 3.0)
TRAITS = ("refusal", "warmth")
LONG = "One sentence of a reply that is never cut. " * 60


def vector_row(trait: str, method: str = "mean_diff", centre: float = 2.0) -> VectorRow:
    """A vector with layers 9 and 13 and a half separation of 10."""
    layers = {
        layer: LayerEvidence(
            separation=20.0,
            centre=centre,
            residual_norm=100.0,
            auc=0.9 + layer / 1000,
            auc_interval=(0.8, 0.99),
            cohens_d=2.5,
        )
        for layer in LAYERS
    }
    metadata = VectorMetadata(
        trait=trait, model="smol", config_digest="c", n_layers=30, d_model=4, method=method, positions="response[:]",
        layers=layers, chosen_layer=13, chosen_because="a test",
    )  # fmt: skip
    return VectorRow.of(f"{trait}.{method}", f"sha256:{trait}-{method}".ljust(71, "0"), metadata)


def build(path: Path, n_readings: int = 120) -> ResultStore:
    """Two traits swept on two layers, three coefficients, two methods and two precisions; one set of readings."""
    store = ResultStore(path)
    with store.writer() as writer:
        run = writer.start_run("known", '{"name": "known"}', 500)
        writer.write(_sweep(run))
        writer.finish_run(run, "ok")
        corpus = writer.start_run("chats.jsonl", '{"command": "project"}', n_readings)
        writer.write(_readings(corpus, n_readings))
        writer.finish_run(corpus, "ok")
    return store


def _sweep(run: str) -> list:
    rows: list = [PromptRow(f"p{i}", prompt_text(i)) for i in range(N_PROMPTS)]
    vectors = {(t, m): vector_row(t, m) for t in TRAITS for m in ("mean_diff", "probe")}
    random = vector_row("refusal", "random")
    rows += [*vectors.values(), random]
    pairs = sorted({(a.sha256, b.sha256) for a in vectors.values() for b in vectors.values() if a.sha256 < b.sha256})
    rows += [CosineRow(a, b, layer, 0.25) for a, b in pairs for layer in LAYERS]
    for precision in ("float32", "int8"):
        base = f"base-{precision}"
        rows += _cell(run, base, "baseline", precision, None)
        for (trait, method), vector in vectors.items():
            if precision == "int8" and method == "probe":
                continue
            for layer in LAYERS:
                for coefficient in COEFFICIENTS:
                    name = f"{trait}-{method}-{layer}-{coefficient}-{precision}"
                    rows += _cell(run, name, "steered", precision, (vector, vector, layer, coefficient))
                    if trait == "refusal":
                        rows += _cell(
                            run, f"{name}-r", "control", precision, (vector, random, layer, coefficient), name
                        )
    warm = vectors["warmth", "mean_diff"]
    return rows + _cell(run, "warmth-mean_diff-9+13-1.5-float32", "steered", "float32", (warm, warm, LAYERS, 1.5))


def build_damaged(path: Path) -> ResultStore:
    """The known sweep, with the damage of refusal's settings by mean difference in float32: it grows with the coefficient."""
    store = build(path, 1)
    with store.writer() as writer:
        writer.write(
            DamageRow(
                f"refusal-mean_diff-{layer}-{coefficient}-float32", "d", kl, kl / 2, 2 * kl, 0.9, kl, kl, kl, 3,
                0.5, 0.5 - kl, -kl, -kl, -kl, 4, utc_now(),
            )
            for layer in LAYERS
            for coefficient in COEFFICIENTS
            for kl in [0.02 * coefficient**2 + (0.1 if layer == 9 else 0.0)]
        )  # fmt: skip
    return store


def build_gated(path: Path) -> ResultStore:
    """One trait at one setting, at two hook points, without a gate and under one that was open in half of the replies."""
    store = ResultStore(path)
    vector, gate = vector_row("refusal"), vector_row("warmth")
    rows: list = [PromptRow(f"p{i}", prompt_text(i)) for i in range(N_PROMPTS)] + [vector, gate]
    with store.writer() as writer:
        run = writer.start_run("gated", '{"name": "gated"}', 5 * N_PROMPTS)
        rows += _cell(run, "base-float32", "baseline", "float32", None)
        for at in ("resid_post", "mlp_out"):
            rows += _cell(run, f"{at}-open", "steered", "float32", (vector, vector, 13, 1.5), hook_point=at)
            condition = {"hook_point": at, "gate": "warmth@9>0.5", "gate_sha256": gate.sha256}
            rows += _cell(run, f"{at}-gated", "steered", "float32", (vector, vector, 9, 1.5), **condition)
        writer.write(rows)
        writer.finish_run(run, "ok")
    return store


def prompt_text(i: int) -> str:
    """The last one tries to be markup."""
    return HOSTILE if i == N_PROMPTS - 1 else f"Question number {i}?"


def steered_text(trait: str, layer: int, coefficient: float, i: int) -> str:
    """The text of a steered cell's reply."""
    return f"steered {trait} layer {layer} at {coefficient} on {i}. {LONG if i == 0 else HOSTILE}"


def _cell(run, name, kind, precision, change, control_of=None, **more) -> list:
    values: dict = dict.fromkeys(CellRow.__dataclass_fields__.keys() - {"table"})
    values |= {
        "cell_id": name, "setting_id": name, "baseline_id": f"base-{precision}", "kind": kind, "control_of": control_of,
        "precision": precision, "adapter": "none", "seed": 0, "max_tokens": 8, "temperature": 0.0, "top_p": 1.0,
        "model": "smol", "config_digest": "c", "dtype": "float32", "versions": "{}",
    }  # fmt: skip
    if change:
        trait_vector, applied, where, coefficient = change
        together = isinstance(where, tuple)
        layer = where[-1] if together else where  # replies are read on the last
        values |= {
            "trait": trait_vector.trait, "trait_sign": 1, "trait_sha256": trait_vector.sha256, "sha256": applied.sha256,
            "method": trait_vector.method, "layer": None if together else layer, "layers": list(where) if together else [layer], "read_layer": layer,
            "coefficient": coefficient, "unit": "dose", "operation": "add",
            "scope": "all", "preserve_norm": False,
        }  # fmt: skip
    values |= more
    rows: list = [CellRow(**values), RunCellRow(run, name)]
    for i in range(N_PROMPTS):
        trial = f"{name}/{i}"
        text = f"baseline reply {i}. {HOSTILE}"
        lexical, coherence, perplexity = 10.0, 95.0, 4.0
        if kind == "steered":
            text = steered_text(trait_vector.trait, layer, coefficient, i)
            lexical = max(0.0, 10.0 + 20.0 * coefficient + (5 if layer == 13 else 0) + (60 if together else 0) + i)
            coherence, perplexity = 95.0 - 15.0 * abs(coefficient), 4.0 * 2 ** abs(coefficient)
        done = TrialRow(trial, name, f"p{i}", run, "done", text, "stop", 9, 5, None, 0.1, None, utc_now())
        if more.get("gate"):
            done = replace(done, acted_prompt=4 * (i % 2), acted_generated=i % 2)
        rows.append(replace(done, reasoning=f"first a thought {HOSTILE}") if i == 2 and kind == "steered" else done)
        rows += [ScoreRow(trial, "*", "coherence", coherence, "1"), ScoreRow(trial, "*", "perplexity", perplexity, "1")]
        rows += [ScoreRow(trial, trait, "lexical", lexical, "1") for trait in TRAITS]
        if change:
            rows.append(ProjectionRow(trial, trait_vector.sha256, layer, "response[:]", lexical / 10))
            rows.append(ProjectionRow(f"base-{precision}/{i}", trait_vector.sha256, layer, "response[:]", 1.0))
    return rows


def _readings(run: str, n: int) -> list:
    directions = [(vector_row(trait), 13) for trait in TRAITS]
    rows: list = []
    for i in range(n):
        prompt = ["<|im_start|>", "user", "\n", "Tell", " me", " about", f" item{i}", "<|im_end|>"]
        reply = ["Sure", ",", f" item{i}", " is", " fine", ".", "\n\n", "Done", HOSTILE if i == 0 else "!"]
        outcome = ("success", "failure", None)[i % 3]
        text = f"Tell me about item{i} {HOSTILE if i == 0 else ''}"
        rows.append(
            ReadingRow(
                f"r{i:05}", run, f"q{i:05}", outcome, f'[{{"role": "user", "content": {_json(text)}}}]', None,
                "".join(reply) + (LONG if i == 1 else ""), False, 9, "stop", len(prompt), len(reply),
                list(range(len(prompt) + len(reply))), [*prompt, *reply], "smol", "c", utc_now(),
                prompt_set="chats", metadata=json.dumps(note(i)),
            )
        )  # fmt: skip
        for column, (vector, layer) in enumerate(directions):
            # An attention sink first; an unrelated prompt near 0; the reply at +10 or -10 by outcome.
            values = np.zeros(len(prompt) + len(reply) - 1)
            values[0] = -3000.0
            values[len(prompt) - 1 :] = (10.0 if outcome == "success" else -10.0) * (1 if column == 0 else 0.1)
            cosines = (values / 100).tolist() if column == 0 else None
            rows.append(ReadingProjectionRow(f"r{i:05}", vector.sha256, layer, 2.0, values.tolist(), cosines))
    return rows


def note(i: int) -> dict:
    """The further fields of a reading's prompt; the first one tries to be markup."""
    return {"note": HOSTILE if i == 0 else ("odd", "even")[i % 2 == 0], "tags": ["all", f"tag{i % 4}"]}


def _json(text: str) -> str:
    return json.dumps(text)


@contextlib.contextmanager
def dashboard(db: Path, service: str = NOBODY, env: dict[str, str] | None = None) -> Iterator[str]:
    """The address of `trait-client dashboard` in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from trait_client.cli import main; main()", "dashboard", "--db", str(db)]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--service", service], stdout=subprocess.DEVNULL, env=env
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert process.poll() is None, "the dashboard ended"
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(url, timeout=5).status_code == 200:
                    break
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def build_patching(path: Path) -> ResultStore:
    """One patching of three layers and three tokens: the country restores in layers 0 and 1, the last token in layer 2."""
    store = ResultStore(path)
    with store.writer() as writer:
        run = writer.start_run("Italy <- France", '{"command": "patch"}', 3)
        row = PatchingRow(
            "p1", run, "Italy <- France", "{}", "{}", ["In", " France", " is"], ["In", " Italy", " is"], [], [],
            [" Paris", " Rome"], 6.0, -4.0, "smol", "c", None, "float32", 3, utc_now(),
        )  # fmt: skip
        shares = [[0.0, 1.0, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]]
        cells = [
            PatchRow("p1", "resid_post", layer, "behind" if i == 2 else "span", i, 1, [i], [i], -1.0, -2.0, 10 * share - 4, share)
            for layer, row in enumerate(shares)
            for i, share in enumerate(row)
        ]  # fmt: skip
        whole = PatchRow("p1", "resid_post", 1, "all", 0, 3, [0, 1, 2], [0, 1, 2], -1.0, -7.0, 6.0, 1.0)
        writer.write([row, *cells, whole, dataclasses.replace(cells[0], hook_point="mlp_out", restored=-0.5)])
        writer.finish_run(run, "ok")
    return store
