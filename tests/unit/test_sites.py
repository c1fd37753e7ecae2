"""Sites: where an engine steers, captures and monitors, by one index."""

import numpy as np
import pytest
from trait_core.errors import SteeringFailedError
from trait_service.engine.settings import EngineSettings
from trait_service.engine.sites import HOOK_POINTS, Sites

BOTH = Sites(3, ("attn_out", "mlp_out"))


def test_without_further_hook_points_a_site_is_a_layer():
    assert [Sites(3).of("resid_post", layer) for layer in range(3)] == list(range(len(Sites(3))))


def test_each_hook_point_of_each_layer_is_a_site_of_its_own():
    indexes = [BOTH.of(at, layer) for at in BOTH.hook_points for layer in range(3)]
    assert indexes == list(range(len(BOTH))) == list(range(9))


def test_many_sites_are_found_as_one_is():
    columns = [("mlp_out", 2), ("resid_post", 1), ("mlp_out", 0)]
    at = np.array([HOOK_POINTS.index(name) for name, _ in columns])
    layer = np.array([layer for _, layer in columns])
    only_mlp = Sites(3, ("mlp_out",))
    assert only_mlp.of_all(at, layer).tolist() == [only_mlp.of(*column) for column in columns] == [5, 1, 3]


def test_a_hook_point_that_the_engine_was_not_started_with_is_refused_with_the_option():
    message = r"no hook point mlp_out: start the service with --hook-points mlp_out"
    with pytest.raises(SteeringFailedError, match=message):
        Sites(3, ("attn_out",)).of("mlp_out", 0)
    with pytest.raises(SteeringFailedError, match=message):
        Sites(3).of_all(np.array([HOOK_POINTS.index("mlp_out")]), np.array([0]))


def test_a_layer_that_the_model_lacks_is_refused_at_every_hook_point():
    for at in BOTH.hook_points:
        with pytest.raises(SteeringFailedError, match=r"layer 3 is out of range: the model has layers 0\.\.2"):
            BOTH.of(at, 3)
        with pytest.raises(SteeringFailedError, match="layer 3 is out of range"):
            BOTH.of_all(np.array([HOOK_POINTS.index(at)] * 2), np.array([0, 3]))


def test_a_message_names_hook_point_and_layer():
    assert [BOTH.name(site) for site in (1, 4, 8)] == ["layer 1", "attn_out of layer 1", "mlp_out of layer 2"]
    assert BOTH.names([1, 2, 8]) == "layers 1, 2 and mlp_out of layers 2"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([], []),
        (["mlp_out,attn_out"], ["attn_out", "mlp_out"]),
        (["mlp_out", "resid_post", "mlp_out"], ["mlp_out"]),
    ],
)
def test_the_option_takes_names_with_commas_or_several_times(given, found):
    assert EngineSettings(hook_points=given).hook_points == found


def test_an_option_that_names_no_hook_point_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"'heads' is not a hook point: resid_post, attn_out, mlp_out"):
        EngineSettings(hook_points=["attn_out,heads"])
