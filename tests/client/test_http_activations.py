"""Pooled activations: shapes are checked, and projections follow from mean, direction and centre."""

import json

import numpy as np
import pytest
import safetensors.numpy
from trait_client.http.activations import Activations
from trait_core.errors import InvalidRequestError, ServiceError
from trait_core.schema import ActivationsMetadata, LayerEvidence
from trait_core.vectors.file import VectorFile
from vector_fixtures import made_vector

METADATA = ActivationsMetadata(
    model="smol", config_digest="c", n_layers=30, d_model=4, dtype="bfloat16", layers=[13, 9], positions=["response[:]"]
).model_dump()


def answer(metadata: dict | None = None, **tensors: np.ndarray) -> bytes:
    whole = {
        "mean/response[:]": np.arange(16, dtype=np.float32).reshape(2, 2, 4),
        "norm/response[:]": np.ones((2, 2), np.float32),
        "count/response[:]": np.array([3, 0], np.int32),
        "n_prompt": np.array([5, 6], np.int32),
        "n_response": np.array([3, 0], np.int32),
    }
    return safetensors.numpy.save(whole | tensors, metadata={"trait": json.dumps(METADATA | (metadata or {}))})


def vector_file(d_model: int = 4) -> VectorFile:
    direction = np.full(d_model, d_model**-0.5, np.float32)
    evidence = LayerEvidence(separation=2.0, centre=1.5, residual_norm=10.0)
    return VectorFile(made_vector([9], None, evidence, n_layers=30, d_model=d_model).metadata, {9: direction})


def test_a_projection_is_the_mean_on_the_direction_of_its_layer():
    """Layer 9 is the second that was read: (4 + 5 + 6 + 7) / 2 = 11. The second text has no response."""
    read = Activations.from_bytes(answer())
    projection = read.projection(vector_file(), 9, "response[:]")
    assert projection.dtype == np.float32
    np.testing.assert_array_equal(projection, [11.0, np.nan])
    np.testing.assert_array_equal(read.projection(vector_file(), 9, "response[:]", centred=True), [9.5, np.nan])


def test_a_text_without_the_positions_has_no_mean_and_no_norm():
    """The service answers zeros, which must not pass for data."""
    read = Activations.from_bytes(answer())
    assert np.isnan(read.mean("response[:]")[1]).all()
    assert np.isnan(read.norm("response[:]")[1]).all()
    assert np.isfinite(read.mean("response[:]")[0]).all()
    assert np.isfinite(read.norm("response[:]")[0]).all()


def test_positions_that_were_not_requested_are_refused():
    """The message names those that the answer holds."""
    read = Activations.from_bytes(answer())
    assert read.count("response[:]").tolist() == [3, 0]
    with pytest.raises(InvalidRequestError, match=r"holds response\[:\]"):
        read.count("all[4:]")


@pytest.mark.parametrize(("layer", "message"), [(13, "not in vector"), (12, "was not read")])
def test_a_layer_that_is_missing_on_either_side_is_refused(layer, message):
    """In the file, or among the layers that were read."""
    with pytest.raises(InvalidRequestError, match=message):
        Activations.from_bytes(answer()).projection(vector_file(), layer, "response[:]")


def test_a_vector_of_another_width_is_refused():
    """Before any arithmetic could broadcast."""
    with pytest.raises(InvalidRequestError, match="d_model 8"):
        Activations.from_bytes(answer()).projection(vector_file(8), 9, "response[:]")


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"positions": ["all[:]"]}, {}, "no tensor 'mean/all"),
        ({"layers": [9]}, {}, r"must be float32\[2, 1, 4\]"),
        ({}, {"norm/response[:]": np.ones((2, 2))}, "is float64"),
        ({}, {"nll": np.ones(3, np.float32)}, r"'nll' of the answer is float32\[3\]"),
        ({"d_model": "wide"}, {}, "d_model"),
    ],
)
def test_tensors_that_do_not_fit_the_metadata_are_refused(metadata, tensors, message):
    """A missing or misshapen tensor is an error, never an empty result."""
    with pytest.raises(ServiceError, match=message):
        Activations.from_bytes(answer(metadata, **tensors))


def test_a_vector_of_another_place_in_the_block_is_refused():
    """The output of an MLP has no projection on a direction of the stream, nor the other way round."""
    stream = vector_file()
    inside = VectorFile(stream.metadata.model_copy(update={"hook_point": "mlp_out"}), stream.directions)
    with pytest.raises(InvalidRequestError, match="is for mlp_out, and the activations are those of resid_post"):
        Activations.from_bytes(answer()).projection(inside, 9, "response[:]")
    added = Activations.from_bytes(answer({"hook_point": "mlp_out"}))
    assert added.projection(inside, 9, "response[:]")[0] == 11.0
    with pytest.raises(InvalidRequestError, match="is for resid_post, and the activations are those of mlp_out"):
        added.projection(stream, 9, "response[:]")
