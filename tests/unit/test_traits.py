"""The folder of traits: which one is taken, what is found in it, and how strictly its files are read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trait_client.sweeps.experiment import Experiment
from trait_core.errors import DatasetError
from trait_core.traits import (
    Remark,
    default_traits_folder,
    find_category,
    find_trait,
    grouped,
    inspect_steering,
    read_definition,
    read_steering,
    trait_places,
)

ROOT = Path(__file__).resolve().parents[2]


def write(folder, **steering):
    folder.mkdir(parents=True)
    (folder / "steering.json").write_text(json.dumps({"questions": ["q"]} | steering))
    (folder / "definition.txt").write_text("0 no, 100 yes\n")
    return folder


def test_the_working_directorys_traits_take_precedence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "datasets" / "traits" / "tone" / "warmth")
    assert default_traits_folder() == Path("datasets/traits")


def test_elsewhere_a_checkout_finds_its_own_traits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_traits_folder() == ROOT / "datasets" / "traits"


ASK = "from trait_core.traits import default_traits_folder; print(default_traits_folder())"


def copied(folder):
    """A copy of the package in which nothing else lies: neither package data nor a checkout."""
    place = folder / "lib" / "python" / "site"
    shutil.copytree(ROOT / "client" / "trait_core", place / "trait_core")
    (folder / "empty").mkdir()

    def ask():
        command = [sys.executable, "-c", ASK]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=folder / "empty", env={"PYTHONPATH": str(place)}
        )

    return place / "trait_core" / "traits" / "data", ask


def test_package_data_is_taken_and_without_any_the_places_are_listed(tmp_path):
    data, ask = copied(tmp_path)
    missing = ask()
    assert missing.returncode != 0
    assert f"looked in {tmp_path / 'empty' / 'datasets' / 'traits'}, {data})" in missing.stderr
    data.mkdir()
    assert ask().stdout.strip() == str(data)


def test_a_trait_that_only_the_installation_has_is_pointed_to(tmp_path):
    write(tmp_path / "tone" / "warmth")
    with pytest.raises(DatasetError, match=r"it holds warmth; .*datasets/traits has it"):
        find_trait(tmp_path, "refusal")


def test_a_folder_without_the_file_that_is_wanted_does_not_make_a_trait_ambiguous(tmp_path):
    folder = write(tmp_path / "tone" / "warmth")
    other = write(tmp_path / "affect" / "warmth")
    (other / "steering.json").unlink()
    assert find_trait(tmp_path, "warmth", holding="steering.json") == folder
    with pytest.raises(DatasetError, match="several categories: affect/warmth or tone/warmth"):
        find_trait(tmp_path, "warmth")
    (folder / "steering.json").unlink()
    with pytest.raises(DatasetError, match=r"affect/warmth: steering\.json is missing"):
        find_trait(tmp_path, "warmth", holding="steering.json")


def steering(folder, content):
    (folder / "steering.json").write_text(json.dumps(content))
    return inspect_steering(folder)


def test_a_bare_list_of_questions_is_an_evaluation(tmp_path):
    spec, remarks = steering(tmp_path, ["One?", "Two?"])
    assert (spec.questions, spec.direction, remarks) == (["One?", "Two?"], "positive", ())
    assert read_steering(tmp_path) == spec


def test_what_is_known_of_another_projects_evaluation_is_kept_and_the_rest_is_reported(tmp_path):
    others = {"adversarial_prefix": "Be calm.", "eval_prompt": "Rate it.", "source": "x", "note": 1}
    spec, remarks = steering(tmp_path, {"questions": ["One?", " ", "One?"]} | others)
    assert (spec.questions, spec.adversarial_prefix, spec.eval_prompt) == (["One?"], "Be calm.", "Rate it.")
    assert [remark.what.partition(" (")[0] for remark in remarks] == [
        "unknown fields are not used: 'note', 'source'",
        "2 blank or repeated questions are left out",
    ]
    assert remarks[0].where == str(tmp_path / "steering.json")


def test_without_a_metric_the_positive_side_is_the_trait_whatever_the_direction(tmp_path):
    spec, (said,) = steering(tmp_path, {"questions": ["q"], "direction": "negative"})
    assert (spec.direction, spec.trait_side) == ("negative", "positive")
    assert "the positive side is the trait" in said.what
    spec, remarks = steering(
        tmp_path, {"questions": ["q"], "direction": "negative", "metric": {"kind": "uppercase_share"}}
    )
    assert (spec.trait_side, remarks) == ("negative", ())


def test_extraction_needs_no_evaluation_and_a_sweep_does(tmp_path):
    for content in (None, "  \n"):
        if content is not None:
            (tmp_path / "steering.json").write_text(content)
        spec, (said,) = inspect_steering(tmp_path)
        assert (spec.questions, said.what) == ([], "is missing or empty: no sweep has questions to steer on")
        with pytest.raises(DatasetError, match=r"is missing|is empty"):
            read_steering(tmp_path)
    _, remarks = steering(tmp_path, {"questions": []})
    assert [remark.what for remark in remarks] == ["has no questions, so no sweep can steer on this trait"]
    with pytest.raises(DatasetError, match="questions: there is none to steer on"):
        read_steering(tmp_path)


def test_examples_of_new_trait_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="still an example"):
        steering(tmp_path, {"questions": ["REPLACE ME"]})
    (tmp_path / "definition.txt").write_text("REPLACE ME: rate it\n")
    with pytest.raises(DatasetError, match="still an example"):
        read_definition(tmp_path)


def test_equal_remarks_are_one_sentence():
    remarks = [Remark("a", "is odd"), Remark("b", "is even"), Remark("c", "is odd"), Remark("a", "is odd")]
    assert grouped(remarks) == ["a (and 1 more such file): is odd", "b: is even"]


# ---- a tree of traits


def names(root):
    return {place.label: place.name for place in trait_places(root)}


def test_two_traits_of_one_name_are_called_by_their_categories(tmp_path):
    for label in ("tone/warmth", "affect/warmth", "affect/calm", "deep/er/calm", "tone/Dry Wit"):
        write(tmp_path / label)
    assert names(tmp_path) == {
        "affect/calm": "affect.calm",
        "affect/warmth": "affect.warmth",
        "deep/er/calm": "deep.er.calm",
        "tone/Dry Wit": "dry_wit",
        "tone/warmth": "tone.warmth",
    }
    assert names(tmp_path / "tone") == {"Dry Wit": "dry_wit", "warmth": "warmth"}
    for name in ("tone/warmth", "tone.warmth"):
        assert find_trait(tmp_path, name) == tmp_path / "tone" / "warmth"
    for name in ("er/calm", "deep/er/calm", "deep.er.calm"):
        assert find_trait(tmp_path, name) == tmp_path / "deep" / "er" / "calm"
    assert find_trait(tmp_path, "dry_wit") == find_trait(tmp_path, "Dry Wit") == tmp_path / "tone" / "Dry Wit"
    with pytest.raises(DatasetError, match="several categories: affect/warmth or tone/warmth"):
        find_trait(tmp_path, "warmth")


def test_a_category_is_chosen_with_a_slash_and_pointed_to_without_one(tmp_path):
    for label in ("tone/warmth", "affect/calm", "tone/deep/curt"):
        write(tmp_path / label)
    assert [place.name for place in find_category(tmp_path, "tone")] == ["curt", "warmth"]
    with pytest.raises(DatasetError, match="no category 'tones': there are affect, tone"):
        find_category(tmp_path, "tones")
    with pytest.raises(DatasetError, match="tone/ is a category, whose traits are all meant by `tone/`"):
        find_trait(tmp_path, "tone")


def test_folders_that_are_no_traits_are_passed_over(tmp_path):
    write(tmp_path / "tone" / "warmth")
    (tmp_path / "tone" / "results").mkdir()
    (tmp_path / "tone" / "biases.json").write_text("{}")
    (tmp_path / "tone" / "definition.txt").write_text("about the category")
    write(tmp_path / "tone" / ".old" / "warmth")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert names(tmp_path) == {"tone/warmth": "warmth"}
    assert names(tmp_path / "tone" / "warmth") == {"warmth": "warmth"}, "a folder of traits may be one trait"


def experiment(folder, **values):
    return Experiment.from_values({"name": "x", "traits": ["refusal"], "coefficients": [1.0]} | values, folder=folder)


def test_an_experiment_without_datasets_takes_those_two_folders_up_else_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "experiments" / "mine"
    place.mkdir(parents=True)
    assert len(experiment(place).evaluation("refusal").questions) > 20
    assert experiment(place).datasets == "../../datasets/traits"
    write(tmp_path / "datasets" / "traits" / "alignment" / "refusal", questions=["only"])
    monkeypatch.chdir("/")
    assert experiment(place).evaluation("refusal").questions == ("only",)


def test_an_experiment_that_names_its_datasets_takes_no_others(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        experiment(tmp_path, datasets="../../datasets/traits").evaluation("refusal")
