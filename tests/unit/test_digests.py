"""Stored identities: databases, shards, stages and vector files contain these digests, so none may ever change."""

from pathlib import Path

import pytest
from trait_client.prompt_sets.manifest import CaptureIdentity, CaptureOptions
from trait_client.prompt_sets.project import ProjectOptions, by_reading
from trait_client.prompt_sets.prompts import SetPrompt
from trait_core.model_identity import ModelIdentity, digest
from trait_core.schema import ServiceInfo
from trait_core.storage import json_sha256
from trait_extraction.data.datasets import TraitDataset
from trait_extraction.data.scenarios import Scenario
from trait_extraction.reading.stage_store import model_identity
from trait_service.access.keys import key_digest
from trait_service.models.identity import chat_template_digest, config_digest

VALUE = [{"b": 1.5, "a": "é", "c": None}, [1e-7, 0.1, 3, True]]
SHA256 = "a1a7ce2c174b2c8b3b283d512f73bcac5205192135b98f475e72d9b4a2b7a5b3"


def test_the_digest_of_a_json_value():
    assert json_sha256(VALUE) == SHA256
    assert digest(VALUE) == SHA256[:32]
    assert json_sha256([dict(reversed(VALUE[0].items())), VALUE[1]]) == SHA256, "the order of keys does not matter"


def test_a_number_that_is_not_finite_has_no_digest():
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_sha256([float("nan")])


def test_the_digest_of_a_dataset_is_taken_of_its_text_in_utf8():
    dataset = TraitDataset(
        trait="mood",
        category="test",
        folder=Path(),
        style="written",
        positive=(Scenario(prompt="Wie geht es?", response="Gut, très bien"),),
        negative=(Scenario(prompt="Wie geht es?", response="Schlecht"),),
        definition="",
        steering=None,
        numbers=(1,),
        origin=(),
    )
    assert dataset.digest == "sha256:f194743cba23c459af9775b239ad16b22e136e10412651fcc3fa411d766877c8"


def test_the_digests_of_a_served_model():
    config = {"model_type": "llama", "hidden_size": 8, "rms_norm_eps": 1e-5}
    assert config_digest(config) == "sha256:efc1292672150c9a8e32a80034cadb911ea948b05fc0a8b6ef46a66b0858ce2e"
    template = "sha256:55b22d23299da5e78b7f30bc063ff597b3eaac2bdcf003499ca7c4466cfdafd1"
    assert chat_template_digest("{{ é }}") == template
    named = "sha256:04a29fd578b7b8240dfe3dd712c41401fb07f5034b956e2d4153d995ffcf3b92"
    assert chat_template_digest([{"name": "a", "template": "b"}]) == named


def test_the_digest_of_an_api_key():
    assert key_digest("ts-secret") == "c52c92a53ebfe02517a51468f3f990a2685f54fdfe9ef14fbc8902f77b4d9899"


def test_the_identities_of_a_served_model_in_cells_captures_readings_and_stages():
    limits = ("max_terms", "max_relative_dose", "max_layers_per_term", "terms_per_layer", "bank_rows", "max_num_seqs")
    info = ServiceInfo(
        model="m",
        config_digest="sha256:c",
        weights_digest="sha256:w",
        checkpoint_digest="sha256:k",
        chat_template_digest=None,
        n_layers=4,
        d_model=8,
        dtype="bfloat16",
        quantization=None,
        residual_norms=[1.0] * 4,
        operations=["add"],
        scopes=["all"],
        units=["dose"],
        limits=dict.fromkeys((*limits, "max_activation_inputs", "max_positions"), 1),
        versions={"v": "1"},
    )
    prompt = SetPrompt("p1", None, "text")
    assert digest(ModelIdentity.of(info, None, "none").as_identity()) == "a51fa1719ca87916b37c4187a24e5514"
    capture = CaptureIdentity.of(CaptureOptions(positions=["prompt[-1]"]), [prompt], info)
    assert capture.digest() == "7024446ad9380761c9b8968b8460f4c1"
    assert list(by_reading([prompt], ProjectOptions([]), info)) == ["e7f8cd0bcd589a0c0d785deede458c8d"]
    stage = "e5ae37d525b5bf9d61d26197b1d7914c54557bb10899d1650ef4e052d8c7809f"
    assert json_sha256(model_identity(info)) == stage
