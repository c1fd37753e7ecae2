import json
from pathlib import Path

import pytest
from trait_client.sweeps.experiment import Experiment, size_of
from trait_core.errors import DatasetError, InvalidRequestError
from trait_core.schema import Gate

MINIMAL = {"name": "x", "traits": ["a", "b"], "coefficients": [1.0, 2]}


def experiment(folder=Path(), **values):
    return Experiment.from_values(MINIMAL | values, folder=folder)


@pytest.fixture
def folder(tmp_path):
    for trait in ("a", "b"):
        place = tmp_path / "datasets" / "style" / trait
        place.mkdir(parents=True)
        values = {
            "questions": [f"{trait}{i}" for i in range(4)],
            "direction": "negative",
            "metric": {"kind": "uppercase_share"},
        }
        (place / "steering.json").write_text(json.dumps(values))
    return tmp_path


def test_a_file_is_read_with_its_datasets_beside_it(folder):
    path = folder / "experiment.toml"
    path.write_text(
        'name = "x"\ntraits = ["a", "b"]\ndatasets = "datasets"\ncoefficients = [1, 2.5]\nn_prompts = 2\n'
        "[control]\nrandom_directions = 3\n[trait.b]\nlayers = [7]\ncoefficients = [4]\n"
    )
    loaded = Experiment.load(path)
    assert loaded.prompts_of("a") == ["a0", "a1"]
    assert loaded.evaluation("b").sign == -1
    assert (loaded.layers_of("a"), loaded.layers_of("b")) == ("chosen", [7])
    assert (loaded.coefficients_of("a"), loaded.coefficients_of("b")) == ([1, 2.5], [4])
    assert loaded.control.random_directions == 3


def test_size_counts_cells_controls_and_shared_baselines(folder):
    size = size_of(
        experiment(folder, datasets="datasets", layers=[1, 2, 3], seeds=[0, 1], trait={"b": {"layers": [1]}})
    )
    assert (size.cells, size.control_cells) == (12 + 4, 4 * 16)
    assert size.baseline_trials == 8 * 2
    assert size.trials == 16 * 5 * 4 + 16


def test_hook_points_and_gates_are_dimensions_in_the_words_of_the_file(folder):
    path = folder / "experiment.toml"
    path.write_text(
        'name = "x"\ntraits = ["a"]\ndatasets = "datasets"\ncoefficients = [1]\nlayers = [2]\nat = ["resid_post", "mlp_out"]\n'
        'when = ["none", "b@1>0.5, latch", {vector = "b", below = 2.0}]\n[control]\nrandom_directions = 0\n'
    )
    loaded = Experiment.load(path)
    assert loaded.hook_points == ["resid_post", "mlp_out"]
    assert loaded.gates == [None, Gate(vector="b", layer=1, above=0.5, hold="latch"), Gate(vector="b", below=2.0)]
    assert size_of(loaded).cells == 2 * 3
    assert Experiment.from_values(json.loads(loaded.model_dump_json())).gates == loaded.gates


def test_explicit_prompts_replace_every_traits_questions(folder):
    given = experiment(folder, datasets="datasets", prompts=["p", "q"])
    assert given.prompts_of("b") == ["p", "q"]
    assert size_of(given).baseline_trials == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"traits": []}, "traits"),
        ({"traits": ["a", "a"]}, "traits: 'a' is given more than once"),
        ({"coefficients": ["3"]}, "coefficients.0"),
        ({"coefficients": [float("nan")]}, "coefficients.0"),
        ({"layers": "all"}, "layers"),
        ({"layers": [-1]}, "got -1"),
        ({"layer": [1]}, "layer: Extra inputs are not permitted"),
        ({"unit": "doses"}, "unit"),
        ({"scope": {"positions": [4, 2]}}, "positions [4, 2) are empty"),
        ({"at": "resid_pre"}, "at"),
        ({"at": ["mlp_out", "mlp_out"]}, "at: 'mlp_out' is given more than once"),
        ({"at": ["mlp_out", "attn_out"], "trait": {"a": {"vector": "a"}}}, "one vector, but at has 2 entries"),
        ({"when": "harmful"}, "when: 'harmful' is refused: write VECTOR@LAYER>NUMBER"),
        ({"when": ["none", "harmful@9>x"]}, "when.1: 'harmful@9>x' is refused"),
        ({"when": ["harmful>1", {"vector": "harmful", "above": 1}]}, "is given more than once"),
        ({"when": {"vector": "harmful"}}, "a gate needs above or below"),
        ({"when": {"vector": {"inline": "AACAPw=="}, "above": 1.0}}, "a gate of a sweep takes a registered vector"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": True}, "temperature"),
        ({"n_prompts": 2, "prompts": ["p"]}, "n_prompts or prompts, not both"),
        ({"trait": {"c": {}}}, "[trait.c] overrides a trait that is not in traits"),
        ({"trait": {"a": {"coefs": [1]}}}, "trait.a.coefs"),
        ({"trait": {"a": {"vector": "a"}}, "methods": ["mean_diff", "probe"]}, "[trait.a] names one vector"),
        ({"control": {"random_directions": 65}}, "control.random_directions"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(values, words):
    with pytest.raises(InvalidRequestError) as caught:
        experiment(**values)
    assert words in str(caught.value)


def test_too_few_questions_are_an_error(folder):
    with pytest.raises(InvalidRequestError, match="n_prompts = 5: trait 'a' has 4 questions"):
        experiment(folder, datasets="datasets", n_prompts=5).prompts_of("a")


@pytest.mark.parametrize(("text", "words"), [(None, "is missing"), ("name = ", "not TOML")])
def test_an_unreadable_file_is_named(tmp_path, text, words):
    path = tmp_path / "experiment.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidRequestError, match=words) as caught:
        Experiment.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "Expecting property name"),
        ('{"questions": []}', "questions"),
        ('{"questions": ["p"], "metric": {"words": []}}', "metric"),
        ('{"questions": ["p"], "direction": "up"}', "direction"),
        ('{"questions": ["p"], "metric": {"kind": "language", "language": "xx"}}', "metric.language.language"),
    ],
)
def test_a_malformed_evaluation_names_file_and_field(folder, content, words):
    (folder / "datasets/style/a/steering.json").write_text(content)
    with pytest.raises(DatasetError) as caught:
        experiment(folder, datasets="datasets").evaluation("a")
    assert words in str(caught.value)
    assert "steering.json" in str(caught.value)


def test_a_trait_in_two_categories_is_ambiguous(folder):
    other = folder / "datasets" / "affect" / "a"
    other.mkdir(parents=True)
    (other / "steering.json").write_text('{"questions": ["p"]}')
    with pytest.raises(DatasetError, match="several categories: affect/a or style/a"):
        experiment(folder, datasets="datasets").evaluation("a")
