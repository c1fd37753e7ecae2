"""A registered vector is found by name, by hash, or by trait and method: one rule for `steer` and for sweeps."""

import pytest
from trait_core.errors import InvalidRequestError, UnknownVectorError
from trait_core.schema import VectorInfo
from trait_core.vectors.lookup import find_vector
from vector_fixtures import made_vector


def info(name, digit, trait="shouting", method="mean_diff"):
    metadata = made_vector([1], trait=trait, method=method).metadata
    return VectorInfo(name=name, sha256="sha256:" + digit * 64, metadata=metadata)


LOUD = [
    info("shouting", "1"),
    info("shouting.probe", "2", method="probe"),
    info("mine", "3", method="probe"),
    info("calm", "4", "calmness"),
]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ({"reference": "mine"}, "mine"),
        ({"reference": "sha256:" + "4" * 64}, "calm"),
        ({"reference": "calmness", "trait": "calmness"}, "calm"),
        ({"reference": "shouting", "trait": "shouting"}, "shouting"),
        ({"trait": "shouting", "method": "mean_diff"}, "shouting"),
        ({"trait": "shouting", "method": "probe"}, "shouting.probe"),
    ],
)
def test_a_vector_is_found_by_name_hash_or_trait(wanted, name):
    assert find_vector(LOUD, **wanted).name == name


def test_several_vectors_of_a_trait_are_listed_with_how_to_choose():
    with pytest.raises(InvalidRequestError, match=r"several probe vectors \(a, b\): say which") as caught:
        find_vector(
            [info("a", "5", method="probe"), info("b", "6", method="probe")],
            trait="shouting", method="probe", choose="say which", param="traits",
        )  # fmt: skip
    assert caught.value.param == "traits"


def test_two_names_of_one_file_are_one_vector():
    assert find_vector([info("a", "5"), info("b", "5")], trait="shouting").name == "a"


@pytest.mark.parametrize(
    ("wanted", "missing"),
    [
        ({"reference": "nobody"}, "no vector 'nobody': the service has shouting, shouting.probe, mine, calm; register"),
        ({"trait": "shouting", "method": "pca"}, "trait 'shouting' has no pca vector"),
        ({"reference": "calmness"}, "no vector 'calmness'"),
    ],
)
def test_a_missing_vector_lists_the_registered_names(wanted, missing):
    with pytest.raises(UnknownVectorError, match=missing):
        find_vector(LOUD, **wanted)
