"""`trait-extract report`: the page says what the vector files say."""

import json
import re
from html import unescape

import numpy as np
import pytest
from trait_core.vectors.file import VectorFile
from trait_extraction.fitting.methods import METHODS
from trait_extraction.fitting.projections import read_projections

LONG = "YES, " + "and this sentence is never cut off; " * 60 + "<script>alert('&')</script>"


@pytest.fixture
def extracted(serve, trait_extract, trait_folder, tmp_path):
    """Vectors of two traits, all methods, and the folder that they stand in."""
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


def test_the_page_holds_the_evidence_of_every_method_and_layer(extracted, trait_extract):
    code, said, _ = run_report(trait_extract, extracted, "warmth")
    assert code == 0
    page = (extracted.parent / "pages" / "warmth.html").read_text()
    for method in METHODS:
        vector = VectorFile.load(extracted / "warmth" / f"{method}.safetensors")
        assert method in said
        for layer, at in vector.metadata.layers.items():
            low, high = at.auc_interval
            assert f"<title>{method}, layer {layer}: {at.auc:.3g} [{low:.3g}, {high:.3g}]</title>" in page
    assert page.count("<svg") == 4 + len(METHODS)


def test_the_histogram_counts_every_held_out_text_once(extracted, trait_extract):
    run_report(trait_extract, extracted, "warmth")
    page = (extracted.parent / "pages" / "warmth.html").read_text()
    meta = VectorFile.load(extracted / "warmth" / "mean_diff.safetensors").metadata
    chart = page[page.index("<h3>mean_diff</h3>") :].split("</svg>")[0]
    for side in ("positive", "negative"):
        assert sum(int(n) for n in re.findall(rf"<title>{side}: (\d+) from", chart)) == meta.n_held_out


def test_the_texts_at_the_ends_are_those_with_the_extreme_projections(extracted, trait_extract):
    run_report(trait_extract, extracted, "warmth")
    page = (extracted.parent / "pages" / "warmth.html").read_text()
    path = extracted / "warmth" / "mean_diff.safetensors"
    meta = VectorFile.load(path).metadata
    kept = read_projections(path, meta)
    at, (positive, _) = meta.layers[meta.chosen_layer], kept.at(meta.chosen_layer)
    best = int(np.argmax(positive))
    first = page.split("<h3>highest</h3>")[1].split('<div class="text">')[1]
    assert f"{(positive[best] - at.centre) / (at.separation / 2):+.2f}" in first
    assert f"warmth question {kept.scenarios[best]}?" in first
    assert f"{LONG} {kept.scenarios[best]}" in unescape(first), "the text is whole"
    assert "<script" not in page, "texts are escaped"


def test_the_nearest_trait_is_named_with_its_cosine(extracted, trait_extract):
    _, said, _ = run_report(trait_extract, extracted)
    ours, theirs = (VectorFile.load(extracted / name / "mean_diff.safetensors") for name in ("warmth", "candour"))
    layer = ours.metadata.chosen_layer
    cosine = float(ours.directions[layer] @ theirs.directions[layer])
    assert f"nearest: candour ({cosine:+.2f})" in said
    assert (
        f'<td>candour</td><td class="n">{cosine:+.2f}</td>' in (extracted.parent / "pages" / "warmth.html").read_text()
    )
    assert (extracted.parent / "pages" / "candour.html").is_file(), "without a name, every trait gets its page"


def test_a_changed_dataset_is_told_rather_than_shown_beside_old_projections(extracted, trait_extract):
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


def test_an_unknown_trait_is_an_error_that_names_those_there_are(extracted, trait_extract):
    code, _, said = run_report(trait_extract, extracted, "warmht")
    assert code == 2
    assert "no vectors of 'warmht': there are candour, warmth" in said


def test_a_folder_without_vectors_is_an_error(tmp_path, trait_extract):
    code, _, said = trait_extract("report", "--vectors", tmp_path)
    assert code == 2
    assert "no vector files" in said
