"""Model aliases: `<base>+NAME@COEFFICIENT`."""

from dataclasses import replace

import pytest
from resolvers import resolver_of
from trait_core.errors import InvalidRequestError, UnknownVectorError
from trait_core.schema import Steering
from trait_service.errors import NotServedError
from trait_service.registry.registry import VectorRegistry
from trait_service.resolving.alias import resolve_request, split_alias

SERVED = ["org/model", "org/model+v2"]


@pytest.fixture
def resolver(tmp_path, make_vector):
    registry = VectorRegistry(tmp_path / "vectors")
    registry.put("tone", make_vector(layers=(2, 3)).to_bytes())
    return resolver_of(registry, operations=("add",))


@pytest.mark.parametrize(
    ("model", "base", "terms"),
    [
        ("org/model", "org/model", []),
        ("org/model+tone@3", "org/model", [("tone", 3.0)]),
        ("org/model+a@1+b.c-d@-2.5", "org/model", [("a", 1.0), ("b.c-d", -2.5)]),
        ("org/model+v2", "org/model+v2", []),
        ("org/model+v2+tone@1", "org/model+v2", [("tone", 1.0)]),
        ("other", "other", []),
        ("other+lora", "other+lora", []),
        (None, None, []),
    ],
)
def test_an_alias_is_a_served_name_and_terms(model, base, terms):
    found, parsed = split_alias(model, SERVED)
    assert found == base
    assert [(term.vector, term.coefficient) for term in parsed] == terms
    assert all(term.unit == "dose" and term.layers is None and term.scope == "all" for term in parsed)


def test_a_vector_may_stand_by_its_hash():
    _, terms = split_alias(f"org/model+sha256:{'a' * 64}@2", SERVED)
    assert terms[0].vector == f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("written", "coefficient"),
    [
        ("3", 3.0), ("+1", 1.0), ("-2", -2.0), (".5", 0.5), ("-.5", -0.5), ("1.", 1.0), ("007", 7.0), ("1e0", 1.0),
        ("1E0", 1.0), ("5e-1", 0.5), ("1e+1", 10.0), ("+2.5e+0", 2.5), ("\u22122", -2.0), (" 3 ", 3.0), ("- 2", -2.0),
        ("0.1234567890123456789", 0.1234567890123456789), ("1" * 20, float("1" * 20)),
    ],
)  # fmt: skip
def test_a_coefficient_may_be_written_in_every_usual_form(written, coefficient):
    for tail, n in ((f"tone@{written}", 1), (f"tone@{written}+b@{written}", 2)):
        _, terms = split_alias(f"org/model+{tail}", SERVED)
        assert [term.coefficient for term in terms] == [coefficient] * n


@pytest.mark.parametrize(
    "model", ["org/model + tone @ 3", " org/model+tone@3 ", "org/model +tone@3", "org/model+ tone@ 3"]
)
def test_spaces_around_the_signs_do_not_matter(model):
    base, (term,) = split_alias(model, SERVED)
    assert (base, term.vector, term.coefficient) == ("org/model", "tone", 3.0)


@pytest.mark.parametrize("model", ["other+tone@1", "org/mode+tone@1", "x+a@1+b@2", "other + tone @ 1e0"])
def test_an_alias_of_a_model_that_is_not_served_is_refused(model):
    """vLLM can be told to answer whatever the model's name is, and would answer it unsteered."""
    with pytest.raises(NotServedError, match="there is no model"):
        split_alias(model, SERVED)


def test_a_term_without_a_coefficient_is_told_how_to_have_one():
    with pytest.raises(InvalidRequestError, match=r"no coefficient: write \+tone@1 .*NAME@COEFFICIENT"):
        split_alias("org/model+tone", SERVED)


def test_a_name_in_capitals_is_told_that_names_are_lower_case():
    with pytest.raises(InvalidRequestError, match="lower-case"):
        split_alias("org/model+Tone@1", SERVED)


@pytest.mark.parametrize(
    "tail",
    [
        "tone", "tone@", "@3", "tone@x", "tone@nan", "tone@inf", "tone@1e999", "Tone@1", "a@1++b@2", "tone@1,5", "a@1 b@2",
        "", "tone@1@2", "tone@0x1", "tone@1e", "tone@--1", "tone@1%", "+" * 5000, "tone@" + " " * 5000, "a" * 5000,
    ],
)  # fmt: skip
def test_a_malformed_alias_says_how_to_write_one(tail):
    with pytest.raises(InvalidRequestError, match="NAME@COEFFICIENT") as caught:
        split_alias(f"org/model+{tail}", SERVED)
    assert caught.value.param == "model"


def test_an_alias_of_too_many_terms_is_refused():
    with pytest.raises(InvalidRequestError, match="at most 32"):
        split_alias("org/model" + "+a@1" * 33, SERVED)


def test_alias_and_steering_together_are_the_terms_of_both(resolver):
    _, alias = split_alias("org/model+tone@3", SERVED)
    body = Steering.model_validate({"terms": [{"vector": "tone", "coefficient": 1.0, "layers": [3]}]})
    assert [(t.layer, t.coefficient) for t in resolve_request(resolver, body, alias).applied] == [(2, 3.0), (3, 1.0)]


def test_a_fault_of_the_body_names_the_bodys_own_term(resolver):
    """Whatever number of terms the alias brings before it."""
    _, alias = split_alias("org/model+tone@1", SERVED)
    body = Steering.model_validate({"terms": [{"vector": "nope", "coefficient": 1.0}]})
    with pytest.raises(UnknownVectorError) as caught:
        resolve_request(resolver, body, alias)
    assert caught.value.param == "steering.terms[0].vector"


def test_a_term_of_the_alias_is_resolved_once(resolver):
    looked_up = []
    counting = replace(resolver, lookup=lambda name: looked_up.append(name) or resolver.lookup(name))
    _, alias = split_alias("org/model+tone@1+tone@2", SERVED)
    resolve_request(counting, Steering.model_validate({"terms": [{"vector": "tone", "coefficient": 1.0}]}), alias)
    assert looked_up == ["tone"] * 3


def test_an_alias_beyond_the_dose_limit_is_a_fault_of_the_model(resolver):
    _, alias = split_alias("org/model+tone@21", SERVED)
    with pytest.raises(InvalidRequestError, match=r"alias cannot be served.*2\.1") as caught:
        resolve_request(resolver, None, alias)
    assert caught.value.param == "model"


def test_an_alias_of_an_unknown_vector_is_a_model_that_is_not_served(resolver):
    _, alias = split_alias("org/model+nope@3", SERVED)
    with pytest.raises(NotServedError, match="nope"):
        resolve_request(resolver, None, alias)


def test_a_request_without_terms_is_not_steered(resolver):
    assert resolve_request(resolver, None, []) is None
