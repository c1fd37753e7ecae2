"""The plan of the large study: its biases are measured by words, and its grid is the one that the README tells."""

import pytest
from reward_model_sycophancy import build_biases
from trait_client.scoring.evaluation import EvaluationSpec
from trait_client.sweeps.experiment import Experiment, size_of


@pytest.mark.parametrize("name", [*build_biases.TRAINED, *build_biases.HELD_OUT])
def test_a_bias_of_the_large_study_is_measured_by_words_that_its_prompts_do_not_hold(name):
    evaluation = EvaluationSpec.load(build_biases.OUT.parent, name)
    assert len(evaluation.questions) == 12
    assert not any(evaluation.metric.score(question) for question in evaluation.questions)


def test_the_readme_tells_the_size_of_the_grid_and_both_splits_are_in_it():
    folder = build_biases.OUT.parents[1]
    experiment = Experiment.load(folder / "experiment.toml")
    assert experiment.traits == [*build_biases.TRAINED, *build_biases.HELD_OUT]
    size = size_of(experiment)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for number in (size.cells, size.control_cells, size.trials):
        assert f"{number:,}" in readme
