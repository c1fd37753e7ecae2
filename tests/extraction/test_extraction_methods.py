"""Methods find the direction that made the data; evidence follows its formulas."""

import hashlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trait_extraction.fitting.methods
from trait_core.errors import InvalidRequestError
from trait_core.schema import LayerEvidence
from trait_core.statistics import auc, cohens_d
from trait_extraction.data.split import Part, Split, split_scenarios
from trait_extraction.fitting.evidence import layer_evidence
from trait_extraction.fitting.layer_choice import choose_layer, middle_layers
from trait_extraction.fitting.methods import METHOD_OPTIONS, METHODS, UNPAIRED_METHODS, DirectionError


def generator(seed=0):
    return np.random.default_rng(seed)


def classes(n=400, d=24, gap=2.0, spread=None, offset=None, seed=1):
    """Two gaussian clouds, `gap` apart along a known axis."""
    rng = np.random.default_rng(seed)
    axis = np.zeros(d)
    axis[2], axis[5] = 0.6, 0.8
    spread = np.ones(d) if spread is None else spread
    offset = np.zeros(d) if offset is None else offset
    sides = [rng.normal(size=(n, d)) * spread + offset + sign * gap / 2 * axis for sign in (1, -1)]
    return sides[0].astype(np.float32), sides[1].astype(np.float32), axis


def test_mean_diff_is_the_normalised_difference_of_means():
    positive, negative, axis = classes(n=4000)
    direction = METHODS["mean_diff"](positive, negative, generator())
    expected = positive.mean(0, dtype=np.float64) - negative.mean(0, dtype=np.float64)
    np.testing.assert_allclose(direction, expected / np.linalg.norm(expected), atol=1e-6)
    assert direction @ axis > 0.99


def test_the_probes_direction_classifies_raw_activations_where_one_dimension_is_huge():
    """The weight is mapped back through the standardisation: without that, a threshold on h . d separates nothing."""
    spread, offset = np.ones(24), np.zeros(24)
    spread[0], offset[0] = 300.0, 5000.0
    positive, negative, _ = classes(gap=6.0, spread=spread, offset=offset)
    evidence = {}
    for method in ("probe", "mean_diff"):
        direction = METHODS[method](positive[:200], negative[:200], generator())
        evidence[method] = auc(positive[200:] @ direction.astype(float), negative[200:] @ direction.astype(float))
    assert evidence["probe"] > 0.99
    assert evidence["mean_diff"] < 0.9


def test_the_probe_finds_the_axis_of_isotropic_classes():
    offset = np.zeros(24)
    offset[10] = 50.0
    positive, negative, axis = classes(n=4000, offset=offset)
    direction = METHODS["probe"](positive, negative, generator())
    assert direction @ axis > 0.97


def test_a_feature_that_never_varies_gets_no_weight():
    positive, negative, _ = classes(n=60)
    for side in (positive, negative):
        side[:, 7] = 0.0
    assert METHODS["probe"](positive, negative, generator())[7] == 0.0


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_gives_a_float32_unit_direction_with_the_positives_above(method):
    positive, negative, _ = classes(n=30)
    for first, second in ((positive, negative), (negative, positive)):
        direction = METHODS[method](first, second, generator())
        assert direction.dtype == np.float32
        assert direction.shape == (24,)
        assert abs(np.linalg.norm(direction) - 1) < 1e-5
        assert (first.mean(0) - second.mean(0)) @ direction > 0
    assert method in METHOD_OPTIONS


def test_random_follows_its_generator_and_nothing_of_the_data_but_the_sign():
    positive, negative, _ = classes(n=30)
    first = METHODS["random"](positive, negative, generator(3))
    other_data = METHODS["random"](positive * 7 + 1, negative, generator(3))
    assert abs(first @ other_data) == pytest.approx(1, abs=1e-6)
    assert abs(first @ METHODS["random"](positive, negative, generator(4))) < 0.9


@pytest.mark.parametrize("method", [name for name in METHODS if name != "random"])
def test_classes_that_do_not_differ_are_an_error(method):
    positive, _, _ = classes(n=30)
    with pytest.raises(DirectionError, match="zero"):
        METHODS[method](positive, positive.copy(), generator())


@pytest.mark.parametrize("method", list(METHODS))
def test_activations_that_are_not_finite_are_an_error(method):
    positive, negative, _ = classes(n=30)
    positive[3, 3] = np.inf
    with pytest.raises(DirectionError, match="not finite"):
        METHODS[method](positive, negative, generator())


# ---- planted directions


def planted(variant, d=256):
    """Two classes that differ along one dense unit axis only: `(positive, negative, axis)`."""
    rng = np.random.default_rng(7)
    axis = rng.normal(size=d)
    axis /= np.linalg.norm(axis)
    n, m = (600, 150) if variant == "imbalanced" else (400, 400)
    spread, offset = np.ones(d), rng.normal(size=d)
    if variant == "massive":  # as in Gemma: three dimensions hold nearly all of the norm, and are nearly constant
        spread[[3, 17, 200]], offset[[3, 17, 200]] = 4.0, [4000.0, -900.0, 250.0]
    sides = [rng.normal(size=(k, d)) * spread + offset + sign * 5 * axis for k, sign in ((n, 1), (m, -1))]
    return sides[0].astype(np.float32), sides[1].astype(np.float32), axis


@pytest.mark.parametrize("variant", ["plain", "massive", "imbalanced"])
@pytest.mark.parametrize("method", [name for name in METHODS if name != "random"])
def test_every_method_but_random_recovers_a_planted_direction(method, variant):
    positive, negative, axis = planted(variant)
    methods = UNPAIRED_METHODS if variant == "imbalanced" else METHODS
    assert methods[method](positive, negative, generator()) @ axis > 0.95


@pytest.mark.parametrize("variant", ["plain", "massive", "imbalanced"])
def test_random_does_not(variant):
    positive, negative, axis = planted(variant)
    assert abs(METHODS["random"](positive, negative, generator()) @ axis) < 0.5


def test_pca_is_the_first_right_singular_vector_of_the_paired_differences():
    """The differences share a nuisance axis more varied than the gap is long: pca follows it, mean_diff does not."""
    positive, negative, axis = classes(n=300, gap=1.0)
    nuisance = np.zeros(24)
    nuisance[11] = 1.0
    positive = (positive + np.random.default_rng(3).normal(size=(300, 1)) * 5 * nuisance).astype(np.float32)
    direction = METHODS["pca"](positive, negative, generator())
    moment = (positive.astype(float) - negative).T @ (positive.astype(float) - negative)
    assert direction @ moment @ direction == pytest.approx(np.linalg.eigvalsh(moment)[-1], rel=1e-5)
    assert abs(direction @ nuisance) > 0.98
    assert METHODS["mean_diff"](positive, negative, generator()) @ axis > 0.75


def test_unpaired_pca_is_the_first_component_of_every_difference_of_a_positive_and_a_negative():
    """Equal numbers do not make pairs: the order of the rows of one side changes nothing."""
    positive, negative, axis = classes(n=40, gap=6.0)
    negative = negative[:30]
    found = UNPAIRED_METHODS["pca"](positive, negative, generator())
    differences = (positive[:, None] - negative[None]).reshape(-1, positive.shape[1]).astype(np.float64)
    first = np.linalg.svd(differences, full_matrices=False)[2][0]
    assert abs(found @ first) == pytest.approx(1, abs=1e-6)
    assert found @ axis > 0.9
    equal = UNPAIRED_METHODS["pca"](positive[:30], negative, generator())
    np.testing.assert_allclose(UNPAIRED_METHODS["pca"](positive[:30], negative[::-1], generator()), equal, atol=1e-6)
    assert abs(METHODS["pca"](positive[:30], negative, generator()) @ equal) < 1 - 1e-6


def test_pca_does_not_centre_the_differences():
    """A gap that never varies is the whole trait, and centring would remove it."""
    rng = np.random.default_rng(0)
    negative = rng.normal(size=(30, 24)).astype(np.float32)
    positive = negative.copy()
    positive[:, 4] += 3
    assert METHODS["pca"](positive, negative, generator())[4] == pytest.approx(1, abs=1e-5)


def test_gradient_approaches_mean_diff_and_keeps_something_of_its_seed():
    positive, negative, _ = planted("plain", d=576)
    mean_diff = METHODS["mean_diff"](positive, negative, generator())
    first, second = (METHODS["gradient"](positive, negative, generator(seed)) for seed in (0, 1))
    assert 0.98 < first @ mean_diff < 0.99999
    assert first @ second < 0.99999
    np.testing.assert_array_equal(first, METHODS["gradient"](positive, negative, generator(0)))


def test_gradient_and_random_of_one_seed_start_apart(monkeypatch):
    positive, negative, _ = planted("plain", d=2048)
    monkeypatch.setitem(trait_extraction.fitting.methods.METHOD_OPTIONS["gradient"], "steps", 0)
    start = METHODS["gradient"](positive, negative, generator(0))
    assert abs(start @ METHODS["random"](positive, negative, generator(0))) < 0.1


def all_directions():
    """One digest of every method's directions on the three planted variants."""
    digest = hashlib.sha256()
    for variant in ("plain", "massive", "imbalanced"):
        positive, negative, _ = planted(variant)
        for method in (UNPAIRED_METHODS if variant == "imbalanced" else METHODS).values():
            digest.update(method(positive, negative, generator(5)).tobytes())
    return digest.hexdigest()


def test_the_same_activations_give_the_same_directions_bit_for_bit_also_in_another_process():
    here = all_directions()
    assert all_directions() == here
    program = "import runpy; print(runpy.run_path(__import__('sys').argv[1], run_name='methods')['all_directions']())"
    there = subprocess.check_output([sys.executable, "-c", program, __file__], text=True, timeout=120)
    assert there.strip() == here


def test_every_file_of_the_folder_is_a_method_with_its_formula_and_source():
    folder = Path(trait_extraction.fitting.methods.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__", "direction"} == set(METHODS)
    for name, method in METHODS.items():
        docstring = inspect.getdoc(method)
        assert "d = " in docstring
        assert "arXiv" in docstring or name == "random"


# ---- evidence


def test_auc_and_cohens_d_agree_with_closed_forms():
    positive, negative = np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0])
    assert auc(positive, negative) == pytest.approx((5 + 0.5) / 6)
    assert cohens_d(positive, negative) == pytest.approx(1.5 / np.sqrt((2 * 1.0 + 1 * 0.5) / 3))
    assert cohens_d(np.ones(3), np.zeros(3)) is None


def test_evidence_of_gaussians_agrees_with_theory():
    """Two unit gaussians a gap g apart: d = g, AUC = Phi(g / sqrt 2), accuracy = Phi(g / 2)."""
    positive, negative, axis = classes(n=8000, gap=1.5, offset=np.full(24, 0.5))
    split = split_scenarios(8000, 0.5, seed=0)
    found = layer_evidence(axis.astype(np.float32), positive, negative, split, residual_norm=4.0)
    assert found.separation == pytest.approx(1.5, abs=0.05)
    assert found.centre == pytest.approx(0.5 * 1.4, abs=0.03)
    assert found.cohens_d == pytest.approx(1.5, abs=0.06)
    assert found.auc == pytest.approx(0.8556, abs=0.01)
    assert found.accuracy == pytest.approx(0.7734, abs=0.01)
    assert found.residual_norm == 4.0


def test_separation_is_of_training_scenarios_and_the_rest_of_held_out_ones():
    positive, negative = np.array([[1.0], [3.0], [10.0], [12.0]]), np.array([[0.0], [0.0], [20.0], [22.0]])
    split = Split(Part.of_pairs(np.array([0, 1])), Part.of_pairs(np.array([2, 3])))
    found = layer_evidence(np.ones(1, np.float32), positive, negative, split, 1.0)
    assert (found.separation, found.centre, found.auc) == (2.0, 1.0, 0.0)
    assert found.cohens_d < 0


def test_the_split_holds_out_a_quarter_of_the_scenarios_and_follows_its_seed():
    split, again, other = (split_scenarios(52, 0.25, seed=seed) for seed in (0, 0, 1))
    train, held_out = list(split.train.positive), list(split.held_out.positive)
    assert (len(train), len(held_out)) == (39, 13)
    assert sorted([*train, *held_out]) == list(range(52))
    assert (list(split.train.negative), list(split.held_out.negative)) == (train, held_out)
    assert list(again.held_out.positive) == held_out
    assert list(other.held_out.positive) != held_out
    assert held_out == sorted(np.random.default_rng(0).permutation(52)[:13]), "vector files were made by this split"


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.1, 0.9, float("nan")])
def test_a_split_that_leaves_a_side_empty_is_refused(held_out):
    with pytest.raises(InvalidRequestError, match="held-out"):
        split_scenarios(8, held_out, seed=0)


# ---- the layer


def evidence(auc=1.0, cohens_d=5.0, separation=1.0):
    return LayerEvidence(separation=separation, centre=0, residual_norm=10, accuracy=1, auc=auc, cohens_d=cohens_d)


def test_a_late_layer_is_not_chosen_however_well_it_discriminates():
    layers = {layer: evidence(cohens_d=5.0 + layer) for layer in range(30)}
    chosen, because = choose_layer(layers)
    assert chosen == 15
    assert "layers 15, 16, 17: of the middle layers 12..17" in because
    assert "(22.00)" in because


def test_depth_decides_between_middle_layers_that_are_alike():
    assert choose_layer({layer: evidence(cohens_d=5 + 0.01 * layer) for layer in range(30)})[0] == 15


def test_evidence_rules_layers_out():
    layers = {layer: evidence() for layer in range(30)} | {15: evidence(auc=0.9, cohens_d=50.0)}
    assert choose_layer(layers)[0] == 14
    layers[14] = evidence(cohens_d=4.0)
    assert choose_layer(layers)[0] == 16
    layers[12] = evidence(cohens_d=None)
    assert choose_layer(layers)[0] == 12


@pytest.mark.parametrize(
    ("n_layers", "middle"), [(1, [0]), (2, [1]), (3, [1]), (4, [2]), (6, [2, 3]), (18, [7, 8, 9, 10])]
)
def test_every_model_has_middle_layers(n_layers, middle):
    assert middle_layers(n_layers) == middle
