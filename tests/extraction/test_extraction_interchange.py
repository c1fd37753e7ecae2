"""Vectors of other tools: what they mean, what of them is refused, and that ours survive the hit."""

import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy
import torch
from trait_core.errors import InvalidRequestError, VectorFileError
from trait_core.schema import LayerEvidence, VectorMetadata
from trait_core.units import residual_units
from trait_core.vectors.file import VectorFile
from trait_core.vectors.model_shape import ModelShape
from trait_extraction.interchange.foreign_vectors import MAX_FILE_BYTES, ForeignVectors
from trait_extraction.interchange.formats import READERS
from trait_extraction.interchange.gguf_export import control_vector
from trait_extraction.interchange.importing import import_vectors
from trait_extraction.interchange.locations import read_location

N_LAYERS, D = 6, 8
SHAPE = ModelShape("toy", "sha256:toy", N_LAYERS, D, {layer: 10.0 + layer for layer in range(N_LAYERS)}, "a test")


def rows(n=N_LAYERS, d=D, seed=0):
    return (np.random.default_rng(seed).normal(size=(n, d)) * 3).astype(np.float32)


def vector_file(layers=range(N_LAYERS)):
    vectors = rows()
    units = {layer: vectors[layer] / np.linalg.norm(vectors[layer]) for layer in layers}
    metadata = VectorMetadata(
        trait="warmth", model="toy", config_digest="sha256:toy", n_layers=N_LAYERS, d_model=D, method="mean_diff",
        positions="response[:]", chosen_layer=3, chosen_because="a test",
        layers={n: LayerEvidence(separation=2.0, centre=1.0, residual_norm=10.0 + n) for n in layers},
    )  # fmt: skip
    return VectorFile(metadata, units)


def write_gguf(path, tensors, architecture="controlvector", entries=()):
    """As repeng's `export_gguf` writes."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string(f"{architecture}.model_hint", "llama")
    writer.add_uint32(f"{architecture}.layer_count", len(tensors))
    for key, value in entries:
        writer.add_string(key, value)
    for name, tensor in tensors:
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def saved(path, content):
    torch.save(content, path)
    return path


def imported(foreign, numbering="block", **options):
    return import_vectors(foreign, SHAPE, "warmth", numbering, **options)


# ---- GGUF


def test_an_exported_vector_is_read_by_the_gguf_library_and_imported_unchanged(tmp_path):
    vector = vector_file()
    path = tmp_path / "warmth.gguf"
    path.write_bytes(control_vector(vector, [1, 3, 5]).to_bytes("llama"))
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert reader.fields["controlvector.layer_count"].contents() == 3
    assert [t.name for t in reader.tensors] == ["direction.1", "direction.3", "direction.5"]
    for tensor, layer in zip(reader.tensors, (1, 3, 5), strict=True):
        np.testing.assert_array_equal(tensor.data, vector.directions[layer])
    back = imported(read_location(str(path))).vector
    assert sorted(back.directions) == [1, 3, 5]
    for layer, direction in back.directions.items():
        np.testing.assert_allclose(direction, vector.directions[layer], atol=1e-6, rtol=0)


def test_scale_1_adds_what_the_coefficient_adds_here_and_so_does_the_imported_vector(tmp_path):
    vector = vector_file()
    control = control_vector(vector, [3], 1.5, "dose")
    a = 1.5 * 13.0 / 10
    np.testing.assert_allclose(control.directions[3], a * vector.directions[3], rtol=1e-6)
    path = tmp_path / "warmth.gguf"
    path.write_bytes(control.to_bytes("llama"))
    back = imported(read_location(str(path)))
    assert back.norms == {3: pytest.approx(a)}
    again = residual_units(1.0, "separation", back.vector.evidence(3)) * back.vector.directions[3]
    np.testing.assert_allclose(again, control.directions[3], rtol=1e-6)


def test_the_chosen_layer_is_exported_unless_others_are_named():
    assert sorted(control_vector(vector_file()).directions) == [3]


def test_layer_0_cannot_be_expressed_and_is_said_to_be_left_out():
    control = control_vector(vector_file(), [0, 2])
    assert (sorted(control.directions), len(control.left_out)) == ([2], 1)
    assert "layer 0 is left out" in control.left_out[0]
    with pytest.raises(InvalidRequestError, match="layer 0 cannot be expressed"):
        control_vector(vector_file(), [0])


@pytest.mark.parametrize(("coefficient", "unit"), [(0.0, "raw"), (float("nan"), "dose"), (float("inf"), "separation")])
def test_a_control_vector_without_length_is_refused(coefficient, unit):
    with pytest.raises(InvalidRequestError, match="length"):
        control_vector(vector_file(), [3], coefficient, unit)


def test_the_two_numberings_lie_one_layer_apart(tmp_path):
    vectors = rows()
    path = write_gguf(tmp_path / "v.gguf", [(f"direction.{n}", vectors[n]) for n in (1, 2, 4)])
    foreign = read_location(str(path))
    assert foreign.facts["controlvector.model_hint"] == "llama"
    for numbering, shift in (("block", 0), ("hidden-state", 1)):
        result = imported(foreign, numbering)
        assert sorted(result.vector.directions) == [n - shift for n in (1, 2, 4)]
        np.testing.assert_allclose(
            result.vector.directions[4 - shift], vectors[4] / np.linalg.norm(vectors[4]), atol=1e-6
        )
        assert result.norms[1 - shift] == pytest.approx(np.linalg.norm(vectors[1]))


def test_half_precision_directions_are_read(tmp_path):
    path = write_gguf(tmp_path / "v.gguf", [("direction.2", rows()[2].astype(np.float16))])
    np.testing.assert_array_equal(read_location(str(path)).vectors[2], rows()[2].astype(np.float16).astype(np.float32))


# ---- torch files


def test_persona_vectors_begin_with_the_embedding(tmp_path):
    """`hidden_states` are one more than the layers; row 0 is left out, and that is said."""
    stacked = rows(N_LAYERS + 1)
    foreign = read_location(str(saved(tmp_path / "evil_response_avg_diff.pt", torch.tensor(stacked))))
    result = imported(foreign, "hidden-state")
    assert sorted(result.vector.directions) == list(range(N_LAYERS))
    np.testing.assert_allclose(result.vector.directions[0], stacked[1] / np.linalg.norm(stacked[1]), atol=1e-6)
    assert result.left_out == ["number 0 is the embedding, which is not the output of a layer: left out"]
    with pytest.raises(VectorFileError, match=r"number 6 means layer 6.*0\.\.5.*the other numbering"):
        imported(foreign, "block")


def test_a_tensor_a_layer_and_steering_vectors_objects_are_read(tmp_path):
    vectors = torch.tensor(rows()).to(torch.bfloat16)
    stacked = read_location(str(saved(tmp_path / "stacked.pt", vectors)))
    content = {"layer_activations": {3: vectors[3], 5: vectors[5]}, "layer_type": "decoder_block"}
    layers = read_location(str(saved(tmp_path / "layers.pt", content)))
    named = read_location(str(saved(tmp_path / "named.pt", {"layer_3": vectors[3], "layer_5": vectors[5]})))
    assert sorted(stacked.vectors) == list(range(N_LAYERS))
    for found in (layers, named):
        assert sorted(found.vectors) == [3, 5]
        np.testing.assert_array_equal(found.vectors[3], stacked.vectors[3])
    with pytest.raises(VectorFileError, match="layer_type 'mlp'"):
        READERS["torch"](saved(tmp_path / "mlp.pt", content | {"layer_type": "mlp"}))


def test_a_vector_without_a_layer_asks_for_one(tmp_path):
    foreign = READERS["torch"](saved(tmp_path / "v.pt", torch.tensor(rows()[2])))
    with pytest.raises(InvalidRequestError, match="name its layer, --layer N"):
        imported(foreign)
    assert sorted(imported(foreign, layers=[2]).vector.directions) == [2]
    with pytest.raises(VectorFileError, match=r"layers 0\.\.5"):
        imported(foreign, layers=[6])


# ---- safetensors


def test_plain_safetensors_are_read_a_tensor_a_layer_or_one_of_rows(tmp_path):
    vectors = rows()
    safetensors.numpy.save_file({"layer.2": vectors[2], "layer.4": vectors[4]}, tmp_path / "a.safetensors")
    safetensors.numpy.save_file({"vectors": vectors}, tmp_path / "b.safetensors", {"tool": "x"})
    first, second = (read_location(str(tmp_path / f"{name}.safetensors")) for name in "ab")
    assert sorted(first.vectors) == [2, 4]
    assert second.facts == {"tool": "x"}
    np.testing.assert_array_equal(first.vectors[4], second.vectors[4])


def test_our_own_vector_file_is_not_imported_again(tmp_path):
    vector_file().save(tmp_path / "own.safetensors")
    with pytest.raises(VectorFileError, match="is a vector file of trait-steering already"):
        read_location(str(tmp_path / "own.safetensors"))


# ---- folders


def layer_folder(folder, method="probe", layers=(2, 3), metadata=None):
    folder.mkdir(exist_ok=True)
    for layer in layers:
        saved(folder / f"{method}_layer{layer}.pt", torch.tensor(rows()[layer]))
        content = {
            "trait": "warmth",
            "method": method,
            "layer": layer,
            "model": "org/toy",
            "vector_norm": 1.0,
        } | (metadata or {})
        (folder / f"{method}_layer{layer}_metadata.json").write_text(json.dumps(content))
    return folder


def test_a_folder_of_layers_is_one_vector_with_the_facts_of_its_json(tmp_path):
    folder = layer_folder(tmp_path / "vectors")
    foreign = read_location(str(folder))
    assert sorted(foreign.vectors) == [2, 3]
    assert foreign.facts == {"method": "probe", "trait": "warmth", "model": "org/toy"}
    np.testing.assert_array_equal(foreign.vectors[3], rows()[3])
    layer_folder(folder, "gradient", (1,))
    with pytest.raises(InvalidRequestError, match="holds gradient, probe: choose one"):
        read_location(str(folder))
    assert sorted(read_location(str(folder), "gradient").vectors) == [1]


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"layer": 9}, "layer is '9', and the file is 2"),
        ({"method": "pca"}, "method is 'pca', and the file is 'probe'"),
        ({"component": "attn_out"}, "component is 'attn_out', and the file is 'residual'"),
    ],
)
def test_json_that_contradicts_its_file_is_an_error(tmp_path, metadata, reason):
    with pytest.raises(VectorFileError, match=reason):
        read_location(str(layer_folder(tmp_path / "vectors", metadata=metadata)))


def test_a_folder_with_duplicates_links_or_broken_json_is_refused(tmp_path):
    folder = layer_folder(tmp_path / "a")
    saved(folder / "probe_layer03.pt", torch.tensor(rows()[3]))
    with pytest.raises(VectorFileError, match=r"probe_layer03\.pt and probe_layer3\.pt are both layer 3"):
        read_location(str(folder))
    folder = layer_folder(tmp_path / "b")
    (folder / "probe_layer4.pt").symlink_to(saved(tmp_path / "elsewhere.pt", torch.tensor(rows()[4])))
    with pytest.raises(VectorFileError, match="a link out of its folder"):
        read_location(str(folder))
    folder = layer_folder(tmp_path / "c")
    (folder / "probe_layer2_metadata.json").write_text("[" * 100_000)
    with pytest.raises(VectorFileError, match=r"probe_layer2_metadata\.json: not JSON"):
        read_location(str(folder))
    with pytest.raises(VectorFileError, match=r"no files <method>_layer<N>\.pt"):
        read_location(str(tmp_path))


# ---- what a file must not be


class Bomb:
    """A pickle that runs a command when it is read."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_a_pickle_bomb_does_not_go_off(tmp_path):
    mark = tmp_path / "exploded"
    path = saved(tmp_path / "bomb.pt", {"0": Bomb(mark)})
    with pytest.raises(VectorFileError, match=r"bomb\.pt: the pickle holds more than tensors.*is not run"):
        read_location(str(path))
    assert not mark.exists()
    torch.load(path, weights_only=False)  # the same file, read carelessly
    assert mark.exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data/0", "w") as entry:
        for _ in range(MAX_FILE_BYTES // (1 << 20) + 1):
            entry.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(VectorFileError, match="unpacks to"):
        READERS["torch"](path)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a/data.pkl", "a/data.pkl"], "two entries with the same name"),
        (["../../x"], "a path outside it"),
        (["/etc/x"], "a path outside it"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_torch_file_with_tricks_in_its_zip_is_refused(tmp_path, names, reason):
    with zipfile.ZipFile(tmp_path / "v.pt", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    with pytest.raises(VectorFileError, match=reason):
        READERS["torch"](tmp_path / "v.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"3": ["a", "b"]}, r"'3' is a list of 2 \(a str, a str\), not an array"),
        ({"a": torch.ones(D), "b": torch.ones(D)}, "'a' is not a layer"),
        ({}, "0 vectors"),
        ({"3": torch.ones(D), 3: torch.ones(D)}, "two vectors have the number 3"),
        ({"3": torch.ones(D, D)}, "has the shape"),
        ({"3": torch.ones(D, dtype=torch.int64)}, "dense and real"),
        ({"3": torch.ones(D).to_sparse()}, "dense and real"),
        (torch.ones(1).expand(2**20, 2**20), "claims the shape"),
        (torch.ones(2, 2, 2), "expected"),
        ("text", "no array. The file holds a str"),
    ],
)
def test_a_torch_file_without_vectors_is_refused(tmp_path, content, reason):
    with pytest.raises(VectorFileError, match=reason):
        READERS["torch"](saved(tmp_path / "v.pt", content))


def test_truncated_files_are_refused(tmp_path):
    files = {
        "v.gguf": write_gguf(tmp_path / "v.gguf", [("direction.2", rows()[2]), ("direction.3", rows()[3])]),
        "v.pt": saved(tmp_path / "v.pt", torch.tensor(rows())),
        "v.safetensors": tmp_path / "v.safetensors",
    }
    safetensors.numpy.save_file({"layer.2": rows()[2]}, files["v.safetensors"])
    kinds = {".gguf": "gguf", ".pt": "torch", ".safetensors": "safetensors"}
    for path in files.values():
        data = path.read_bytes()
        for length in (0, 7, 20, 40, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:length])
            with pytest.raises(VectorFileError, match=r"not a|fit|truncated|architecture"):
                READERS[kinds[path.suffix]](path)
        with pytest.raises(VectorFileError, match=re.escape(path.name)):
            read_location(str(path))


def test_headers_that_announce_too_much_are_refused(tmp_path):
    path = write_gguf(tmp_path / "v.gguf", [("direction.2", rows()[2])])
    data = bytearray(path.read_bytes())
    data[8:16] = struct.pack("<Q", 2**60)
    path.write_bytes(data)
    with pytest.raises(VectorFileError, match="announces 1152921504606846976 tensors"):
        READERS["gguf"](path)
    for length in (2**62, 2**40, 100_000):
        (tmp_path / "v.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(VectorFileError, match=f"header of {length} bytes does not fit"):
            READERS["safetensors"](tmp_path / "v.safetensors")
    (tmp_path / "big.gguf").touch()
    os.truncate(tmp_path / "big.gguf", MAX_FILE_BYTES + 1)
    with pytest.raises(VectorFileError, match="bytes; steering vectors are regular files"):
        read_location(str(tmp_path / "big.gguf"))


def test_duplicate_names_are_refused(tmp_path):
    with pytest.raises(VectorFileError, match="two vectors have the number 2"):
        READERS["gguf"](write_gguf(tmp_path / "v.gguf", [("direction.2", rows()[2]), ("direction.02", rows()[2])]))
    data = write_gguf(tmp_path / "w.gguf", [("direction.2", rows()[2]), ("direction.3", rows()[2])]).read_bytes()
    (tmp_path / "w.gguf").write_bytes(data.replace(b"direction.3", b"direction.2"))
    with pytest.raises(VectorFileError, match="duplicated tensor"):
        READERS["gguf"](tmp_path / "w.gguf")
    entry = '"layer.2":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    header = f"{{{entry},{entry}}}".encode()
    (tmp_path / "v.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(VectorFileError, match="one name twice"):
        READERS["safetensors"](tmp_path / "v.safetensors")


@pytest.mark.parametrize(
    ("tensors", "architecture", "reason"),
    [
        ([("direction.2", rows()[2])], "llama", "architecture 'llama', not a control vector"),
        ([("direction.0", rows()[0])], "controlvector", r"direction\.0.*counts directions from 1"),
        ([("blk.0.attn_q.weight", rows()[0])], "controlvector", "unknown tensor"),
        ([("direction.../2", rows()[0])], "controlvector", "is not a layer"),
        ([("direction.2", rows())], "controlvector", "with 2 dimensions"),
        ([("direction.2", np.ones(D, np.int32))], "controlvector", "is I32"),
    ],
)
def test_a_gguf_file_that_is_not_a_control_vector_is_refused(tmp_path, tensors, architecture, reason):
    with pytest.raises(VectorFileError, match=reason):
        READERS["gguf"](write_gguf(tmp_path / "v.gguf", tensors, architecture))


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        (np.ones(D + 1, np.float32), "layer 2 has 9 dimensions, toy has 8"),
        (np.array([np.nan] * D, np.float32), "layer 2 holds a value that is not finite"),
        (np.array([np.inf] + [0] * (D - 1), np.float32), "layer 2 holds a value that is not finite"),
        (np.zeros(D, np.float32), "layer 2 is zero"),
    ],
)
def test_a_vector_that_does_not_fit_the_model_is_refused(vector, reason):
    with pytest.raises(VectorFileError, match=reason):
        imported(ForeignVectors("test", {2: vector, 3: rows()[3]}))
    assert sorted(imported(ForeignVectors("test", {2: vector, 3: rows()[3]}), layers=[3]).vector.directions) == [3]


@pytest.mark.parametrize("name", ["../warmth", "a/b", "", ".hidden", "Warmth", "x" * 65])
def test_a_name_that_is_a_path_is_refused(name):
    foreign = ForeignVectors("test", {3: rows()[3]})
    with pytest.raises(InvalidRequestError, match="is not a valid name"):
        import_vectors(foreign, SHAPE, name, "block")
    with pytest.raises(InvalidRequestError, match="is not a valid name"):
        import_vectors(foreign, SHAPE, "warmth", "block", method=name)


@pytest.mark.parametrize(
    "source", ["hf://org/repo", "hf:///repo@main", "hf://org/repo@main/../../x", "hf:org/repo@main"]
)
def test_a_hub_address_needs_a_repository_and_a_revision(source):
    with pytest.raises(InvalidRequestError, match="org/repo@revision"):
        read_location(source)


def test_a_reader_that_takes_too_much_memory_dies_alone(tmp_path):
    """The limits are set before any reader runs: the child cannot hold 4 GiB, whatever asks for it."""
    program = (
        "import sys\nfrom trait_extraction.interchange import formats, sandbox\n"
        "formats.READERS['gguf'] = lambda path: bytearray(4 << 30)\n"
        "sys.argv = ['', 'gguf', 'out', 'in']\nsandbox.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode != 0
    assert "MemoryError" in done.stderr


# ---- the command line


@pytest.fixture
def like(tmp_path):
    """A vector file of the model, for shape and norms."""
    path = tmp_path / "like.safetensors"
    vector_file().save(path)
    return path


def test_import_asks_which_layer_a_number_means_and_writes_nothing(trait_extract, like, tmp_path):
    path = write_gguf(tmp_path / "v.gguf", [("direction.2", rows()[2])])
    code, out, err = trait_extract("import", path, "--trait", "happy", "--like", like, "--out", tmp_path / "vectors")
    assert (code, out) == (2, "")
    assert "--numbering block" in err
    assert "--numbering hidden-state" in err
    assert not (tmp_path / "vectors").exists()


def test_import_prints_norms_and_conventions_and_replaces_nothing_unasked(trait_extract, like, tmp_path):
    path = write_gguf(tmp_path / "v.gguf", [("direction.2", rows()[2]), ("direction.3", rows()[3])])
    call = ["import", path, "--trait", "happy", "--numbering", "block", "--like", like, "--out", tmp_path / "vectors"]
    code, out, err = trait_extract(*call)
    assert code == 0, err
    assert f"{np.linalg.norm(rows()[2]):.4g}" in out
    assert "number N is the output of decoder block N" in out
    assert "the warmth vector file" in out
    made = VectorFile.load(tmp_path / "vectors" / "happy" / "imported.safetensors")
    assert (made.metadata.chosen_layer, sorted(made.directions)) == (3, [2, 3])
    assert made.metadata.layers[2].residual_norm == 12.0
    code, out, err = trait_extract(*call)
    assert (code, out) == (2, "")
    assert "already exists: --force overwrites it" in err
    code, out, _ = trait_extract(*call, "--force", "--json", "--chosen-layer", "2")
    assert (code, json.loads(out)["chosen_layer"]) == (0, 2)


def test_import_takes_the_shape_from_a_service_and_registers(trait_extract, serve, tmp_path):
    (url, service) = serve
    path = saved(tmp_path / "v.pt", torch.tensor(rows(10, 16)))
    call = ["import", path, "--trait", "happy", "--numbering", "block", "--url", url, "--api-key", "key", "--register"]
    code, out, err = trait_extract(*call, "--out", tmp_path / "vectors", "--json")
    assert code == 0, err
    assert json.loads(out)["registered"] == "happy"
    assert VectorFile.from_bytes(service.registered["happy"]).metadata.model == "toy"
    wide = saved(tmp_path / "wide.pt", torch.tensor(rows(10, 17)))
    code, out, err = trait_extract("import", wide, *call[2:], "--out", tmp_path / "wide")
    assert (code, out, list(service.registered)) == (1, "", ["happy"])
    assert "has 17 dimensions, toy has 16" in err
    assert not (tmp_path / "wide").exists()


def test_export_writes_a_control_vector_and_says_how_it_is_applied(trait_extract, like, tmp_path):
    to = tmp_path / "warmth.gguf"
    code, out, err = trait_extract("export", like, to, "--all-layers", "--coef", "2", "--unit", "dose")
    assert code == 0, err
    assert "layer 0 is left out" in out
    assert "direction.5" in out
    assert "0.2" in out
    assert len(gguf.GGUFReader(to).tensors) == 5
    assert trait_extract("export", like, to)[0] == 2
    code, out, _ = trait_extract("export", like, to, "--force", "--json")
    assert json.loads(out)["layers"] == {"3": {"length": pytest.approx(1.0)}}
    assert Path(to).stat().st_size == json.loads(out)["bytes"]
