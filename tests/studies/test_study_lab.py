"""A study's tables stand in its database, beside the product's own and never in their place, and as CSV."""

import subprocess
import sys

import numpy as np
import pytest
from study.lab import ROOT, Lab
from trait_client.sweeps.experiment import Experiment

ROWS = [{"part": "reply", "d": 1.23456, "n": 3, "note": None}, {"part": "prompt", "d": 0.5, "n": 4, "note": "x"}]


@pytest.fixture
def lab(tmp_path):
    lab = Lab("some_study", work=tmp_path)
    lab.folder = tmp_path
    return lab


def test_a_table_is_replaced_and_written_as_csv(lab, tmp_path):
    lab.table("found", ROWS[:1])
    lab.table("found", ROWS)
    assert lab.sql("select part, d, n, note from found order by n") == ROWS
    assert (tmp_path / "found.csv").read_text() == "part,d,n,note\nreply,1.235,3,\nprompt,0.5,4,x\n"


@pytest.mark.parametrize("name", ["cells", "projections", "runs"])
def test_a_table_of_the_result_database_is_never_replaced(lab, name):
    with pytest.raises(ValueError, match=name):
        lab.table(name, ROWS)


OF_OTHER_MODELS = sorted(
    path.relative_to(ROOT / "experiments")
    for path in (ROOT / "experiments").glob("*/*/*.toml")
    if path.parent.name != "traits"
)
N_LAYERS = {"qwen2.5-coder-0.5b": 24, "llama-3.1-8b-instruct": 32}


@pytest.mark.parametrize("path", OF_OTHER_MODELS, ids=str)
def test_another_model_is_asked_the_small_models_question_on_layers_that_it_has(path):
    study, model, name = path.parts
    ours, small = (Experiment.load(ROOT / "experiments" / each) for each in (path, f"{study}/{name}"))
    assert (ours.name, ours.traits, ours.methods) == (small.name, small.traits, small.methods)
    for trait in ours.traits:
        layers = ours.layers_of(trait)
        assert layers == "chosen" or all(0 <= layer < N_LAYERS[model] for layer in np.hstack(layers))


def test_another_model_has_folders_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small, other = Lab("some_study"), Lab("some_study", "someone/Some-Model-8B")
    assert other.folder == small.folder / "some-model-8b"
    assert small.work != other.work
    assert small.vectors != other.vectors


def test_a_model_is_served_in_its_own_precision_unless_the_study_chooses_one(tmp_path):
    lab = Lab("some_study", "qwen2.5-coder-0.5b", work=tmp_path)
    assert lab.arguments()[-2:] == ["--dtype", "bfloat16"]
    assert lab.arguments("--dtype", "float32")[-2:] == ["--dtype", "float32"]
    assert "--dtype" not in lab.arguments(model=tmp_path / "w8a8")
    assert "--dtype" not in Lab("some_study", work=tmp_path).arguments()


def test_the_plan_of_a_large_model_is_printed_with_an_estimate():
    command = [sys.executable, ROOT / "experiments" / "run.py", "methods_and_layers", "--dry-run"]
    done = subprocess.run(
        [*command, "--model", "meta-llama/Llama-3.1-8B-Instruct"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "448 cells" in done.stdout
    assert "tokens/s (as given)" in done.stdout
