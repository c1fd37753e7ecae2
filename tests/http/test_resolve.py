"""From names and units to directions and residual units; whatever is out of range is refused with value and range."""

import base64
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from resolvers import D_MODEL, RESIDUAL_NORM, resolver_of
from trait_core.errors import InvalidRequestError, UnknownVectorError, first_fault
from trait_core.positions import Landmarks
from trait_core.schema import AppliedGate, AppliedTerm, SteeredPositions, Steering, SteeringReport
from trait_core.storage import sha256_of
from trait_core.vectors.inline import inline_vector
from trait_service.engine.spec import TermSpec
from trait_service.registry.registry import VectorRegistry
from trait_service.resolving.scopes import check_scopes, placed

INLINE = inline_vector(np.eye(D_MODEL, dtype=np.float32)[1] * 3).model_dump()


@pytest.fixture
def registry(tmp_path, make_vector):
    registry = VectorRegistry(tmp_path / "vectors")
    registry.put("tone", make_vector(layers=(2, 3)).to_bytes())
    registry.put("flat", make_vector(seed=1, separation=0.0).to_bytes())
    return registry


@pytest.fixture
def resolver(registry):
    return resolver_of(registry, terms_per_layer=2)


def steering(*terms: dict) -> Steering:
    return Steering.model_validate({"terms": [{"vector": "tone", "coefficient": 1.0, **term} for term in terms]})


@pytest.mark.parametrize(
    ("unit", "coefficient", "a"),
    [("dose", 3.0, 15.0), ("separation", 1.0, 4.0), ("raw", 7.5, 7.5), ("dose", -3.0, -15.0)],
)
def test_units(resolver, unit, coefficient, a):
    """Residual norm 50, separation 4."""
    applied = resolver.resolve(steering({"unit": unit, "coefficient": coefficient})).applied[0]
    assert applied.a == pytest.approx(a)
    assert applied.relative_dose == pytest.approx(abs(a) / 50)


def test_layers_left_out_are_the_chosen_layer(resolver):
    assert [term.layer for term in resolver.resolve(steering({})).terms] == [2]


def test_a_term_on_two_layers_is_two_terms_with_each_layers_direction(resolver, registry):
    resolved = resolver.resolve(steering({"layers": [3, 2]}))
    file = registry.get("tone").file
    assert [term.layer for term in resolved.terms] == [3, 2]
    for term in resolved.terms:
        raw = resolved.directions[term.direction]
        assert np.array_equal(np.frombuffer(raw, "<f4"), file.directions[term.layer])
        assert sha256_of(raw) == f"sha256:{term.direction}"


def test_a_vector_may_be_named_by_its_hash(resolver, registry):
    by_hash = resolver.resolve(steering({"vector": registry.get("tone").sha256}))
    assert by_hash.terms == resolver.resolve(steering({})).terms


@pytest.mark.parametrize(
    ("scope", "written"),
    [
        ("response[8::4]", "response[8::4]"),
        (["prompt[-1]", "response[:2]"], "prompt[-1], response[:2]"),
        ({"select": "all[:]", "except": ["all[:4]"]}, "all[:] except all[:4]"),
    ],
)
def test_a_selector_is_reported_and_travels_in_its_written_form(resolver, scope, written):
    resolved = resolver.resolve(steering({"scope": scope}))
    assert resolved.applied[0].scope == written
    assert str(resolved.terms[0].scope) == written
    assert TermSpec.model_validate_json(resolved.terms[0].model_dump_json()) == resolved.terms[0]


def test_scopes_are_checked_against_the_prompt_before_the_engine_gets_them():
    def terms(*scopes):
        return [TermSpec(layer=3, direction="d" * 64, scope=scope) for scope in scopes]

    check_scopes(terms("all", "prompt[-4:]", "response[:2], response[4:6]"), 10, 4)
    for scope, reason in {
        "prompt[10:]": "selects no position: the prompt has 10 tokens",
        "response[-1]": "still being generated",
        "thinking[:]": "found in a text's tokens, which are not known here",
        "response[:2], response[4:6], response[8], prompt[0], prompt[4]": "5 terms act on layer 3",
    }.items():
        with pytest.raises(InvalidRequestError, match=reason) as caught:
            check_scopes(terms(scope), 10, 4)
        assert caught.value.param == "steering.terms"


def test_in_a_text_that_is_given_whole_selectors_count_inside_its_reply():
    places = Landmarks(response=(6, 10), thinking=(6, 8))
    named, reply, thought = placed(
        [
            TermSpec(layer=3, direction="d" * 64, scope=scope)
            for scope in ("generated", "response[-2:]", "thinking[1:]")
        ],
        places,
    )
    assert named.scope == "generated"
    assert reply.intervals(10) == [(8, 10, 1)]
    assert thought.intervals(10) == [(7, 8, 1)]


def test_position_scopes_travel_as_an_interval(resolver):
    resolved = resolver.resolve(steering({"scope": {"positions": [2, 9]}}))
    assert resolved.terms[0].scope == [2, 9]


@pytest.mark.parametrize(
    ("term", "message", "param"),
    [
        ({"vector": "nope"}, r"'nope'.*registered: flat, tone", "steering.terms[0].vector"),
        ({"layers": [6]}, r"6 is out of range: 0\.\.5", "steering.terms[0].layers"),
        (
            {"layers": [4]},
            r"4 is not in vector 'tone': its file has the layers 2\.\.3 \(chosen: 2\)",
            "steering.terms[0].layers",
        ),
        ({"layers": [2, 2]}, "twice", "steering.terms[0].layers"),
        (
            {"operation": "scale", "coefficient": 11.0},
            r"scale is 11; allowed: -10\.\.10",
            "steering.terms[0].coefficient",
        ),
        (
            {"operation": "rotate", "coefficient": -181.0},
            r"angle of rotate is -181; allowed: -180\.\.180",
            "steering.terms[0].coefficient",
        ),
        ({"operation": "replace", "coefficient": 21.0}, r"2\.1 .*at most 2", "steering.terms"),
        ({"coefficient": 21.0}, r"2\.1 .*at most 2", "steering.terms"),
        ({"coefficient": 1e308, "unit": "separation"}, "not a finite float32", "steering.terms[0].coefficient"),
        ({"coefficient": 1e-60}, "which is 0 in float32", "steering.terms[0].coefficient"),
        ({"vector": "flat", "unit": "separation"}, "which is 0 in float32", "steering.terms[0].coefficient"),
    ],
)
def test_refusals_name_value_range_and_field(resolver, term, message, param):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        resolver.resolve(steering(term))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("operation", "coefficient", "value", "dose"),
    [
        ("set", 3.0, 15.0, 0.3),
        ("floor", -3.0, -15.0, 0.3),
        ("ceiling", 1.0, 5.0, 0.1),
        ("replace", -20.0, -100.0, 2.0),
        ("rotate", 60.0, 60.0, 1.0),
        ("rotate", -180.0, -180.0, 2.0),
        ("scale", 0.5, 0.5, 0.0),
        ("ablate", 9.0, 0.0, 0.0),
    ],
)
def test_the_number_of_each_operation(resolver, operation, coefficient, value, dose):
    """A projection's value or limit in the unit asked for; a factor as it stands; none for ablate."""
    resolved = resolver.resolve(steering({"operation": operation, "coefficient": coefficient}))
    assert (resolved.terms[0].operation, resolved.terms[0].value) == (operation, pytest.approx(value))
    assert resolved.applied[0].relative_dose == pytest.approx(dose)


def test_an_operation_that_the_engine_lacks_is_refused(registry):
    old = resolver_of(registry, operations=("add",))
    with pytest.raises(InvalidRequestError, match=r"'ablate'.*available: add"):
        old.resolve(steering({"operation": "ablate"}))


def test_the_dose_limit_holds_for_the_sum_of_one_layers_terms(resolver):
    resolver.resolve(steering({"coefficient": 15.0, "layers": [2]}, {"coefficient": 15.0, "layers": [3]}))
    with pytest.raises(InvalidRequestError, match=r"layer 2 is 3 .*2 term"):
        resolver.resolve(steering({"coefficient": 15.0}, {"coefficient": -15.0}))


def test_more_terms_on_a_layer_than_the_engine_holds_are_refused(resolver):
    with pytest.raises(InvalidRequestError, match="3 terms act on layer 2; at most 2"):
        resolver.resolve(steering({}, {}, {}))


def test_what_the_term_asks_reaches_the_engine_and_the_report(resolver):
    asked = {"operation": "floor", "scope": "generated", "preserve_norm": True, "unit": "raw", "coefficient": 2.0}
    resolved = resolver.resolve(steering(asked))
    spec, applied = resolved.terms[0], resolved.applied[0]
    assert (spec.operation, spec.scope, spec.preserve_norm, spec.value) == ("floor", "generated", True, 2.0)
    assert (applied.operation, applied.scope, applied.unit, applied.coefficient) == ("floor", "generated", "raw", 2.0)


def test_the_report_holds_nothing_of_the_engines(resolver):
    applied = resolver.resolve(steering({})).applied[0]
    report = SteeringReport(applied=[applied], positions=SteeredPositions(prompt=1, generated=1))
    assert report.model_dump()["applied"][0].keys() == AppliedTerm.model_fields.keys()


def test_units_that_come_to_the_same_number_are_the_same_steering(resolver):
    dose = resolver.resolve(steering({"coefficient": 1.0}))
    raw = resolver.resolve(steering({"coefficient": 5.0, "unit": "raw"}))
    assert dose.terms == raw.terms


def test_an_unknown_vector_is_its_own_error(resolver):
    with pytest.raises(UnknownVectorError):
        resolver.resolve(steering({"vector": "sha256:" + "0" * 64}))


def test_the_total_dose_limit_holds_for_the_sum_over_layers(resolver):
    over_layers = steering({"coefficient": 5.0, "layers": [2, 3]})
    assert len(resolver.resolve(over_layers).terms) == 2
    assert len(replace(resolver, max_total_dose=1.0).resolve(over_layers).terms) == 2
    with pytest.raises(InvalidRequestError, match=r"add up to 1; allowed: at most 0\.9"):
        replace(resolver, max_total_dose=0.9).resolve(over_layers)


# ------------------------------------------------------------------------------------------------------------- gates


@pytest.mark.parametrize(
    ("when", "layer", "bound"),
    [
        ({"above": 0.5}, 2, 1.5),
        ({"above": 0.5, "centred": False}, 2, 0.5),
        ({"below": 0.5, "unit": "separation"}, 2, 3.0),
        ({"below": -0.5, "unit": "separation", "centred": False, "layer": 3}, 3, -2.0),
    ],
)
def test_a_gates_bound_comes_to_residual_units_with_the_centre_added(resolver, registry, when, layer, bound):
    """Separation 4, centre 1."""
    resolved = resolver.resolve(steering({"layers": [3], "when": {"vector": "tone", **when}}))
    (spec,), (applied,) = resolved.terms, resolved.applied
    file = registry.get("tone").file
    assert (spec.when.layer, spec.when.bound, spec.when.hold) == (layer, bound, "token")
    assert (spec.when.above is None) == ("below" in when)
    raw = resolved.directions[spec.when.direction]
    assert np.array_equal(np.frombuffer(raw, "<f4"), file.directions[layer])
    assert (applied.when.vector, applied.when.layer, applied.when.bound) == ("tone", layer, bound)
    assert resolved.vectors == {registry.get("tone").sha256}
    report = SteeringReport(applied=[applied], positions=SteeredPositions(prompt=1, generated=1)).model_dump()
    assert report["applied"][0]["when"].keys() == AppliedGate.model_fields.keys()


def test_a_gate_may_bring_its_own_vector(resolver):
    when = {"vector": INLINE, "layer": 1, "below": 2.5, "centred": False}
    resolved = resolver.resolve(steering({"layers": [2], "when": when}))
    (spec,), (applied,) = resolved.terms, resolved.applied
    assert (spec.when.layer, spec.when.below, applied.when.vector) == (1, 2.5, "inline")
    raw = np.eye(D_MODEL, dtype="<f4")[1].tobytes()
    assert resolved.directions[spec.when.direction] == raw
    assert applied.when.sha256 == sha256_of(raw)


def test_the_file_of_a_gates_vector_is_in_use_and_its_direction_goes_to_the_engine(resolver, registry):
    resolved = resolver.resolve(steering({"when": {"vector": "flat", "above": 1.0}}))
    assert resolved.vectors == {registry.get(name).sha256 for name in ("tone", "flat")}
    assert len(resolved.directions) == 2


@pytest.mark.parametrize(
    ("when", "message", "param"),
    [
        ({"vector": "nope", "above": 1.0}, "'nope'.*registered", "when.vector"),
        ({"layer": 3, "above": 1.0}, r"layer 3 is too late for resid_post of layer 2.*0\.\.2", "when.layer"),
        ({"layer": 1, "above": 1.0}, "layer 1 is not in vector 'tone'", "when.layer"),
        ({"vector": "flat", "above": 1.0, "unit": "separation"}, "a separation of 0", "when.unit"),
        ({"above": 1e300}, "not a finite float32", "when"),
        ({"vector": INLINE, "layer": 1, "above": 1.0}, "neither a centre.*set centred to false", "when.centred"),
        (
            {"vector": INLINE, "layer": 1, "above": 1.0, "centred": False, "unit": "separation"},
            "the unit raw",
            "when.unit",
        ),
        ({"vector": INLINE, "above": 1.0, "centred": False}, "has no layer of its own", "when.layer"),
    ],
)
def test_a_gate_that_cannot_be_read_is_refused(resolver, when, message, param):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        resolver.resolve(steering({"layers": [2], "when": {"vector": "tone", **when}}))
    assert caught.value.param == f"steering.terms[0].{param}"


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({}, "above or below"),
        ({"above": 1.0, "below": 2.0}, "not both"),
        ({"above": float("nan")}, "finite"),
        ({"above": 1.0, "hold": "once"}, "token"),
        ({"above": 1.0, "colour": "red"}, "colour|extra"),
    ],
)
def test_a_gate_of_another_form_is_refused(when, message):
    with pytest.raises(ValidationError, match=message):
        steering({"when": {"vector": "tone", **when}})


def test_more_gates_than_a_request_may_have_are_refused(registry):
    resolver = resolver_of(registry, terms_per_layer=16, max_relative_dose=99.0)
    terms = [{"when": {"vector": "tone", "above": float(i)}} for i in range(9)]
    assert len(resolver.resolve(steering(*terms[:8])).terms) == 8
    with pytest.raises(InvalidRequestError, match="9 different gates in one request; at most 8"):
        resolver.resolve(steering(*terms))


# ------------------------------------------------------------------------------------- inline vectors and subspaces


def inline(array, dtype="float32") -> dict:
    return inline_vector(array, dtype).model_dump()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_inline_vector_is_scaled_to_length_1_and_measured_by_the_models_residual_norms(resolver, dtype):
    array = np.arange(1.0, 1.0 + D_MODEL)
    (applied,) = resolver.resolve(steering({"vector": inline(array, dtype), "layers": [4], "coefficient": 3.0})).applied
    assert (applied.vector, applied.layer, applied.sha256) == ("inline", 4, f"sha256:{applied.direction}")
    assert applied.a == pytest.approx(0.3 * RESIDUAL_NORM)
    tolerance = {"float32": 1e-6, "float16": 1e-3}[dtype]
    np.testing.assert_allclose(np.frombuffer(applied.raw, "<f4"), array / np.linalg.norm(array), rtol=tolerance)


def test_an_inline_vector_of_numbers_at_the_edge_of_a_type_is_the_same_direction(resolver):
    array = np.arange(1.0, 1.0 + D_MODEL)
    directions = {
        resolver.resolve(steering({"vector": inline(scale * array), "layers": [1]})).applied[0].direction
        for scale in (1.0, 2.0**60, 2.0**-1000)
    }
    assert len(directions) == 1


def raw_inline(array) -> dict:
    return {"inline": base64.b64encode(np.asarray(array, "<f4").tobytes()).decode()}


@pytest.mark.parametrize(
    ("term", "message", "param"),
    [
        ({"vector": raw_inline([1.0] * 7)}, r"28 bytes, which is 7 float32 values; .* have 8", "vector.inline"),
        ({"vector": raw_inline([1.0] * 4) | {"dtype": "float16"}, "layers": None}, "give layers", "layers"),
        ({"vector": {"inline": "not base64!"}}, "not base64", "vector.inline"),
        ({"vector": raw_inline([0.0] * 8)}, "is zero", "vector.inline"),
        ({"vector": raw_inline([1.0] * 7 + [float("nan")])}, "not finite, at index 7", "vector.inline"),
        ({"vector": raw_inline([1.0] * 8), "layers": None}, r"give layers, such as \[3\] \(0\.\.5\)", "layers"),
        ({"vector": raw_inline([1.0] * 8), "unit": "separation"}, "no separation.*dose or raw", "unit"),
        (
            {"vector": ["tone", "flat"], "operation": "add"},
            "a subspace, which goes with the operation ablate",
            "vector",
        ),
        ({"vector": ["tone", "tone"], "operation": "ablate", "layers": [2]}, "'tone'.*lies in the span", "vector[1]"),
        (
            {"vector": ["tone", "deep"], "operation": "ablate", "layers": None},
            r"'tone' 2, 'deep' 4.*give layers",
            "layers",
        ),
    ],
)
def test_a_given_vector_that_cannot_be_used_is_refused(resolver, registry, make_vector, term, message, param):
    registry.put("deep", make_vector(seed=2, layers=(4,)).to_bytes())
    with pytest.raises(InvalidRequestError, match=message) as caught:
        resolver.resolve(steering({"layers": [2]} | term))
    assert caught.value.param == f"steering.terms[0].{param}"


@pytest.mark.parametrize(
    "vector", [{"inline": "AAAA", "dtype": "float64"}, {"inline": "AAAA", "more": 1}, [], ["tone"] * 17, [["tone"]], 3]
)
def test_a_vector_of_another_form_is_refused_with_its_field(vector):
    with pytest.raises(ValidationError) as caught:
        steering({"vector": vector})
    assert str(first_fault(caught.value)).startswith("terms.0.vector")


def test_the_vectors_of_a_subspace_become_orthonormal_directions_that_span_it(registry):
    vectors = ["tone", inline(np.ones(D_MODEL)), "flat"]
    applied = (
        resolver_of(registry)
        .resolve(steering({"vector": vectors, "operation": "ablate", "layers": [2]}, {"layers": [3]}))
        .applied
    )
    assert [(term.vector, term.layer) for term in applied] == [("tone", 2), ("inline", 2), ("flat", 2), ("tone", 3)]
    basis = np.stack([np.frombuffer(term.raw, "<f4") for term in applied[:3]]).astype(np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-6)
    tone, flat = (registry.get(name).file.directions[2].astype(np.float64) for name in ("tone", "flat"))
    np.testing.assert_allclose(basis[0], tone, atol=1e-7)
    for given in (tone, np.ones(D_MODEL) / np.sqrt(D_MODEL), flat):
        np.testing.assert_allclose(basis.T @ (basis @ given), given, atol=1e-6)
    assert basis[2] @ flat > 0


def test_a_subspace_counts_as_its_directions_against_the_terms_of_a_layer(registry):
    vectors = [inline(row) for row in np.eye(D_MODEL)[:3]]
    with pytest.raises(InvalidRequestError, match="3 terms act on layer 2; at most 2"):
        resolver_of(registry, terms_per_layer=2).resolve(
            steering({"vector": vectors, "operation": "ablate", "layers": [2]})
        )


@pytest.fixture
def with_branches(registry, make_vector):
    """A resolver of an engine with every hook point, and a vector for `mlp_out`."""
    registry.put("mlp", make_vector(seed=2, hook_point="mlp_out").to_bytes())
    return resolver_of(registry, terms_per_layer=2, hook_points=("resid_post", "attn_out", "mlp_out"))


def test_a_term_acts_where_its_vector_is_for_and_an_inline_vector_where_the_term_says(with_branches):
    terms = ({}, {"vector": "mlp"}, {"vector": inline(np.ones(D_MODEL)), "layers": [2], "at": "attn_out"})
    resolved = with_branches.resolve(steering(*terms))
    places = ["resid_post", "mlp_out", "attn_out"]
    assert [term.at for term in resolved.terms] == [term.at for term in resolved.applied] == places
    report = SteeringReport(applied=resolved.applied, positions=SteeredPositions(prompt=1, generated=0))
    assert [term["at"] for term in report.model_dump()["applied"]] == places


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"at": "mlp_out"}, "the vector 'tone' is for resid_post, and mlp_out is asked for: leave `at` out"),
        ({"vector": "mlp", "at": "resid_post"}, "the vector 'mlp' is for mlp_out, and resid_post is asked for"),
        (
            {"vector": ["tone", "mlp"], "operation": "ablate"},
            "'mlp' is for mlp_out, and resid_post is that of the one before",
        ),
    ],
)
def test_a_vector_is_refused_at_another_place_than_its_own(with_branches, term, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        with_branches.resolve(steering(term))
    assert caught.value.param == "steering.terms[0].at"


def test_a_hook_point_that_the_engine_lacks_is_refused_with_the_option(with_branches):
    resolver = replace(with_branches, hook_points=("resid_post", "attn_out"))
    for term in ({"vector": "mlp"}, {"vector": inline(np.ones(D_MODEL)), "layers": [2], "at": "mlp_out"}):
        with pytest.raises(
            InvalidRequestError, match="no hook point mlp_out: start the service with --hook-points mlp_out"
        ):
            resolver.resolve(steering(term))


def test_places_of_a_layer_share_its_dose_and_have_their_own_terms(with_branches):
    vector = inline(np.ones(D_MODEL))
    terms = [{"vector": vector, "layers": [2], "at": at} for at in ("attn_out", "mlp_out", "resid_post")] * 2
    assert len(with_branches.resolve(steering(*terms)).terms) == 6
    with pytest.raises(InvalidRequestError, match="3 terms act on attn_out of layer 2; at most 2"):
        with_branches.resolve(steering(*terms, terms[0]))
    with pytest.raises(InvalidRequestError, match=r"the relative dose on layer 2 is 2\.4"):
        with_branches.resolve(steering(*({**term, "coefficient": 8.0} for term in terms[:3])))
