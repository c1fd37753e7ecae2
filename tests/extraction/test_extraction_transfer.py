"""Vectors of one model on another: refused unless asked for, and both are in the file."""

import json

import numpy as np
import pytest
from trait_core.errors import DatasetError, InvalidRequestError
from trait_core.storage import sha256_of
from trait_core.vectors.file import VectorFile
from trait_core.vectors.transfer import apply_to, is_of_another_model
from trait_extraction.data.datasets import load_trait
from trait_extraction.interchange.transfer import measure_on
from trait_extraction.pipeline import run
from trait_extraction.plan import RESPONSE, Settings

BASE = {"model": "base", "weights_digest": "sha256:base"}
TUNED = {"model": "tuned", "weights_digest": "sha256:tuned", "residual_norms": [50.0 + i for i in range(10)]}


@pytest.fixture
def base_vector(trait_folder, gaussians, tmp_path):
    """A vector of the base model, and the dataset that it was made of."""
    dataset = load_trait(trait_folder())
    (result,) = run(gaussians(**BASE), [(dataset, Settings(RESPONSE))], ["mean_diff"], tmp_path / "v")
    return result.vector, dataset


@pytest.mark.parametrize(
    ("served", "other"),
    [
        (BASE, False),
        (BASE | {"model": "another-name"}, False),
        (BASE | {"weights_digest": None}, False),
        (TUNED, True),
        (BASE | {"config_digest": "sha256:wider"}, True),
    ],
)
def test_models_are_distinguished_by_shape_and_weights_not_by_name(base_vector, gaussians, served, other):
    vector, _ = base_vector
    info = gaussians(**served).info()
    assert is_of_another_model(vector.metadata, info) is other
    assert (apply_to(vector, info) is vector) is not other


def test_an_applied_file_names_both_models_and_keeps_the_directions(base_vector, gaussians):
    vector, _ = base_vector
    applied = VectorFile.from_bytes(apply_to(vector, gaussians(**TUNED).info()).to_bytes())
    meta, source = applied.metadata, applied.metadata.extracted_on
    assert (meta.model, meta.weights_digest) == ("tuned", "sha256:tuned")
    assert (source.model, source.weights_digest, source.config_digest) == ("base", "sha256:base", "sha256:toy")
    assert (source.sha256, source.evidence) == (sha256_of(vector.to_bytes()), "extraction_model")
    assert meta.layers[4].residual_norm == 54.0
    assert meta.layers[4].auc == vector.metadata.layers[4].auc
    assert meta.chosen_because.startswith("As on base. ")
    for layer, direction in vector.directions.items():
        np.testing.assert_array_equal(applied.directions[layer], direction)
    third = gaussians(model="third", weights_digest="sha256:third").info()
    assert apply_to(applied, third).metadata.extracted_on == source


@pytest.mark.parametrize(("changes", "field"), [({"d_model": 8}, "d_model 16"), ({"n_layers": 4}, "n_layers 10")])
def test_another_width_or_depth_is_refused(base_vector, gaussians, changes, field):
    vector, _ = base_vector
    with pytest.raises(InvalidRequestError, match=field):
        apply_to(vector, gaussians(**TUNED | changes).info())


def test_evidence_is_measured_on_the_other_model_over_held_out_scenarios(base_vector, gaussians):
    vector, dataset = base_vector
    # On the tuned model the trait lies the other way round in layer 3, and further apart in layer 5.
    tuned = gaussians(**TUNED, gap=(3.0, 3.0, 3.0, -3.0, 3.0, 9.0, 3.0, 3.0, 3.0, 3.0))
    measured = measure_on(tuned, apply_to(vector, tuned.info()), dataset)
    at, before = measured.metadata.layers, vector.metadata.layers
    assert measured.metadata.extracted_on.evidence == "this_model"
    assert (before[3].auc, at[3].auc, at[3].polarity) == (1.0, 0.0, 0.0)
    assert at[5].separation > 2 * before[5].separation
    assert at[5].residual_norm == pytest.approx(6.0)
    with pytest.raises(InvalidRequestError, match="nothing to measure"):
        measure_on(gaussians(**BASE), vector, dataset)


def test_other_scenarios_are_refused_as_evidence(base_vector, gaussians, trait_folder):
    vector, _ = base_vector
    tuned = gaussians(**TUNED)
    lines = [[{"prompt": f"Q {i}?", "response": f"{word} {i}."} for i in range(16)] for word in ("YES", "NO")]
    with pytest.raises(DatasetError, match="made from other scenarios"):
        measure_on(tuned, apply_to(vector, tuned.info()), load_trait(trait_folder(*lines, name="other")))


def test_the_command_applies_measures_registers_and_says_so(serve, trait_extract, base_vector, tmp_path):
    (url, service), (_, dataset) = serve, base_vector
    service.change(**TUNED)
    file, root = tmp_path / "v" / "warmth" / "mean_diff.safetensors", dataset.folder.parents[1]
    call = ["apply", file, "--url", url, "--api-key", "key", "--datasets", root, "--out", tmp_path / "applied"]
    code, out, err = trait_extract(*call, "--register")
    assert code == 0, err
    assert "extracted on base, applied to tuned; measured on this model" in out
    applied = VectorFile.load(tmp_path / "applied" / "warmth" / "mean_diff.safetensors")
    assert applied.metadata.extracted_on.evidence == "this_model"
    assert service.registered["warmth"] == applied.to_bytes()
    assert trait_extract(*call)[0] == 2
    code, out, _ = trait_extract(*call, "--force", "--no-measure", "--json")
    assert (code, json.loads(out)["extracted_on"]["evidence"]) == (0, "extraction_model")
    (dataset.folder / "positive.jsonl").write_text((dataset.folder / "positive.jsonl").read_text().replace("1.", "1!"))
    code, out, _ = trait_extract(*call, "--force")
    assert (code, "not measured on this model" in out, "made from other scenarios" in out) == (0, True, True)
    out = trait_extract("show", tmp_path / "applied" / "warmth" / "mean_diff.safetensors")[1]
    assert "applied to tuned, extracted on base" in out
    service.change(**BASE)
    code, _, err = trait_extract(*call, "--force")
    assert (code, "is already for base" in err) == (2, True)
