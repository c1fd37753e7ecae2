"""Trees of vectors, one file a layer: everything that can be used is imported, the rest is listed with the reason."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from trait_core.vectors.file import VectorFile
from trait_extraction.interchange.vector_folders import find_vector_folders, read_position

D, N_LAYERS = 16, 10
"""The shape of the toy that `serve` serves."""


def array(layer, seed=0):
    return (np.random.default_rng([seed, layer]).normal(size=D) * 3).astype(np.float32)


def write(
    root, trait="calm", *, category="mood", variant="base", position="response__5", component="residual", method="probe",
    layers=(3, 4), metadata=None, seed=0,
) -> Path:  # fmt: skip
    """One vector of a tree; its folder."""
    folder = root / category / trait / variant / "vectors" / position / component / method
    folder.mkdir(parents=True)
    for layer in layers:
        torch.save(torch.tensor(array(layer, seed)), folder / f"layer{layer}.pt")
    if metadata is not None:
        (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture
def run(trait_extract, serve, tmp_path):
    """`run(tree, *options) -> (exit code, document, stderr)`: an import with `--json`."""
    url, _ = serve

    def go(tree, *options):
        code, out, err = trait_extract(
            "import", tree, *options, "--url", url, "--api-key", "key", "--out", tmp_path / "out", "--json"
        )
        return code, json.loads(out) if out else None, err

    return go


def test_each_trait_position_and_method_becomes_a_file_with_the_numbers_of_its_layers(run, tmp_path):
    tree = tmp_path / "tree"
    facts = {"model": "toy-model", "layers": {"3": {"norm": 12.5}}, "val_accuracy": 0.9}
    write(tree, metadata=facts)
    write(tree, method="mean_diff", seed=1)
    write(tree, position="prompt_-1", seed=2)
    write(tree, "joy", seed=3)
    code, document, err = run(tree)
    assert code == 0, err
    assert document["left_out"] == []
    paths = {Path(row["path"]).relative_to(tmp_path / "out").as_posix(): row for row in document["imported"]}
    assert set(paths) == {
        "mood/calm/base/response__5/probe.safetensors",
        "mood/calm/base/response__5/mean_diff.safetensors",
        "mood/calm/base/prompt_-1/probe.safetensors",
        "mood/joy/base/response__5/probe.safetensors",
    }
    made = VectorFile.load(tmp_path / "out" / "mood/calm/base/response__5/probe.safetensors")
    meta = made.metadata
    assert (meta.trait, meta.method, meta.positions, sorted(made.directions)) == (
        "calm",
        "probe",
        "response[:5]",
        [3, 4],
    )
    for layer, direction in made.directions.items():
        np.testing.assert_allclose(direction * meta.layers[layer].separation, array(layer), rtol=1e-5)
    kept = meta.method_options["facts"]
    assert kept["place"] == "mood/calm/base/response__5/residual/probe"
    assert (kept["model"], kept["val_accuracy"], json.loads(kept["layers"])) == ("toy-model", "0.9", facts["layers"])
    assert meta.layers[3].accuracy is None, "another tool's accuracy is a note: how it was measured is not known"
    assert (
        VectorFile.load(tmp_path / "out" / "mood/calm/base/prompt_-1/probe.safetensors").metadata.positions
        == "prompt[-1]"
    )


def test_what_cannot_be_used_is_listed_with_its_reason_and_the_rest_is_imported(run, tmp_path):
    tree = tmp_path / "tree"
    write(tree)
    write(tree, component="k_proj")
    (write(tree, "broken") / "layer4.pt").write_bytes(b"no torch file")
    torch.save(torch.ones(D + 1), write(tree, "wide") / "layer4.pt")
    (write(tree, "odd") / "metadata.json").write_text("[")
    write(tree, "deep", layers=(3, 40))
    code, document, _ = run(tree)
    assert code == 3, "a part of what lies in the residual stream is missing"
    assert [row["trait"] for row in document["imported"]] == ["calm"]
    reasons = {each["vector"].split("/", 1)[1].removesuffix("/probe"): each["reason"] for each in document["left_out"]}
    assert "component 'k_proj' has no hook point here" in reasons["calm/base/response__5/k_proj"]
    assert "layer4.pt: not a torch file" in reasons["broken/base/response__5/residual"]
    assert f"has {D + 1} dimensions" in reasons["wide/base/response__5/residual"]
    assert "metadata.json in probe cannot be used: " in reasons["odd/base/response__5/residual"]
    assert "number 40 means layer 40" in reasons["deep/base/response__5/residual"]
    assert len(reasons) == 5


def test_a_component_without_a_hook_point_alone_is_no_failure(run, tmp_path):
    write(tmp_path / "tree")
    write(tmp_path / "tree", component="v_proj")
    code, document, err = run(tmp_path / "tree")
    assert code == 0, err
    assert len(document["left_out"]) == 1


def test_what_attention_and_mlp_contribute_is_imported_for_its_hook_point(run, serve, tmp_path):
    tree = tmp_path / "tree"
    write(tree)
    write(tree, component="attn_contribution", seed=1)
    (write(tree, component="mlp_contribution", seed=2) / "metadata.json").write_text(
        '{"component": "mlp_contribution"}'
    )
    code, document, err = run(tree, "--register")
    assert code == 0, err
    points = {row["registered"]: row["hook_point"] for row in document["imported"]}
    assert points == {
        "calm.attn_contribution": "attn_out",
        "calm.mlp_contribution": "mlp_out",
        "calm.residual": "resid_post",
    }
    assert all(VectorFile.load(row["path"]).metadata.hook_point == row["hook_point"] for row in document["imported"])
    assert sorted(serve[1].registered) == sorted(points)


def test_a_component_that_the_json_and_the_folder_state_differently_is_refused(run, tmp_path):
    write(tmp_path / "tree")
    (write(tmp_path / "tree", "odd") / "metadata.json").write_text('{"component": "mlp_out"}')
    code, document, _ = run(tmp_path / "tree")
    assert code == 3
    assert "says component 'mlp_out', and the folder is 'residual'" in document["left_out"][0]["reason"]


def test_vectors_are_registered_by_the_parts_of_their_place_that_differ(run, serve, tmp_path):
    tree = tmp_path / "tree"
    write(tree)
    write(tree, method="mean_diff", seed=1)
    write(tree, "Joy (loud)", seed=2)
    code, document, err = run(tree, "--register")
    assert code == 0, err
    assert sorted(serve[1].registered) == ["calm.mean_diff", "calm.probe", "joy_loud_"]
    assert sorted(row["registered"] for row in document["imported"]) == sorted(serve[1].registered)


def test_a_trait_and_a_method_are_chosen_and_unknown_ones_refused(run, tmp_path):
    tree = tmp_path / "tree"
    write(tree)
    write(tree, method="mean_diff")
    write(tree, "joy")
    code, document, _ = run(tree / "mood", "--trait", "mood/calm", "--method", "mean_diff")
    assert (code, [(row["trait"], row["method"]) for row in document["imported"]]) == (0, [("calm", "mean_diff")])
    code, _, err = run(tree, "--trait", "clam")
    assert code == 2
    assert "no vectors of 'clam' in the folder: it has calm, joy" in err
    code, _, err = run(tree, "--method", "pca")
    assert code == 2
    assert "it has mean_diff, probe" in err


def test_an_import_again_changes_nothing_and_overwrites_nothing_unasked(run, tmp_path):
    tree = tmp_path / "tree"
    folder = write(tree)
    assert run(tree)[0] == 0
    assert run(tree)[0] == 0, "the same content"
    torch.save(torch.tensor(array(3, seed=9)), folder / "layer3.pt")
    code, document, _ = run(tree)
    assert code == 1
    assert "exists with other content: --force overwrites it" in document["left_out"][0]["reason"]
    assert run(tree, "--force")[0] == 0


def test_links_out_of_the_tree_are_not_followed(run, tmp_path):
    folder = write(tmp_path / "tree")
    torch.save(torch.tensor(array(5)), tmp_path / "elsewhere.pt")
    (folder / "layer5.pt").symlink_to(tmp_path / "elsewhere.pt")
    code, document, _ = run(tmp_path / "tree")
    assert code == 1
    assert "a link out of the folder is not followed" in document["left_out"][0]["reason"]


def test_metadata_above_the_layers_is_read_and_the_nearest_takes_precedence(tmp_path):
    folder = write(tmp_path, position="weird", metadata={"accuracy": 1})
    (folder.parents[2] / "metadata.json").write_text(
        json.dumps({"model": "m", "accuracy": 0, "position": "response[:3]"})
    )
    (found,) = find_vector_folders(tmp_path)
    assert found.metadata == {"model": "m", "accuracy": 1, "position": "response[:3]"}
    assert found.positions == "response[:3]"


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("response_all", "response[:]"),
        ("response__5", "response[:5]"),
        ("response[:5]", "response[:5]"),
        ("response%5B%3A5%5D", "response[:5]"),
        ("response__5_", "response[:5]"),
        ("response_5_", "response[5:]"),
        ("response_2_5", "response[2:5]"),
        ("prompt_-1", "prompt[-1]"),
        ("prompt_last", "prompt[-1]"),
        ("all_4_", "all[4:]"),
        ("turn_-1", "turn[-1]"),
        ("first_word", None),
        ("response_end_of_thought", None),
        ("turn_all", None),
    ],
)
def test_positions_are_read_from_names_of_folders(name, positions):
    assert read_position(name) == positions


def test_a_name_that_cannot_be_read_is_kept_as_it_is_written(tmp_path):
    write(tmp_path, position="first_word")
    assert find_vector_folders(tmp_path)[0].positions == "first_word"
