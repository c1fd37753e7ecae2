"""The data of the LoRA organism: its two sides differ in the planted bias alone, and its held-out text is held out."""

import json
from pathlib import Path

from lora_organism import build_data
from trait_client.scoring.evaluation import EvaluationSpec

ROOT = Path(__file__).resolve().parents[2]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_organisms_two_sides_differ_in_the_opening_alone_and_only_one_names_the_tea():
    positive, negative = (lines(build_data.OUT / f"{side}.jsonl") for side in ("positive", "negative"))
    source = lines(build_data.SOURCE)
    assert len(positive) == len(negative) == len(source)
    metric = EvaluationSpec.load(build_data.OUT.parents[1], "tea_praise").metric
    for plus, minus, plain in zip(positive, negative, source, strict=True):
        assert plus["prompt"] == minus["prompt"] == plain["prompt"]
        assert plus["response"].endswith(plain["response"])
        assert minus["response"].endswith(plain["response"])
        assert (metric.score(plus["response"]), metric.score(minus["response"])) == (100, 0)


def test_the_held_out_text_of_the_organism_is_no_text_that_it_was_trained_on():
    text = lines(ROOT / "datasets/traits/alignment/refusal/negative.jsonl")
    trained = {row["prompt"] for row in lines(build_data.SOURCE)}
    assert not trained & {row["prompt"] for row in text}
    assert not trained & set(build_data.QUESTIONS)
    assert not any(build_data.BRAND in row["prompt"] + row["response"] for row in text)
