"""Arrays of other tools: the usual layouts are read, and every other one gets a sentence that says what the file holds."""

import contextlib
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from trait_core.errors import InvalidRequestError, VectorFileError
from trait_core.vectors.model_shape import ModelShape
from trait_extraction.interchange.foreign_vectors import UNNUMBERED, ForeignVectors
from trait_extraction.interchange.formats import READERS
from trait_extraction.interchange.importing import import_vectors
from trait_extraction.interchange.layouts import number_of, vectors_in
from trait_extraction.interchange.locations import KINDS, read_location
from trait_extraction.interchange.numbering import check_numbering
from trait_extraction.interchange.numpy_pickles import STANDS_FOR, PickledArray, PickledType

N, D = 6, 8
ROWS = (np.random.default_rng(0).normal(size=(N, D)) * 3).astype(np.float32)
SHAPE = ModelShape("toy", "sha256:toy", N, D, dict.fromkeys(range(N), 10.0), "a test")


def save_torch(folder, content, **options):
    torch.save(content, folder / "v.pt", **options)
    return folder / "v.pt"


def save_npz(folder, *unnamed, **named):
    np.savez(folder / "v.npz", *unnamed, **named)
    return folder / "v.npz"


def save_npy(folder, content):
    np.save(folder / "v.npy", content)
    return folder / "v.npy"


def save_safetensors(folder, content):
    safetensors.torch.save_file(content, folder / "v.safetensors")
    return folder / "v.safetensors"


def read(path):
    """The reader of the file's kind, without the child process."""
    return READERS[KINDS[path.suffix]](path)


def tensors(names=range(N), dtype=torch.float32):
    return {name: torch.tensor(ROWS[i]).to(dtype) for i, name in enumerate(names)}


def named(pattern):
    return [pattern.format(i) for i in range(N)]


READ = {
    "a tensor a layer": lambda at: save_torch(at, torch.tensor(ROWS)),
    "float64": lambda at: save_torch(at, torch.tensor(ROWS, dtype=torch.float64)),
    "rows of (n, 1, d)": lambda at: save_torch(at, torch.tensor(ROWS)[:, None]),
    "rows of (1, n, d)": lambda at: save_torch(at, torch.tensor(ROWS)[None]),
    "needs a gradient": lambda at: save_torch(at, torch.nn.Parameter(torch.tensor(ROWS))),
    "a list of tensors": lambda at: save_torch(at, list(tensors().values())),
    "a tuple of (1, d)": lambda at: save_torch(at, tuple(v[None] for v in tensors().values())),
    "a list of lists": lambda at: save_torch(at, ROWS.astype(float).tolist()),
    "a numpy array in .pt": lambda at: save_torch(at, ROWS),
    "numpy arrays in .pt, Fortran order": lambda at: save_torch(at, np.asfortranarray(ROWS)),
    "numpy arrays in .pt, big endian": lambda at: save_torch(at, ROWS.astype(">f4")),
    "numpy arrays in .pt by layer": lambda at: save_torch(at, {i: ROWS[i] for i in range(N)}),
    "numpy integers as layers": lambda at: save_torch(at, {str(np.int64(i)): ROWS[i][None] for i in range(N)}),
    "a list of numpy arrays": lambda at: save_torch(at, list(ROWS)),
    "integers": lambda at: save_torch(at, tensors()),
    "strings": lambda at: save_torch(at, tensors(named("{}"))),
    "layer_12": lambda at: save_torch(at, tensors(named("layer_{}"))),
    "layer12": lambda at: save_torch(at, tensors(named("layer{}"))),
    "resid_12": lambda at: save_torch(at, tensors(named("resid_{}"))),
    "one entry that holds the tensor": lambda at: save_torch(at, {"vectors": torch.tensor(ROWS), "model": "m", "n": 3}),
    "one entry that holds the layers": lambda at: save_torch(at, {"directions": tensors(), "model_type": "llama"}),
    "ordered dict": lambda at: save_torch(at, __import__("collections").OrderedDict(tensors())),
    ".npy": lambda at: save_npy(at, ROWS),
    ".npy of (n, 1, d), float64": lambda at: save_npy(at, ROWS[:, None].astype(np.float64)),
    ".npz with one array": lambda at: save_npz(at, ROWS),
    ".npz with named layers": lambda at: save_npz(at, **{f"layer_{i}": ROWS[i] for i in range(N)}),
    ".npz without names": lambda at: save_npz(at, *ROWS),
    ".npz with a description": lambda at: save_npz(at, vectors=ROWS, layer_type=np.array(3)),
    "safetensors of (n, 1, d)": lambda at: save_safetensors(at, {"v": torch.tensor(ROWS)[:, None].contiguous()}),
    "safetensors by layer": lambda at: save_safetensors(at, tensors(named("layers.{}"))),
}


@pytest.mark.parametrize("layout", READ)
def test_a_usual_layout_is_read_row_by_row_and_asks_for_the_numbering(tmp_path, layout):
    foreign = read(READ[layout](tmp_path))
    assert sorted(foreign.vectors) == list(range(N))
    for i, vector in foreign.vectors.items():
        np.testing.assert_array_equal(vector, ROWS[i])
    with pytest.raises(InvalidRequestError, match="which layer do the file's numbers mean"):
        check_numbering(None, foreign)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_in_every_format_that_has_it(tmp_path, dtype):
    halves = tensors(named("layer_{}"), dtype)
    for path in (save_torch(tmp_path, halves), save_safetensors(tmp_path, halves)):
        np.testing.assert_array_equal(read(path).vectors[3], halves["layer_3"].float().numpy())
    if dtype == torch.float16:
        path = save_npz(tmp_path, **{name: tensor.numpy() for name, tensor in halves.items()})
        np.testing.assert_array_equal(read(path).vectors[3], halves["layer_3"].float().numpy())


@pytest.mark.parametrize(
    ("pattern", "numbering"),
    [
        ("blocks.{}.hook_resid_post", "block"),
        ("model.layers.{}", "block"),
        ("transformer.h.{}", "block"),
        ("gpt_neox.layers.{}", "block"),
        ("language_model.model.layers.{}", "block"),
        ("base_model.model.model.layers.{}", "block"),
        ("resid_post.{}", "block"),
        ("resid_post_{}", "block"),
        ("layers.{}.output", "block"),
        ("blocks.{}.hook_resid_pre", "hidden-state"),
        ("hidden_states.{}", "hidden-state"),
    ],
)
@pytest.mark.parametrize("save", [save_torch, save_safetensors, lambda at, named: save_npz(at, **named)])
def test_names_that_say_what_they_number_need_no_option(tmp_path, pattern, numbering, save):
    foreign = read(save(tmp_path, tensors(named(pattern))))
    assert check_numbering(None, foreign) == foreign.numbering == numbering
    made = import_vectors(foreign, SHAPE, "warmth", numbering)
    shift = 0 if numbering == "block" else 1
    unit = ROWS[3] / np.linalg.norm(ROWS[3])
    np.testing.assert_allclose(made.vector.directions[3 - shift], unit, atol=1e-6)
    other = "hidden-state" if numbering == "block" else "block"
    with pytest.raises(InvalidRequestError, match=f"--numbering {other} contradicts the names in the file"):
        check_numbering(other, foreign)


@pytest.mark.parametrize("save", [save_torch, save_safetensors])
def test_what_names_and_arrays_say_comes_out_of_the_child_process(tmp_path, save):
    foreign = read_location(str(save(tmp_path, tensors(named("blocks.{}.hook_resid_pre")))))
    assert foreign.numbering == "hidden-state"
    np.testing.assert_array_equal(foreign.vectors[3], ROWS[3])


def test_numpy_files_are_read_in_the_child_process(tmp_path):
    np.testing.assert_array_equal(read_location(str(save_npz(tmp_path, ROWS))).vectors[3], ROWS[3])
    np.testing.assert_array_equal(read_location(str(save_torch(tmp_path, {"3": ROWS[3]}))).vectors[3], ROWS[3])


@pytest.mark.parametrize(
    "content",
    [
        torch.tensor(ROWS[2]),
        torch.tensor(ROWS[2])[None],
        torch.tensor(ROWS[2])[:, None],
        torch.tensor(ROWS[2])[None, None],
        ROWS[2],
        [torch.tensor(ROWS[2])],
        ROWS[2].astype(float).tolist(),
        {"vector": torch.tensor(ROWS[2]), "method": "pca"},
        {"steering_vector": ROWS[2][None]},
    ],
)
def test_one_vector_without_a_number_asks_for_its_layer_and_for_no_numbering(tmp_path, content):
    foreign = read(save_torch(tmp_path, content))
    np.testing.assert_array_equal(foreign.vectors[UNNUMBERED], ROWS[2])
    numbering = check_numbering(None, foreign)
    with pytest.raises(InvalidRequestError, match="name its layer, --layer N"):
        import_vectors(foreign, SHAPE, "warmth", numbering)
    assert sorted(import_vectors(foreign, SHAPE, "warmth", numbering, layers=[4]).vector.directions) == [4]


@pytest.mark.parametrize("layer", [4, np.int64(4), torch.tensor(4)])
def test_a_layer_beside_the_vector_is_its_number(tmp_path, layer):
    foreign = read(save_torch(tmp_path, {"direction": torch.tensor(ROWS[4]), "layer": layer}))
    assert list(foreign.vectors) == [4]


@pytest.mark.parametrize(
    ("save", "content", "says"),
    [
        (save_torch, {"a": torch.ones(D), "b": torch.ones(D)}, "'a' is not a layer: names of layers are 12, layer_12"),
        (
            save_torch,
            {"probe": torch.ones(N, D), "pca": torch.ones(N, D)},
            "'pr?obe' has the shape|'probe' is not a layer",
        ),
        (
            save_torch,
            {"evil": {3: torch.ones(D)}, "calm": {3: torch.ones(D)}},
            r"'evil' is a dict of 1 \('3': float32\[8\]\), not an array",
        ),
        (
            save_torch,
            {"blocks.3.hook_mlp_out": torch.ones(D), "blocks.4.hook_mlp_out": torch.ones(D)},
            "part of a block .mlp",
        ),
        (save_torch, {"model.layers.3.self_attn": torch.ones(D)}, "attn"),
        (save_torch, {"blocks.3.hook_resid_mid": torch.ones(D), "4": torch.ones(D)}, "part of a block .mid"),
        (
            save_torch,
            {"blocks.3.hook_resid_pre": torch.ones(D), "blocks.4.hook_resid_post": torch.ones(D)},
            "in two ways",
        ),
        (save_torch, {"layer_3": torch.ones(D), "layer.3": torch.ones(D)}, "two vectors have the number 3"),
        (save_torch, {"\x1b[31mred": torch.ones(D), "b": torch.ones(D)}, r"'\\x1b\[31mred' is not a layer"),
        (
            save_torch,
            {3: [torch.ones(D), torch.ones(D)]},
            r"'3' is a list of 2 \(float32\[8\], float32\[8\]\), not an array",
        ),
        (
            save_torch,
            {"model": "x", "layer": 3},
            r"0 vectors. The file holds a dict of 2 \('model': a str, 'layer': a int\)",
        ),
        (save_torch, torch.ones(N, 3, D), r"the shape \[6, 3, 8\]; expected \(layers, d_model\)"),
        (save_torch, torch.ones(N, D, dtype=torch.complex64), "dense and real"),
        (save_torch, ROWS.astype(np.int32), "is int32; a direction is dense and real"),
        (save_torch, ROWS.astype("U4"), "numpy array of type 'U4'"),
        (save_torch, np.array([{"a": 1}], object), "numpy array of type 'O8'"),
        (save_npy, ROWS.astype(np.int64), "is int64"),
        (save_npy, np.array({"a": ROWS}), "it holds Python objects, which are not read"),
        (lambda at, content: save_npz(at, **content), {"a": ROWS, "b": ROWS}, "'a' is not a layer|'a' has the shape"),
        (lambda at, content: save_npz(at, a=content), np.array([None]), "it holds Python objects, which are not read"),
    ],
)
def test_another_layout_gets_one_sentence_that_says_what_the_file_holds(tmp_path, save, content, says):
    path = save(tmp_path, content)
    with pytest.raises(VectorFileError, match=says) as caught:
        read(path)
    assert str(caught.value).isprintable()


def test_the_sentence_gives_names_types_and_shapes_and_the_way_to_bring_them(tmp_path):
    path = save_torch(tmp_path, {"a": ROWS[0], "b": torch.ones(3), "note": "x", "c": [ROWS[0]], "d": None})
    with pytest.raises(VectorFileError) as caught:
        read(path)
    assert str(caught.value) == (
        "'a' is not a layer: names of layers are 12, layer_12, layers.12, direction.12, blocks.12.hook_resid_post, "
        "model.layers.12, resid_post.12. The file holds a dict of 5 ('a': float32[8], 'b': float32[3], 'note': a str, "
        "'c': a list of 1, ...). To bring it, make a vector file of its arrays with VectorFile.from_arrays "
        "(docs/howto-vectors.md, any array)"
    )


@pytest.mark.parametrize("suffix", [".pkl", ".json", ".h5", ".csv", ".ckpt"])
def test_another_kind_of_file_says_how_to_bring_its_arrays(tmp_path, suffix):
    (tmp_path / f"v{suffix}").write_bytes(b"x")
    with pytest.raises(
        InvalidRequestError, match=r"known are \.gguf, .*\.npz\. To bring it, .*VectorFile\.from_arrays"
    ):
        read_location(str(tmp_path / f"v{suffix}"))


class SavedObject:
    """As a tool's own class, pickled whole."""

    def __init__(self):
        self.vectors = torch.ones(N, D)


def test_an_object_of_a_class_is_named_without_terminal_codes_and_the_way_is_shown(tmp_path):
    path = save_torch(tmp_path, SavedObject())
    with pytest.raises(
        VectorFileError, match=r"\(an object of [\w.]*SavedObject\), and is not run.*torch\.save\(\{12: tensor\}"
    ) as caught:
        read_location(str(path))
    assert str(caught.value).startswith(f"{path}: the pickle holds more than tensors")
    assert str(caught.value).isprintable()


# ---- numpy in a pickle: no code of the file's choosing, and none of numpy's


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name", [name for _, name in STANDS_FOR])
def test_no_function_of_numpy_is_called(name):
    """Each name that numpy writes stands for a class of ours, whatever it is called with."""
    stands = {name: stand for stand, name in STANDS_FOR}
    assert stands[name].__module__ == "trait_extraction.interchange.numpy_pickles"


def test_a_pickle_that_calls_something_else_of_numpy_does_not_run(tmp_path):
    target = tmp_path / "written"
    for function, arguments in (
        (np.save, (str(target), [1.0])),
        (np.memmap, (str(target), "float32", "w+", 0, (4,))),
        (os.system, (f"touch {target}",)),
    ):
        path = save_torch(tmp_path, {"3": Runs(function, *arguments)})
        with pytest.raises(VectorFileError, match="is not run"):
            read(path)
    assert not list(tmp_path.glob("written*"))


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ((1, (2**40,), PickledType("f4"), False, b"1234"), "shape .1099511627776. with 4 bytes"),
        ((1, (-1,), PickledType("f4"), False, b""), "shape or bytes are not those that numpy writes"),
        ((1, (True,), PickledType("f4"), False, b"1234"), "shape or bytes are not those that numpy writes"),
        ((1, (1,), PickledType("f4"), False, [1.0]), "shape or bytes are not those that numpy writes"),
        ((1, (1,), PickledType("O8"), False, b"12345678"), "numpy array of type 'O8'"),
        ((1, (1,), PickledType({"names": []}), False, b"12345678"), "numpy array of type"),
        ((1, (1,), np.dtype("f4"), False, b"1234"), "state is not one that numpy writes"),
        ("state", "state is not one that numpy writes"),
        (None, "state is not one that numpy writes"),
    ],
)
def test_a_numpy_state_that_numpy_does_not_write_is_refused(state, says):
    array = PickledArray()
    array.__setstate__(state)
    with pytest.raises(VectorFileError, match=says):
        array.array()


def test_files_of_numpy_1_are_read(tmp_path):
    """numpy 1 wrote `numpy.core` where numpy 2 writes `numpy._core`."""
    path = save_torch(tmp_path, {"3": ROWS[3]})
    old = tmp_path / "old.pt"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, "w") as target:
        for entry in source.infolist():
            target.writestr(entry, source.read(entry).replace(b"cnumpy._core.", b"cnumpy.core."))
    assert b"cnumpy.core.multiarray" in old.read_bytes()
    np.testing.assert_array_equal(read(old).vectors[3], ROWS[3])


def test_a_numpy_file_that_claims_more_than_it_holds_is_refused(tmp_path):
    path = save_npy(tmp_path, ROWS)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(6, 8)", b"(999999999, 8)").replace(b"    ", b"", 2))
    with pytest.raises(VectorFileError, match="not a complete file of plain numpy arrays"):
        READERS["numpy"](path)
    for length in (0, 7, 60, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(VectorFileError, match="not a complete file of plain numpy arrays"):
            READERS["numpy"](path)
    packed = save_npz(tmp_path, ROWS)
    packed.write_bytes(packed.read_bytes()[:-30])
    with pytest.raises(VectorFileError, match=r"not an \.npz file, or truncated"):
        READERS["numpy"](packed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_file_is_refused_or_read_and_nothing_else(tmp_path, seed):
    """Bytes of the pickle, of the headers and of the zip are changed, removed and added at random."""
    rng = random.Random(seed)

    def damaged(data):
        data = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 4])):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(2)] = bytes([rng.randrange(256)] * rng.randrange(2))
        return bytes(data)

    layers = {i: ROWS[i] for i in range(N)}
    for _ in range(50):
        path = save_torch(tmp_path, layers)
        with zipfile.ZipFile(path) as archive:
            entries = {entry: archive.read(entry) for entry in archive.infolist()}
        with zipfile.ZipFile(path, "w") as archive:
            for entry, data in entries.items():
                archive.writestr(entry, damaged(data) if entry.filename.endswith(".pkl") else data)
        for each in (path, save_npy(tmp_path, ROWS), save_npz(tmp_path, ROWS)):
            if each.suffix != ".pt":
                each.write_bytes(damaged(each.read_bytes()))
            with contextlib.suppress(VectorFileError):
                assert all(vector.dtype == np.float32 for vector in read(each).vectors.values())


def test_a_legacy_pickle_with_the_name_of_a_torch_file_is_not_loaded(tmp_path):
    (tmp_path / "v.pt").write_bytes(pickle.dumps(Runs(os.system, f"touch {tmp_path / 'written'}")))
    with pytest.raises(VectorFileError, match="not a torch file"):
        read_location(str(tmp_path / "v.pt"))
    assert not (tmp_path / "written").exists()


# ---- names, and the last hidden state


@pytest.mark.parametrize(
    "name",
    ["", "layer", "12.5", "layer_1_2", "../3", "model.layers.3.weight", True, -1, None, 3.0, "\uff13x", "x" * 100_000],
)
def test_a_name_that_is_not_a_layer_is_refused(name):
    with pytest.raises(VectorFileError, match="is not a layer"):
        number_of(name)


def test_nested_content_ends():
    content = torch.ones(D).numpy()
    for _ in range(10):
        content = {"v": content}
    with pytest.raises(VectorFileError, match="dicts in dicts in dicts"):
        vectors_in("test", content)


def persona_vectors(n=N + 1):
    rows = (np.random.default_rng(1).normal(size=(n, D))).astype(np.float32)
    return ForeignVectors("torch tensor", dict(enumerate(rows)))


def test_transformers_last_hidden_state_is_imported_with_a_warning_that_names_it():
    made = import_vectors(persona_vectors(), SHAPE, "evil", "hidden-state")
    assert sorted(made.vector.directions) == list(range(N))
    (warning,) = made.warnings
    assert warning.startswith(
        "number 6, imported as layer 5: transformers' last hidden state has been through the model's final norm"
    )
    assert made.vector.metadata.method_options["after_final_norm"] == [5]


@pytest.mark.parametrize(
    ("n", "numbering", "options"),
    [(N, "hidden-state", {}), (N, "block", {}), (N + 1, "hidden-state", {"layers": [3, 4]})],
)
def test_without_the_last_hidden_state_there_is_no_warning(n, numbering, options):
    made = import_vectors(persona_vectors(n), SHAPE, "evil", numbering, **options)
    assert made.warnings == []
    assert "after_final_norm" not in made.vector.metadata.method_options


def test_the_import_command_warns_of_the_last_hidden_state_and_its_help_says_why(trait_extract, serve, tmp_path):
    url, _ = serve
    path = tmp_path / "evil_response_avg_diff.pt"
    torch.save(torch.ones(11, 16), path)
    call = ["import", path, "--trait", "evil", "--numbering", "hidden-state", "--url", url, "--api-key", "key"]
    code, _, err = trait_extract(*call, "--out", tmp_path / "vectors")
    assert (code, "warning: number 10, imported as layer 9: transformers' last hidden state" in err) == (0, True)
    code, out, err = trait_extract(*call, "--out", tmp_path / "some", "--layer", "4", "--json")
    assert (code, err, '"warnings": []' in out) == (0, "", True)
    _, out, _ = trait_extract("import", "--help")
    assert "final norm" in " ".join(out.replace("│", " ").split())


def test_transformers_last_hidden_state_has_been_through_the_final_norm_and_no_other_has():
    """The claim of concepts.md, of the numbering's help and of the warning, measured."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    torch.nn.init.normal_(model.model.norm.weight)
    outputs = []
    for block in model.model.layers:
        block.register_forward_hook(lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        hidden = model(torch.arange(5)[None], output_hidden_states=True).hidden_states
        last = model.model.norm(outputs[-1])
    for layer in (0, 1):
        torch.testing.assert_close(hidden[layer + 1], outputs[layer])
    torch.testing.assert_close(hidden[3], last)
    assert (hidden[3] - outputs[2]).abs().max() > 0.1
