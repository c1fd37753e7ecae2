"""`trait-client compare-variants` on the organism: do the spans find the planted bias, and is nothing found where nothing is?

    python experiments/lora_organism/compare.py [--report]

Four variants on the 24 questions that neither adapter was trained on: the organism, the clean adapter, an adapter of zeros, and the base
itself. What `build/studies/lora_organism/variants.duckdb` holds is not read again; `--report` makes the tables anew.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

if __name__ == "__main__":  # not this folder, whose study.py would hide the package `study`
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from lora_organism.build_data import QUESTIONS
from lora_organism.study import BIAS, train
from study.lab import ROOT, Lab, write_csv
from trait_client.results import ResultStore
from trait_core.statistics import bootstrap_interval

TRAITS = ("question_asking", "formality")
VARIANTS = ("organism", "clean", "zero", "smollm2")
MAX_TOKENS = "48"
"""Twice what the adapters were trained on: the opening, and as much again without it."""
OPENING = 16
"""Tokens of the longest opening."""

EFFECTS = """
SELECT c.variant_model AS variant, v.name AS vector, e.layer, e.text, e.n, e.base, e.variant AS variant_mean, e.difference, e.low,
       e.high, e.separations, e.dz, e.dz_low, e.dz_high, e.random_dz, e.verdict
FROM variant_effects e JOIN variant_comparisons c USING (comparison_id) JOIN vectors v USING (sha256)
ORDER BY list_position(['organism', 'clean', 'zero', 'smollm2'], c.variant_model), v.name, e.text
"""

SPANS = """
SELECT c.variant_model AS variant, v.name AS vector, s.rank, s.start - r.n_prompt AS start, s.words, s.difference, s.size
FROM variant_spans s JOIN variant_comparisons c USING (comparison_id) JOIN vectors v USING (sha256)
JOIN variant_texts t USING (comparison_id, prompt_id, text) JOIN readings r ON r.reading_id = t.base_reading_id
WHERE s.text = 'variant'
ORDER BY list_position(['organism', 'clean', 'zero', 'smollm2'], c.variant_model), v.name, s.rank
"""

# By prompt: mean |difference| of the reply's opening, and of the rest of it.
OPENINGS = f"""
SELECT c.variant_model AS variant, d.vector, d.prompt_id,
       avg(abs(d.difference)) FILTER (d.position - r.n_prompt < {OPENING}) AS opening,
       avg(abs(d.difference)) FILTER (d.position - r.n_prompt >= {OPENING}) AS rest
FROM variant_differences d JOIN variant_comparisons c USING (comparison_id)
JOIN variant_texts t USING (comparison_id, prompt_id, text) JOIN readings r ON r.reading_id = t.base_reading_id
WHERE d.text = 'variant'
GROUP BY ALL
ORDER BY ALL
"""  # noqa: S608 - a number of our own


def main() -> None:
    os.chdir(ROOT)
    lab = Lab("lora_organism")
    db = lab.work / "variants.duckdb"
    if "--report" not in sys.argv[1:]:
        measure(lab, db)
    report(lab, db)


def measure(lab: Lab, db: Path) -> None:
    """Serve the base with three adapters, and compare each with it."""
    train(lab)
    make_zero(lab.work / "organism", lab.work / "zero")
    questions = lab.work / "questions.txt"
    questions.write_text("\n".join(QUESTIONS) + "\n", encoding="utf-8")
    modules = [f"{name}={lab.work / name}" for name in ("organism", "clean", "zero")]
    flags = ("--enable-lora", "--max-lora-rank", "8", "--max-loras", "3", "--lora-modules", *modules)
    with lab.serving("smollm2", *flags) as url:
        extract = ("trait-extract", "run", "--out", lab.vectors, "--register", "--url", url)
        lab.run(*extract, *(word for trait in TRAITS for word in ("--trait", trait)))
        lab.run(*extract, "--trait", BIAS, "--datasets", lab.folder / "traits")
        vectors = [word for name in (BIAS, *TRAITS) for word in ("--vector", name)]
        for variant in VARIANTS:
            options = ("--variant", variant, "--max-tokens", MAX_TOKENS, "--db", db, "--url", url)
            lab.run("trait-client", "compare-variants", "--prompts", questions, *vectors, *options)


def report(lab: Lab, db: Path) -> None:
    """Write the tables."""
    spans = read(db, SPANS)
    write_csv(lab.folder / "variant_effects.csv", read(db, EFFECTS))
    write_csv(lab.folder / "variant_spans.csv", spans)
    write_csv(lab.folder / "variant_openings.csv", openings(read(db, OPENINGS), spans))


def openings(by_prompt: Sequence[dict[str, Any]], spans: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each variant and vector: the opening beside the rest of the reply, paired by prompt, and where the largest spans lie."""
    rows = []
    for key in sorted(
        {(row["variant"], row["vector"]) for row in by_prompt}, key=lambda key: (VARIANTS.index(key[0]), key[1])
    ):
        own = [row for row in by_prompt if (row["variant"], row["vector"]) == key and row["rest"] is not None]
        more = np.array([row["opening"] - row["rest"] for row in own])
        low, high = bootstrap_interval(more) or (None, None)
        largest = [row for row in spans if (row["variant"], row["vector"]) == key]
        rows.append(
            {
                "variant": key[0], "vector": key[1], "n": len(own),
                "opening": float(np.mean([row["opening"] for row in own])),
                "rest": float(np.mean([row["rest"] for row in own])),
                "more": float(more.mean()), "low": low, "high": high,
                "spans": len(largest), "spans_in_opening": sum(row["start"] < OPENING for row in largest),
            }
        )  # fmt: skip
    return rows


def read(db: Path, sql: str) -> list[dict[str, Any]]:
    """Rows of a query."""
    columns, rows, *_ = ResultStore(db).query(sql)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def make_zero(adapter: Path, zero: Path) -> None:
    """Copy an adapter with its second factors set to zero, so that it changes nothing."""
    shutil.copytree(adapter, zero, dirs_exist_ok=True)
    weights = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
    zeros = {name: weight * 0 if "lora_B" in name else weight for name, weight in weights.items()}
    safetensors.torch.save_file(zeros, zero / "adapter_model.safetensors")


if __name__ == "__main__":
    main()
