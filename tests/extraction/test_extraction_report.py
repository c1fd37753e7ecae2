"""`trait-extract report`: the page shows the content of the vector files."""

import json
import re

import numpy as np
import pytest
from trait_core.vectors.file import VectorFile
from trait_extraction.fitting.methods import METHODS
from trait_extraction.fitting.projections import read_projections

LONG = "YES, " + "and this sentence is never cut off; " * 60 + "<script>alert('&')</script>"


@pytest.fixture
def extracted(serve, trait_extract, trait_folder, tmp_path):
    """Vectors of two traits, all methods, and their folder."""
    url, _ = serve
    for name in ("warmth", "candour"):
        sides = [
            [{"prompt": f"{name} question {i}?", "response": f"{word} {i} {name}."} for i in range(16)]
            for word in ("YES", "NO")
        ]
        for i, pair in enumerate(sides[0]):
            pair["response"] = f"{LONG} {i}"
        trait_folder(*sides, name=name)
    code, _, said = trait_extract(
        "run", "--all", "--method", "all", "--url", url, "--api-key", "key", "--no-register",
        "--datasets", tmp_path / "traits", "--out", tmp_path / "vectors",
    )  # fmt: skip
    assert code == 0, said
    return tmp_path / "vectors"


def test_the_page_holds_the_cosines_between_layers_and_between_methods(extracted, trait_extract):
    run_report(trait_extract, extracted, "warmth")
    data = data_of(extracted)
    vectors = {name: VectorFile.load(extracted / "warmth" / f"{name}.safetensors") for name in METHODS}
    main = vectors[data["main_method"]]
    layers = data["cross_layer"]["layers"]
    assert layers == sorted(main.directions)
    for i, row in enumerate(data["cross_layer"]["cosines"]):
        for j, value in enumerate(row):
            assert value == pytest.approx(float(main.directions[layers[i]] @ main.directions[layers[j]]), abs=1e-4)
    pairs = {tuple(each["methods"]): each["layers"] for each in data["agreement"]}
    assert len(pairs) == len(METHODS) * (len(METHODS) - 1) / 2
    for (first, second), found in pairs.items():
        assert [at["layer"] for at in found] == layers
        for at in found:
            expected = float(vectors[first].directions[at["layer"]] @ vectors[second].directions[at["layer"]])
            assert at["cosine"] == pytest.approx(expected, abs=1e-6)


def test_a_vector_of_another_hook_point_is_compared_with_that_of_the_stream(extracted, trait_extract):
    folder = extracted / "warmth"
    stream = VectorFile.load(folder / "mean_diff.safetensors")
    turned = {layer: np.roll(direction, 1) for layer, direction in stream.directions.items()}
    mlp = VectorFile(stream.metadata.model_copy(update={"hook_point": "mlp_out"}), turned)
    (folder / "mean_diff.mlp_out.safetensors").write_bytes(mlp.to_bytes())
    code, _, said = run_report(trait_extract, extracted, "warmth")
    assert code == 0, said
    data = data_of(extracted)
    assert data["main_method"] == "mean_diff"
    found = {tuple(each["methods"]): each["layers"] for each in data["agreement"]}[("mean_diff", "mean_diff.mlp_out")]
    for at in found:
        expected = float(stream.directions[at["layer"]] @ turned[at["layer"]])
        assert at["cosine"] == pytest.approx(expected, abs=1e-6)


def test_show_prints_the_same_cosines(extracted, trait_extract):
    file = extracted / "warmth" / "mean_diff.safetensors"
    vector = VectorFile.load(file)
    code, said, _ = trait_extract("show", file)
    assert code == 0
    chosen, first = vector.metadata.chosen_layer, min(vector.directions)
    row = next(line for line in said.splitlines() if f"layer {chosen}" in line and "* layer" in line)
    assert f"{float(vector.directions[chosen] @ vector.directions[first]):.2f}" in row
    assert "probe, same layer" in said
    document = json.loads(trait_extract("show", file, "--json")[1])["cross_layer"]
    expected = [
        [float(vector.directions[i] @ vector.directions[j]) for j in document["layers"]] for i in document["layers"]
    ]
    np.testing.assert_allclose(document["cosines"], expected, atol=1e-4)


def test_with_lens_the_page_holds_the_tokens_of_the_chosen_layer(extracted, trait_extract, serve):
    assert run_report(trait_extract, extracted, "warmth")[0] == 0
    assert data_of(extracted)["lens"] is None
    url, _ = serve
    assert run_report(trait_extract, extracted, "warmth", "--lens", "--url", url, "--api-key", "key")[0] == 0
    data = data_of(extracted)
    direction = VectorFile.load(extracted / "warmth" / "mean_diff.safetensors").directions[data["layer"]]
    assert data["lens"]["layer"] == data["layer"]
    assert data["lens"]["promoted"][0]["id"] == int(np.argmax(direction))
    assert data["lens"]["suppressed"][0]["id"] == int(np.argmin(direction))


def run_report(trait_extract, folder, *arguments):
    return trait_extract(
        "report",
        *arguments,
        "--vectors",
        folder,
        "--datasets",
        folder.parent / "traits",
        "--out",
        folder.parent / "pages",
    )


def data_of(folder, name="warmth"):
    """The numbers and texts that the page draws."""
    html = (folder.parent / "pages" / f"{name}.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_the_page_holds_the_evidence_of_every_method_and_layer(extracted, trait_extract):
    code, said, _ = run_report(trait_extract, extracted, "warmth")
    assert code == 0
    data = data_of(extracted)
    assert [each["method"] for each in data["methods"]] == list(METHODS)
    for each in data["methods"]:
        vector = VectorFile.load(extracted / "warmth" / f"{each['method']}.safetensors")
        assert each["method"] in said
        assert [at["layer"] for at in each["layers"]] == sorted(vector.metadata.layers)
        for shown in each["layers"]:
            at = vector.metadata.layers[shown["layer"]]
            for name in ("auc", "accuracy", "cohens_d"):
                assert shown[name] == getattr(at, name)
                assert shown[f"{name}_interval"] == list(getattr(at, f"{name}_interval"))
            assert shown["separation"] == at.separation
            assert shown["relative_separation"] == at.separation / at.residual_norm
    assert len(data["held_out"]) == len(METHODS)


def test_the_page_holds_every_held_out_text_once(extracted, trait_extract):
    run_report(trait_extract, extracted, "warmth")
    meta = VectorFile.load(extracted / "warmth" / "mean_diff.safetensors").metadata
    shown = next(each for each in data_of(extracted)["held_out"] if each["method"] == "mean_diff")
    assert [len(shown[side]) for side in ("positive", "negative")] == [meta.n_held_out] * 2


def test_the_texts_at_the_ends_are_those_with_the_extreme_projections(extracted, trait_extract):
    run_report(trait_extract, extracted, "warmth")
    path = extracted / "warmth" / "mean_diff.safetensors"
    meta = VectorFile.load(path).metadata
    kept = read_projections(path, meta)
    at, (positive, _) = meta.layers[meta.chosen_layer], kept.at(meta.chosen_layer)
    best = int(np.argmax(positive))
    first = data_of(extracted)["texts"]["highest"][0]
    assert f"{first['value']:+.2f}" == f"{(positive[best] - at.centre) / (at.separation / 2):+.2f}"
    assert first["prompt"] == f"warmth question {kept.scenarios[best]}?"
    assert first["response"] == f"{LONG} {kept.scenarios[best]}", "the text is whole"
    html = (extracted.parent / "pages" / "warmth.html").read_text()
    assert "<script>alert" not in html, "texts are escaped"


def test_the_nearest_trait_is_named_with_its_cosine(extracted, trait_extract):
    _, said, _ = run_report(trait_extract, extracted)
    ours, theirs = (VectorFile.load(extracted / name / "mean_diff.safetensors") for name in ("warmth", "candour"))
    layer = ours.metadata.chosen_layer
    cosine = float(ours.directions[layer] @ theirs.directions[layer])
    assert f"nearest: candour ({cosine:+.2f})" in said
    assert data_of(extracted)["neighbours"] == [{"name": "candour", "cosine": pytest.approx(cosine)}]
    assert (extracted.parent / "pages" / "candour.html").is_file(), "without a name, every trait gets its page"


def test_the_page_loads_nothing_and_is_the_same_each_time(extracted, trait_extract):
    pages = []
    for _ in range(2):
        run_report(trait_extract, extracted, "warmth")
        pages.append((extracted.parent / "pages" / "warmth.html").read_text())
    assert pages[0] == pages[1]
    assert "default-src 'none'" in pages[0]
    assert not re.findall(r'\b(?:src|href)="(?!#)', pages[0])


def test_a_changed_dataset_is_reported_and_not_shown_with_old_projections(extracted, trait_extract):
    path = extracted.parent / "traits" / "tone" / "warmth" / "positive.jsonl"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join([json.dumps({"prompt": "warmth question 0?", "response": "YES, new."}), *lines[1:]]) + "\n"
    )
    code, _, _ = run_report(trait_extract, extracted, "warmth")
    assert code == 0
    page = (extracted.parent / "pages" / "warmth.html").read_text()
    assert "the dataset has changed since the vector was made" in page
    assert "YES, new." not in page


def test_an_unknown_trait_is_an_error_that_names_the_known_ones(extracted, trait_extract):
    code, _, said = run_report(trait_extract, extracted, "warmht")
    assert code == 2
    assert "no vectors for 'warmht': there are candour, warmth" in said


def test_a_folder_without_vectors_is_an_error(tmp_path, trait_extract):
    code, _, said = trait_extract("report", "--vectors", tmp_path)
    assert code == 2
    assert "no vector files" in said
