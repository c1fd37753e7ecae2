"""The folder of traits: which one is taken, what is found in it, and how strictly its files are read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trait_client.sweeps.experiment import Experiment
from trait_core.errors import DatasetError
from trait_core.traits import default_traits_folder, find_trait, read_definition, read_steering

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
    (tmp_path / "affect" / "warmth").mkdir(parents=True)
    assert find_trait(tmp_path, "warmth", holding="steering.json") == folder
    with pytest.raises(DatasetError, match="several categories: affect/warmth or tone/warmth"):
        find_trait(tmp_path, "warmth")
    (folder / "steering.json").unlink()
    with pytest.raises(DatasetError, match=r"affect/warmth: steering\.json is missing"):
        find_trait(tmp_path, "warmth", holding="steering.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"questions": ["q"], "direction": "positive", "note": "mine"}, "unknown field 'note'"),
        ({"questions": ["q"]}, 'direction is missing: add "direction": "positive"'),
        ({"questions": ["q", " "], "direction": "positive"}, "questions.1 is empty"),
        ({"questions": ["q"], "direction": "positive", "metric": {}}, 'metric needs a "kind"'),
        ({"questions": ["REPLACE ME"], "direction": "positive"}, "still an example"),
    ],
)
def test_an_author_is_told_what_a_sweep_reads_over(tmp_path, content, reason):
    (tmp_path / "steering.json").write_text(json.dumps(content))
    assert read_steering(tmp_path, strict=False).direction == "positive"
    with pytest.raises(DatasetError, match=reason):
        read_steering(tmp_path, strict=True)


def test_an_example_rubric_is_refused_as_an_author_only(tmp_path):
    (tmp_path / "definition.txt").write_text("REPLACE ME: rate it\n")
    assert read_definition(tmp_path, strict=False) == "REPLACE ME: rate it"
    with pytest.raises(DatasetError, match="still an example"):
        read_definition(tmp_path, strict=True)


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
