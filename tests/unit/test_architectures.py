"""The table of known architectures says what the tables of layers and the parity tests say."""

import tiny_models
from trait_service.engine import layer_rules, layers
from trait_service.models.architectures import ARCHITECTURES


def test_the_parity_tests_cover_exactly_the_architectures_that_are_said_to_have_one():
    assert {name for name, each in ARCHITECTURES.items() if "parity" in each.evidence} == set(tiny_models.MODELS)
    assert len(tiny_models.MODELS) >= 40


def test_every_layer_has_a_rule_or_is_one_of_transformers():
    named = {layer for each in ARCHITECTURES.values() for layer in each.layers}
    unknown = {layer for layer in named if layer not in layer_rules.RULES}
    assert {layer for layer in unknown if not layer.startswith(layers.TRANSFORMERS_MODELS)} == set()
    assert not named & set(layer_rules.REFUSED)


def test_what_is_only_read_says_why():
    assert [name for name, each in ARCHITECTURES.items() if each.evidence == ("read",) and not each.quirk] == []


def test_each_model_that_is_refused_in_float16_says_so():
    refused = {name for name, each in ARCHITECTURES.items() if set(each.layers) & set(layer_rules.SCALED_IN_FLOAT16)}
    assert {name for name, each in ARCHITECTURES.items() if "refused in float16" in each.quirk} == refused


def test_architectures_are_sorted_and_so_are_their_layers():
    assert list(ARCHITECTURES) == sorted(ARCHITECTURES)
    assert all(each.layers == tuple(sorted(each.layers)) for each in ARCHITECTURES.values())
