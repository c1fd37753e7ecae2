"""Vector files: what is written is read, and what is wrong is named."""

import numpy as np
import pytest
import safetensors.numpy
from trait_core.errors import InvalidRequestError, VectorFileError
from trait_core.schema import LayerEvidence, VectorMetadata
from trait_core.storage import sha256_of
from trait_core.vectors.file import MAX_FILE_BYTES, METADATA_KEY, VectorFile

D_MODEL = 6


def metadata(**changes) -> VectorMetadata:
    evidence = LayerEvidence(separation=4.0, centre=1.0, residual_norm=80.0)
    values = {
        "trait": "refusal",
        "model": "m",
        "config_digest": "c",
        "n_layers": 4,
        "d_model": D_MODEL,
        "method": "mean_diff",
        "positions": "response[:]",
        "layers": {1: evidence, 2: evidence},
        "chosen_layer": 2,
        "chosen_because": "a test",
    }
    return VectorMetadata(**(values | changes))


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=D_MODEL).astype(np.float32)
    return vector / np.linalg.norm(vector)


def test_a_vector_survives_the_round_trip_and_equal_vectors_have_equal_bytes(tmp_path):
    vector = VectorFile(metadata(), {1: unit(1), 2: unit(2)})
    digest = vector.save(tmp_path / "refusal.safetensors")
    read = VectorFile.load(tmp_path / "refusal.safetensors")
    np.testing.assert_array_equal(read.directions[2], vector.directions[2])
    assert read.metadata == vector.metadata
    assert sha256_of(read.to_bytes()) == digest


@pytest.mark.parametrize(
    ("directions", "changes", "message"),
    [
        ({1: unit(1)}, {}, "the file has directions for layers"),
        ({1: unit(1), 2: unit(2) * 2}, {}, "has length 2"),
        ({1: unit(1), 2: unit(2)[:3]}, {}, r"must be float32\[6\]"),
        ({1: unit(1), 2: unit(2).astype(np.float64)}, {}, "float64"),
        ({1: unit(1), 2: np.full(D_MODEL, np.nan, np.float32)}, {}, "not finite"),
        ({1: unit(1), 2: unit(2)}, {"chosen_layer": 3}, "chosen layer 3"),
        ({1: unit(1), 2: unit(2)}, {"n_layers": 2}, r"layers 0\.\.1"),
    ],
)
def test_a_broken_vector_is_refused_with_the_value_and_the_rule(directions, changes, message):
    with pytest.raises(VectorFileError, match=message):
        VectorFile(metadata(**changes), directions)


@pytest.mark.parametrize("data", [b"", b"12345678", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]", b"\x05\0\0\0\0\0\0\0{nope"])
def test_bytes_of_another_format_are_refused(data):
    with pytest.raises(VectorFileError):
        VectorFile.from_bytes(data)


def test_an_unknown_tensor_or_metadata_field_is_named():
    good = metadata().model_dump_json()
    tensors = {"layer.1": unit(1), "layer.2": unit(2)}
    with pytest.raises(VectorFileError, match="unknown tensor 'weights'"):
        VectorFile.from_bytes(safetensors.numpy.save({**tensors, "weights": unit(3)}, {METADATA_KEY: good}))
    with pytest.raises(VectorFileError, match="metadata field surprise: "):
        VectorFile.from_bytes(safetensors.numpy.save(tensors, {METADATA_KEY: good[:-1] + ',"surprise":1}'}))
    with pytest.raises(VectorFileError, match="no metadata entry 'trait'"):
        VectorFile.from_bytes(safetensors.numpy.save(tensors))


def test_two_tensors_of_one_layer_are_refused():
    """Not the last one wins: nothing says which was meant."""
    good, entry = VectorFile(metadata(), {1: unit(1), 2: unit(2)}).to_bytes(), b'"layer.1":'
    assert good.count(entry) == 1
    with pytest.raises(VectorFileError, match="one name twice"):
        VectorFile.from_bytes(good.replace(b'"layer.2":', entry))
    tensors = {"layer.1": unit(1), "layer.2": unit(2), "layer.01": unit(3)}
    with pytest.raises(VectorFileError, match=r"unknown tensor 'layer\.01'"):
        VectorFile.from_bytes(safetensors.numpy.save(tensors, {METADATA_KEY: metadata().model_dump_json()}))


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    good = VectorFile(metadata(), {1: unit(1), 2: unit(2)}).to_bytes()
    for length in (7, 8, 100, len(good) // 2, len(good) - 1):
        (tmp_path / "v.safetensors").write_bytes(good[:length])
        with pytest.raises(VectorFileError, match=r"v\.safetensors: .*(too few|does not fit|not a readable)"):
            VectorFile.load(tmp_path / "v.safetensors")


def test_a_file_too_large_for_a_vector_is_not_read(tmp_path):
    with (tmp_path / "v.safetensors").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(VectorFileError, match="at most"):
        VectorFile.load(tmp_path / "v.safetensors")


def test_evidence_of_a_missing_layer_names_the_existing_layers():
    vector = VectorFile(metadata(), {1: unit(1), 2: unit(2)})
    with pytest.raises(InvalidRequestError, match=r"layer 3 is not in vector 'refusal': it has layers 1\.\.2"):
        vector.evidence(3)
