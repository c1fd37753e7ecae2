"""Massive dimensions are found once for a model, and left out of activations and directions on request."""

import json

import numpy as np
import pytest
from fake_service import Pool
from trait_client.http import TraitClient
from trait_core.errors import ServiceError
from trait_core.vectors.file import VectorFile
from trait_extraction.data.datasets import load_trait
from trait_extraction.fitting.methods import METHODS
from trait_extraction.fitting.projections import read_projections
from trait_extraction.massive import MassiveDimensions
from trait_extraction.pipeline import RunOptions, calibrated, run
from trait_extraction.plan import RESPONSE, Settings
from trait_extraction.reading.calibration import N_POSITIONS, TEXTS

MASSIVE = MassiveDimensions({2: (0, 5), 3: (5,)}, {0: 9.0})


def test_a_dimension_is_massive_above_fifty_times_the_median_and_a_position_a_sink_above_five_times():
    magnitude = np.ones((3, 9))
    magnitude[1, [4, 7]] = 51.0
    magnitude[2, [4, 7]] = 49.0, 50.5
    norms = np.ones((6, 3))
    norms[0], norms[4] = [1.0, 6.0, 2.0], 4.9
    found = MassiveDimensions.of(magnitude, norms)
    assert (found.dimensions, found.sinks) == ({1: (4, 7), 2: (7,)}, {0: 6.0})
    assert MassiveDimensions.from_json(json.loads(json.dumps(found.as_json()))) == found
    assert found.sentence() == (
        "massive dimensions: 4 (on layer 1), 7 (on layers 1-2); sinks at positions: 0 (6 times the median norm)"
    )


@pytest.mark.parametrize("method", METHODS)
def test_directions_are_zero_in_left_out_dimensions_and_of_unit_length(trait_folder, gaussians, tmp_path, method):
    job = load_trait(trait_folder())
    plain, clean = (
        run(gaussians(), [(job, Settings(RESPONSE, massive=massive))], [method], tmp_path)[0]
        for massive in (None, MASSIVE)
    )
    for layer, direction in clean.vector.directions.items():
        left_out = list(MASSIVE.dimensions.get(layer, ()))
        assert (direction[left_out] == 0).all()
        assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-6)
        if not left_out:
            np.testing.assert_array_equal(direction, plain.vector.directions[layer])
    assert 0 not in plain.vector.directions[2][[0, 5]]
    assert clean.vector.metadata.layers[2].auc < plain.vector.metadata.layers[2].auc, (
        "the trait is in dimension 0 there"
    )


def test_a_vector_without_them_stands_beside_the_other_and_says_so(trait_folder, gaussians, tmp_path):
    service, dataset = gaussians(), load_trait(trait_folder())
    jobs = [[(dataset, Settings(RESPONSE, massive=massive))] for massive in (None, MASSIVE)]
    plain, clean = (run(service, job, ["pca"], tmp_path, RunOptions(register=True))[0] for job in jobs)
    assert service.n_requests == 1, "the texts are read once"
    assert [one.path.name for one in (plain, clean)] == ["pca.safetensors", "pca.clean.safetensors"]
    assert list(service.registered) == ["warmth", "warmth.pca.clean"]
    assert VectorFile.load(clean.path).metadata.method_options["cleaned"] == MASSIVE.as_json()
    assert read_projections(clean.path, clean.vector.metadata) is not None
    assert [run(service, job, ["pca"], tmp_path)[0].reused for job in jobs] == [True, True]
    other = MassiveDimensions({1: (3,)}, {})
    (again,) = run(service, [(dataset, Settings(RESPONSE, massive=other))], ["pca"], tmp_path)
    assert not again.reused, "other dimensions are left out"


def with_a_massive_dimension(service):
    """From layer 4 on, dimension 7 is large on every text; the first position is as long as ten others."""
    pool = service.pool

    def massive(item, positions, layers):
        found = pool(item, positions, layers)
        mean = found.mean.copy()
        mean[np.array(layers) >= 4, 7] = 900.0
        return Pool(mean, found.norm, N_POSITIONS if positions.startswith("all[:") else found.count)

    service.pool = massive
    return service


def test_a_model_is_calibrated_once_and_again_when_it_changes(gaussians, tmp_path):
    client = gaussians()
    with_a_massive_dimension(client.fake)
    found = calibrated(client, tmp_path)
    assert (found.dimensions, found.sinks) == (dict.fromkeys(range(4, 10), (7,)), {})
    assert client.n_requests == len(TEXTS)
    assert (calibrated(client, tmp_path), client.n_requests) == (found, len(TEXTS))
    client.fake.change(weights_digest="sha256:other")
    calibrated(client, tmp_path)
    assert client.n_requests == 2 * len(TEXTS)
    with pytest.raises(ServiceError, match="calibration read 5 positions of 12"):
        calibrated(gaussians(), tmp_path / "elsewhere")


def test_clean_makes_both_vectors_and_prints_both_rows(serve, trait_extract, trait_folder, tmp_path):
    url, service = serve
    with_a_massive_dimension(service)
    root = trait_folder().parents[1]
    options = ["--url", url, "--api-key", "key", "--traits", root, "--out", tmp_path / "v", "--clean", "massive"]
    methods = ["mean_diff", "probe"]
    code, out, err = trait_extract("run", "--trait", "tone/", *options, *(f"--method={name}" for name in methods))
    assert code == 0
    rows = [line.split("\t")[1] for line in out.splitlines() if line.startswith("warmth\t")]
    assert rows == ["mean_diff", "mean_diff.clean", "probe", "probe.clean"]
    assert "massive dimensions: 7 (on layers 4-9); sinks at positions: none" in err
    assert sorted(service.registered) == ["warmth", "warmth.mean_diff.clean", "warmth.probe", "warmth.probe.clean"]
    path = tmp_path / "v" / "warmth" / "mean_diff.clean.safetensors"
    code, out, _ = trait_extract("show", path)
    assert (code, "without massive dimensions: 7 (on layers 4-9)" in out) == (0, True)
    code, out, _ = trait_extract(
        "report", "warmth", "--vectors", tmp_path / "v", "--out", tmp_path / "r", "--traits", root
    )
    assert (code, "mean_diff.clean" in out) == (0, True)
    with TraitClient(url, api_key="key") as client:
        assert {info.name for info in client.vectors()} >= {"warmth.mean_diff.clean"}
