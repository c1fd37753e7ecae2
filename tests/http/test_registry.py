"""The vector registry survives restarts, is bounded, and refuses what is no vector."""

import json
import random
import subprocess
import sys
import time

import pytest
from trait_core.errors import InvalidRequestError, UnknownVectorError, VectorFileError
from trait_core.storage import sha256_of
from trait_core.vectors.controls import control_name
from trait_core.vectors.random import random_vector
from trait_service.registry.manifest import ManifestFile
from trait_service.registry.registry import StorageError, VectorInUseError, VectorRegistry
from trait_service.registry.uses import VectorUses


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "vectors"


def stored(folder) -> set[str]:
    return {f"sha256:{path.stem}" for path in folder.glob("*.safetensors")}


def test_what_is_put_can_be_got_by_name_and_hash_after_a_restart(folder, make_vector):
    data = make_vector().to_bytes()
    VectorRegistry(folder).put("tone", data)
    again = VectorRegistry(folder)
    assert again.get("tone").sha256 == sha256_of(data)
    assert again.get(sha256_of(data)).name == "tone"
    assert again.read(again.get("tone")) == data


def test_putting_again_makes_a_version_and_the_one_before_stays_by_its_hash(folder, make_vector):
    registry = VectorRegistry(folder)
    first = registry.put("tone", make_vector(seed=1).to_bytes())
    second = registry.put("tone", make_vector(seed=2).to_bytes())
    assert (first.version, second.version) == (1, 2)
    assert [version.sha256 for version in second.versions] == [first.sha256, second.sha256]
    assert registry.get("tone").sha256 == second.sha256
    before = VectorRegistry(folder).get(first.sha256)
    assert (before.name, before.version, before.sha256) == ("tone", 1, first.sha256)


def test_the_same_file_again_is_no_new_version_and_no_new_revision(folder, make_vector):
    registry = VectorRegistry(folder)
    for _ in range(2):
        assert registry.put("tone", make_vector().to_bytes()).version == 1
        assert registry.revision == 1


def test_versions_beyond_those_kept_leave_no_file_behind(folder, make_vector):
    registry = VectorRegistry(folder, max_versions=2)
    put = [registry.put("tone", make_vector(seed=seed).to_bytes()) for seed in range(4)]
    assert [version.version for version in put[-1].versions] == [3, 4]
    assert stored(folder) == {put[2].sha256, put[3].sha256}
    with pytest.raises(UnknownVectorError):
        registry.get(put[0].sha256)


def test_a_name_may_return_to_an_older_version(folder, make_vector):
    registry = VectorRegistry(folder)
    first = registry.put("tone", make_vector(seed=1).to_bytes())
    registry.put("tone", make_vector(seed=2).to_bytes())
    back = registry.point("tone", first.sha256)
    assert (back.sha256, back.version) == (first.sha256, 3)


def test_an_alias_keeps_the_file_when_the_first_name_goes(folder, make_vector):
    registry = VectorRegistry(folder)
    first = registry.put("tone", make_vector().to_bytes())
    assert registry.point("stable", "tone").sha256 == first.sha256
    registry.put("tone", make_vector(seed=2).to_bytes())
    registry.delete("tone")
    assert registry.get("stable").sha256 == first.sha256
    assert stored(folder) == {first.sha256}


def test_an_alias_of_nothing_is_refused(folder):
    with pytest.raises(UnknownVectorError):
        VectorRegistry(folder).point("stable", "sha256:" + "0" * 64)


def test_a_vector_in_use_is_not_deleted_unless_that_is_said(folder, make_vector):
    uses = VectorUses()
    registry = VectorRegistry(folder, uses=uses)
    old = registry.put("tone", make_vector(seed=1).to_bytes())
    registry.put("tone", make_vector(seed=2).to_bytes())
    with uses.hold({old.sha256}):
        with pytest.raises(VectorInUseError, match="1 running request"):
            registry.delete("tone")
        assert registry.get("tone").version == 2
        registry.delete("tone", even_if_used=True)
        assert registry.all() == []
    registry.put("tone", make_vector(seed=1).to_bytes())
    registry.delete("tone")


def test_a_name_whose_file_another_name_has_may_go_while_it_is_used(folder, make_vector):
    uses = VectorUses()
    registry = VectorRegistry(folder, uses=uses)
    vector = registry.put("tone", make_vector().to_bytes())
    registry.point("stable", "tone")
    with uses.hold({vector.sha256}):
        registry.delete("tone")
    assert registry.get("stable").sha256 == vector.sha256


def with_control(registry, make_vector, seed=1):
    """`tone` and its control, as a sweep registers it."""
    tone = make_vector(seed=seed)
    sha256 = registry.put("tone", tone.to_bytes()).sha256
    return registry.put(control_name(sha256, 0), random_vector(tone, 0).to_bytes())


def test_control_directions_are_listed_and_named_only_where_they_are_asked_for(folder, make_vector):
    registry = VectorRegistry(folder)
    control = with_control(registry, make_vector)
    registry.put("tone.random", make_vector(seed=3).to_bytes())  # the extraction method's: a user's own
    assert [vector.name for vector in registry.all()] == ["tone", "tone.random"]
    assert [vector.name for vector in registry.all(controls=True)] == [control.name, "tone", "tone.random"]
    assert registry.get(control.sha256).name == control.name
    with pytest.raises(UnknownVectorError, match=r"registered: tone, tone\.random\)"):
        registry.get("mood")


def test_control_directions_go_with_the_file_that_they_are_the_control_of(folder, make_vector):
    registry = VectorRegistry(folder, max_versions=1)
    control = with_control(registry, make_vector)
    registry.point("stable", "tone")
    registry.delete("tone")
    assert registry.get(control.name).sha256 == control.sha256  # `stable` still has the file
    registry.delete("stable")
    assert (registry.all(controls=True), stored(folder)) == ([], set())
    control = with_control(registry, make_vector)
    registry.put("tone", make_vector(seed=2).to_bytes())  # the earlier version is not kept
    with pytest.raises(UnknownVectorError):
        registry.get(control.name)


def test_a_vector_whose_control_is_in_use_is_not_deleted(folder, make_vector):
    uses = VectorUses()
    registry = VectorRegistry(folder, uses=uses)
    control = with_control(registry, make_vector)
    with uses.hold({control.sha256}), pytest.raises(VectorInUseError, match="1 running request"):
        registry.delete("tone")
    assert registry.get(control.name).name == control.name


def test_delete_takes_no_hash(folder, make_vector):
    registry = VectorRegistry(folder)
    vector = registry.put("tone", make_vector().to_bytes())
    with pytest.raises(UnknownVectorError, match="names only"):
        registry.delete(vector.sha256)


def test_a_folder_that_cannot_be_written_is_an_error_of_its_own(tmp_path, make_vector):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(StorageError, match="cannot be written"):
        VectorRegistry(tmp_path).put("tone", make_vector().to_bytes())


def test_the_index_of_before_versions_is_read(folder, make_vector):
    data = make_vector().to_bytes()
    registry = VectorRegistry(folder)
    sha256 = registry.put("tone", data).sha256
    (folder / "manifest.json").unlink()
    (folder / "index.json").write_text(json.dumps({"version": 1, "names": {"tone": sha256}}))
    old = VectorRegistry(folder)
    assert old.get("tone").version == 1
    old.put("other", make_vector(seed=2).to_bytes())
    assert [vector.name for vector in VectorRegistry(folder).all()] == ["other", "tone"]


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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("index.json", '{"version": 2}'),
        ("index.json", "[]"),
        ("manifest.json", "{"),
        ("manifest.json", '{"schema_version": 3}'),
        ("manifest.json", '{"names": {"../x": [{"version": 1, "sha256": "sha256:00"}]}}'),
    ],
)
def test_a_manifest_that_is_none_stops_the_start(folder, name, text):
    folder.mkdir()
    (folder / name).write_text(text)
    with pytest.raises(VectorFileError, match=name):
        VectorRegistry(folder)


def test_a_manifest_that_breaks_later_leaves_the_names_read_last(folder, make_vector, caplog):
    registry = VectorRegistry(folder)
    registry.put("tone", make_vector().to_bytes())
    (folder / "manifest.json").write_text("{")
    assert registry.get("tone").name == "tone"
    assert "stay in force" in caplog.text
    with pytest.raises(VectorFileError):
        registry.put("other", make_vector(seed=2).to_bytes())


WRITER = """
import sys
from pathlib import Path
from trait_service.registry.registry import VectorRegistry
registry = VectorRegistry(Path(sys.argv[1]), max_versions=2)
files = [path.read_bytes() for path in sorted(Path(sys.argv[2]).iterdir())]
print("ready", flush=True)
while True:
    for i, data in enumerate(files):
        registry.put(f"v{i % 3}", data)
        registry.point("alias", f"v{i % 3}")
        if i % 4 == 0:
            registry.delete(f"v{i % 3}")
"""


def test_a_kill_in_the_middle_of_a_write_leaves_whole_files_and_names_that_stand_for_them(
    folder, make_vector, tmp_path
):
    files = tmp_path / "files"
    files.mkdir()
    for seed in range(7):
        (files / f"{seed}").write_bytes(make_vector(seed=seed, layers=tuple(range(6)), d_model=20_000).to_bytes())
    draw = random.Random(0)
    for _ in range(12):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(files)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout.readline() == "ready\n"
            time.sleep(draw.uniform(0, 0.25))
            writer.kill()
        registry = VectorRegistry(folder, max_versions=2)
        names = ManifestFile(folder).read().names
        assert [vector.name for vector in registry.all()] == sorted(names), "every name has a file that is whole"
        for versions in names.values():
            for version in versions:
                registry.get(version.sha256)
    registry.put("last", (files / "0").read_bytes())
    assert stored(folder) == ManifestFile(folder).read().hashes(), "what a kill left over is gone"
    assert {path.name for path in folder.iterdir() if path.suffix != ".safetensors"} == {".lock", "manifest.json"}
