"""A prompt set of 5,000 prompts x 200 tokens x 8 traits, made up, in the tables that `trait-client project` writes.

python experiments/dashboard_speed/generate.py build/speed.duckdb
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from trait_client.results import ResultStore
from trait_client.results.rows import ReadingProjectionRow, ReadingRow, VectorRow, utc_now
from trait_core.schema import LayerEvidence, VectorMetadata

TRAITS = ("refusal", "sycophancy", "deception", "gaming", "formality", "positivity", "honesty_observed", "conflicted")
TEXT = (
    "the model answers a plain question about cooking travel history music and the weather with some care while it "
    "weighs what was asked against what it knows and then says so in a few short sentences that anybody can follow"
)
WORDS = TEXT.split()
LAYER, BATCH = 15, 250


def vector(trait: str) -> VectorRow:
    """A vector with a half separation of 20."""
    evidence = LayerEvidence(separation=40.0, centre=1.0, residual_norm=170.0)
    metadata = VectorMetadata(
        trait=trait, model="made-up", config_digest="c", n_layers=30, d_model=576, method="mean_diff",
        positions="response[:]", layers={LAYER: evidence}, chosen_layer=LAYER, chosen_because="made up",
    )  # fmt: skip
    return VectorRow.of(trait, f"sha256:{trait}".ljust(71, "0"), metadata)


def main() -> None:
    """Write the set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", type=Path)
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--tokens", type=int, default=200, help="of prompt and reply together")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = [vector(trait) for trait in TRAITS]
    began = time.monotonic()
    with ResultStore(options.database).writer() as writer:
        writer.write(vectors)
        run = writer.start_run("made_up.jsonl", json.dumps({"command": "project"}), options.prompts)
        for start in range(0, options.prompts, BATCH):
            rows: list = []
            for i in range(start, min(start + BATCH, options.prompts)):
                rows += reading(rng, run, i, options.tokens, vectors)
            writer.write(rows)
        writer.finish_run(run, "ok")
    size = options.database.stat().st_size / 1e6
    print(
        f"{options.prompts} prompts x {options.tokens} tokens x {len(vectors)} traits: {size:.0f} MB in {time.monotonic() - began:.0f} s"
    )


def reading(rng: np.random.Generator, run: str, i: int, n_tokens: int, vectors: list[VectorRow]) -> list:
    """A prompt of a third of the tokens, its reply, and correlated noise for each trait."""
    n_prompt = n_tokens // 3
    tokens = [" " + WORDS[k] for k in rng.integers(0, len(WORDS), n_tokens)]
    tokens[0] = f"Prompt {i}:"
    success = bool(rng.random() < 0.4)
    prompt = json.dumps([{"role": "user", "content": "".join(tokens[:n_prompt])}])
    row = ReadingRow(
        f"reading-{i:05}", run, f"prompt-{i:05}", "success" if success else "failure", prompt, None,
        "".join(tokens[n_prompt:]), False, 256, "stop", n_prompt, n_tokens - n_prompt, list(range(n_tokens)), tokens,
        "made-up", "c", utc_now(),
    )  # fmt: skip
    rows: list = [row]
    for column, each in enumerate(vectors):
        walk = np.convolve(rng.normal(0, 30, n_tokens + 3), np.ones(4) / 4, mode="valid")[: n_tokens - 1]
        walk += (6.0 if success else -4.0) * (column == 0)
        walk[0] = -2700.0
        rows.append(ReadingProjectionRow(row.reading_id, each.sha256, LAYER, 1.0, walk.tolist()))
    return rows


if __name__ == "__main__":
    main()
