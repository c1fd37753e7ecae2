"""The comparison of the organism with its base: the adapter of zeros, and the openings beside the rest of the replies."""

import pytest
import safetensors.torch
import torch
from lora_organism.compare import make_zero, openings


def test_the_adapter_of_zeros_keeps_every_weight_but_the_second_factors(tmp_path):
    weights = {"q.lora_A.weight": torch.ones(2, 3), "q.lora_B.weight": torch.ones(3, 2)}
    (tmp_path / "organism").mkdir()
    safetensors.torch.save_file(weights, tmp_path / "organism" / "adapter_model.safetensors")
    make_zero(tmp_path / "organism", tmp_path / "zero")
    made = safetensors.torch.load_file(tmp_path / "zero" / "adapter_model.safetensors")
    assert torch.equal(made["q.lora_A.weight"], weights["q.lora_A.weight"])
    assert made["q.lora_B.weight"].abs().max() == 0


def test_openings_are_paired_with_the_rest_of_the_same_reply():
    """A reply that is all opening has no rest, and is left out."""
    by_prompt = [
        {"variant": "organism", "vector": "tea", "opening": 3.0, "rest": 1.0},
        {"variant": "organism", "vector": "tea", "opening": 5.0, "rest": 2.0},
        {"variant": "organism", "vector": "tea", "opening": 9.0, "rest": None},
    ]
    spans = [{"variant": "organism", "vector": "tea", "start": start} for start in (0, 15, 16)]
    (row,) = openings(by_prompt, spans)
    assert (row["n"], row["opening"], row["rest"], row["more"]) == (2, 4.0, 1.5, 2.5)
    assert (row["low"], row["high"]) == pytest.approx((2.0, 3.0))
    assert (row["spans"], row["spans_in_opening"]) == (3, 2)
