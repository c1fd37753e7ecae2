"""The vector registry survives restarts, is bounded, and refuses what is no vector."""

import json

import pytest
from trait_client.errors import InvalidRequestError, UnknownVectorError, VectorFileError
from trait_client.vector_file import sha256_of
from trait_service.registry import VectorRegistry


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "vectors"


def test_what_is_put_can_be_got_by_name_and_hash_after_a_restart(folder, make_vector):
    data = make_vector().to_bytes()
    VectorRegistry(folder).put("tone", data)
    again = VectorRegistry(folder)
    assert again.get("tone").sha256 == sha256_of(data)
    assert again.get(sha256_of(data)).name == "tone"
    assert again.read(again.get("tone")) == data


def test_putting_again_replaces_and_leaves_no_file_behind(folder, make_vector):
    registry = VectorRegistry(folder)
    registry.put("tone", make_vector(seed=1).to_bytes())
    registry.put("tone", make_vector(seed=2).to_bytes())
    assert len(list(folder.glob("*.safetensors"))) == 1


def test_deleting_one_of_two_names_keeps_the_shared_file(folder, make_vector):
    registry = VectorRegistry(folder)
    data = make_vector().to_bytes()
    registry.put("one", data)
    registry.put("two", data)
    registry.delete("one")
    assert VectorRegistry(folder).read(registry.get("two")) == data
    registry.delete("two")
    assert list(folder.glob("*.safetensors")) == []


def test_an_unknown_name_is_answered_with_those_that_are_known(folder, make_vector):
    registry = VectorRegistry(folder)
    registry.put("tone", make_vector().to_bytes())
    with pytest.raises(UnknownVectorError, match=r"'nope'.*tone"):
        registry.get("nope")
    with pytest.raises(UnknownVectorError):
        registry.delete("nope")


@pytest.mark.parametrize("name", ["", "Tone", "../tone", "a/b", "-a", "a" * 65, "tone\n"])
def test_names_outside_the_pattern_are_refused(folder, make_vector, name):
    with pytest.raises(InvalidRequestError, match="not a name"):
        VectorRegistry(folder).put(name, make_vector().to_bytes())


def test_count_and_size_are_bounded(folder, make_vector):
    data = make_vector().to_bytes()
    registry = VectorRegistry(folder, max_vectors=1, max_bytes=len(data))
    registry.put("tone", data)
    registry.put("tone", data)
    with pytest.raises(InvalidRequestError, match="at most 1"):
        registry.put("other", data)
    with pytest.raises(InvalidRequestError, match="at most"):
        registry.put("tone", data + b" ")


def test_bytes_that_are_no_vector_file_leave_the_registry_as_it_was(folder, make_vector):
    registry = VectorRegistry(folder)
    registry.put("tone", make_vector().to_bytes())
    with pytest.raises(VectorFileError):
        registry.put("tone", b"not a vector")
    assert VectorRegistry(folder).get("tone").file.metadata.trait == "tone"


def test_a_second_service_sees_what_the_first_registers(folder, make_vector):
    first, second = VectorRegistry(folder), VectorRegistry(folder)
    first.put("one", make_vector(seed=1).to_bytes())
    second.put("two", make_vector(seed=2).to_bytes())
    assert [vector.name for vector in first.all()] == ["one", "two"]


def test_a_damaged_file_is_left_out_and_never_served(folder, make_vector):
    registry = VectorRegistry(folder)
    registry.put("good", make_vector(seed=1).to_bytes())
    registry.put("bad", make_vector(seed=2).to_bytes())
    path = folder / f"{registry.get('bad').sha256.removeprefix('sha256:')}.safetensors"
    path.write_bytes(make_vector(seed=3).to_bytes())
    assert [vector.name for vector in VectorRegistry(folder).all()] == ["good"]


def test_an_index_that_is_none_stops_the_start(folder):
    folder.mkdir()
    (folder / "index.json").write_text(json.dumps({"version": 2}))
    with pytest.raises(VectorFileError, match=r"index\.json"):
        VectorRegistry(folder)
