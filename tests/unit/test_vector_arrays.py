"""`VectorFile.from_arrays`: any array becomes a vector file for a model."""

import numpy as np
import pytest
import torch
from trait_core.errors import InvalidRequestError, VectorFileError
from trait_core.units import residual_units
from trait_core.vectors.file import VectorFile
from trait_core.vectors.model_shape import ModelShape
from trait_steering import VectorFile as Public

N, D = 6, 8
ROWS = np.random.default_rng(0).normal(size=(N, D)) * 3
SHAPE = ModelShape("toy", "sha256:toy", N, D, {layer: 10.0 + layer for layer in range(N)}, "a test", "sha256:weights")


def test_it_is_a_public_name():
    assert Public is VectorFile


@pytest.mark.parametrize(
    "array",
    [
        ROWS[2],
        ROWS[2].astype(np.float16),
        ROWS[2].tolist(),
        ROWS[2][None],
        torch.tensor(ROWS[2], dtype=torch.bfloat16),
        torch.tensor(ROWS[2], requires_grad=True),
        torch.tensor(ROWS[2])[None, None],
    ],
    ids=["float64", "float16", "list", "(1, d)", "bfloat16", "with gradient", "(1, 1, d)"],
)
def test_one_unit_of_separation_adds_the_array_itself(array):
    vector = VectorFile.from_arrays("happy", {2: array}, SHAPE)
    given = array.detach().float().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    added = residual_units(1.0, "separation", vector.evidence(2)) * vector.directions[2]
    np.testing.assert_allclose(added, given.squeeze(), rtol=1e-3)
    assert vector.directions[2].dtype == np.float32
    assert np.linalg.norm(vector.directions[2]) == pytest.approx(1)
    assert VectorFile.from_bytes(vector.to_bytes()).metadata == vector.metadata


def test_the_model_and_its_norms_are_in_the_file():
    vector = VectorFile.from_arrays("happy", dict(enumerate(ROWS)), SHAPE, method="sae", method_options={"feature": 7})
    meta = vector.metadata
    assert (meta.trait, meta.method, meta.model, meta.weights_digest) == ("happy", "sae", "toy", "sha256:weights")
    assert {layer: at.residual_norm for layer, at in meta.layers.items()} == SHAPE.residual_norms
    assert (meta.chosen_layer, meta.method_options["feature"]) == (3, 7)
    assert VectorFile.from_arrays("happy", {1: ROWS[1], 5: ROWS[5]}, SHAPE, chosen_layer=5).metadata.chosen_layer == 5


@pytest.mark.parametrize(
    ("arrays", "options", "says"),
    [
        ({}, {}, "there are no arrays"),
        ({2: ROWS}, {}, r"layer 2 has the shape \[6, 8\].*dict\(enumerate\(array\)\)"),
        ({2: ROWS[2][:5]}, {}, "layer 2 has 5 dimensions, toy has 8"),
        ({2: ROWS[2] * np.nan}, {}, "layer 2 holds a value that is not finite"),
        ({2: ROWS[2] * 0}, {}, "layer 2 is zero"),
        ({6: ROWS[2]}, {}, r"layer '6': toy has layers 0\.\.5"),
        ({-1: ROWS[2]}, {}, r"layer '-1': toy has layers 0\.\.5"),
        ({"2": ROWS[2]}, {}, "a layer is a whole number"),
        ({2: ["a"] * D}, {}, "a direction is an array of real numbers"),
        ({2: [[1.0], [1.0, 2.0]]}, {}, "numpy makes no array of a list"),
        ({2: ROWS[2].astype(complex)}, {}, "a direction is an array of real numbers"),
        ({2: ROWS[2]}, {"chosen_layer": 3}, r"layer 3 is not among \[2\]"),
        ({2: ROWS[2]}, {"method": "My method"}, "'My method' is not a valid name"),
    ],
)
def test_an_array_that_cannot_be_a_direction_is_refused_with_the_reason(arrays, options, says):
    with pytest.raises((VectorFileError, InvalidRequestError), match=says):
        VectorFile.from_arrays("happy", arrays, SHAPE, **options)


def test_a_model_whose_norm_is_not_known_for_a_layer_is_refused():
    shape = ModelShape("toy", "sha256:toy", N, D, {3: 1.0}, "the warmth vector file")
    with pytest.raises(
        InvalidRequestError, match=r"the warmth vector file has no residual norm for layer 2, only for \[3\]"
    ):
        VectorFile.from_arrays("happy", {2: ROWS[2]}, shape)


def test_a_vector_of_what_an_mlp_adds_says_so_in_its_file():
    vector = VectorFile.from_arrays("inside", {2: ROWS[2]}, SHAPE, at="mlp_out")
    read = VectorFile.from_bytes(vector.to_bytes())
    assert (read.metadata.hook_point, read.metadata.layers[2].residual_norm) == ("mlp_out", 12.0)
    assert VectorFile.from_arrays("stream", {2: ROWS[2]}, SHAPE).metadata.hook_point == "resid_post"
