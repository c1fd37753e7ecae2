"""Every field of a request that asks for steering is read, or refused with the form that steers."""

import pytest
from trait_core.errors import InvalidRequestError
from trait_service.errors import NotServedError
from trait_service.resolving.request_fields import READ_BY, check_request_fields

STEERING = {"terms": [{"vector": "tone", "coefficient": 1.0}]}
CHAT, ACTIVATIONS, RESPONSES = "/v1/chat/completions", "/v1/activations", "/v1/responses"
OTHERS = [
    "/v1/responses", "/v1/messages", "/inference/v1/generate", "/generative_scoring", "/v1/systemone", "/invocations",
    "/v1/chat/completions/batch", "/v1/audio/transcriptions", "/tokenize",
]  # fmt: skip


def refusal(path: str, document: dict, served: tuple[str, ...] = ()) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        check_request_fields(path, document, served)
    return caught.value


@pytest.mark.parametrize(
    "name",
    [
        "steering_vectors", "steer_vector_request", "apply_steering_vectors", "prefill_steering_vectors", "Steering",
        "STEER", "steeringConfig", "x-steer", "steerng", "stering", "stearing", "steering ", "control_vectors",
        "interventions",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [*READ_BY, RESPONSES])
@pytest.mark.parametrize("value", [STEERING, "x", False])
def test_a_name_that_asks_for_steering_is_refused_with_the_form_that_steers(path, name, value):
    error = refusal(path, {"messages": [], name: value})
    assert error.param == name
    assert '"steering": {"terms": [{"vector": "NAME", "coefficient": 3}]}' in str(error)


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({"extra_body": {"steering": STEERING}}, "extra_body.steering"),
        ({"extra_body": {"steer_vector_request": {}}}, "extra_body.steer_vector_request"),
        ({"extra_body": {"extra_body": {"steering": STEERING}}}, "extra_body.extra_body.steering"),
        ({"extra_body": [{"Steering": STEERING}]}, "extra_body.Steering"),
        ({"extra_body": '{"steering": {}}'}, "extra_body"),
        ({"extra_body": {"custom": {"steering": STEERING}}}, "extra_body.steering"),
        ({"vllm_xargs": {"steering": "{}"}}, "vllm_xargs.steering"),
        ({"vllm_xargs": {"apply_steering_vectors": "[]"}}, "vllm_xargs.apply_steering_vectors"),
        ({"extra_args": {"steering_vectors": [1]}}, "extra_args.steering_vectors"),
        ({"sampling_params": {"steering": STEERING}}, "sampling_params.steering"),
        ({"sampling_params": {"extra_args": {"steering": STEERING}}}, "sampling_params.extra_args.steering"),
        ({"model_kwargs": {"steering": STEERING}}, "model_kwargs.steering"),
        ({"extraBody": {"steering": STEERING}}, "extraBody.steering"),
        ({"parameters": {"steering": STEERING}}, "parameters.steering"),
        ({"options": {"steering": STEERING}}, "options.steering"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, ACTIVATIONS, RESPONSES])
def test_steering_in_a_place_where_it_would_be_ignored_is_refused(path, document, param):
    error = refusal(path, document)
    assert error.param == param
    assert '"steering": {"terms"' in str(error)
    assert "at the top level" in str(error)


def test_the_literal_extra_body_is_told_whose_argument_it_is():
    assert "OpenAI's Python client" in str(refusal(CHAT, {"extra_body": {"steering": STEERING}}))


@pytest.mark.parametrize(
    ("path", "document", "words"),
    [
        (CHAT, {"capture": {}}, "POST /v1/activations"),
        (CHAT, {"extra_body": {"capture": {}}}, "POST /v1/activations"),
        (CHAT, {"extra_body": {"monitor": {}}}, '"monitor": {"vectors"'),
        (CHAT, {"montor": {}}, "did you mean 'monitor'"),
        (CHAT, {"steerng": {}}, "did you mean 'steering'"),
        (ACTIVATIONS, {"monitor": {}}, "this route does not read 'monitor'"),
        (RESPONSES, {"monitor": {}}, "/v1/completions"),
        (RESPONSES, {"steering": STEERING}, "would be ignored"),
        (CHAT, {"vllm_xargs": {"trait_steering": "{}"}}, "reserved"),
        (CHAT, {"sampling_params": {"extra_args": {"trait_steering": "{}"}}}, "reserved"),
    ],
)
def test_the_message_says_where_it_goes(path, document, words):
    assert words in str(refusal(path, document))


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", ACTIVATIONS, RESPONSES])
@pytest.mark.parametrize(
    "document",
    [
        {"tools": [{"function": {"name": "steer", "parameters": {"properties": {"steering_angle": {}}}}}]},
        {"messages": [{"role": "user", "content": '"steering": 1', "steering": 1}], "prompt": "steering"},
        {"metadata": {"steering": "x", "steering_vectors": "y"}},
        {"response_format": {"json_schema": {"schema": {"properties": {"steering": {}}}}}},
        {"structured_outputs": {"json": {"properties": {"steer": {}}}}},
        {"sampling_params": {"structured_outputs": {"json": {"properties": {"steering": {}}}}, "seed": 1}},
        {"chat_template_kwargs": {"steering_wheel": True}},
        {"extra_body": {"metadata": {"steering": "x"}, "top_k": 5}},
        {"vllm_xargs": {"note": "steering"}},
        {"options": "steer left", "parameters": {"seed": 1}},
        {"steering": None, "monitor": None, "extra_body": {"steering": None}, "vllm_xargs": None},
        {"stream": True, "stream_options": {}, "seed": 1, "stop": "steering"},
    ],
)
def test_contents_may_hold_any_word(path, document):
    check_request_fields(path, document)


def test_the_fields_of_a_steered_request_pass():
    check_request_fields(CHAT, {"steering": STEERING, "monitor": {"vectors": ["tone"]}})
    check_request_fields(ACTIVATIONS, {"steering": STEERING, "before_steering": True})


@pytest.mark.parametrize("path", OTHERS)
@pytest.mark.parametrize("model", ["m+tone@1", "m+tone", "m + tone @ 1", "m+tone@x", "other+tone@1"])
def test_a_route_that_does_not_steer_serves_no_alias(path, model):
    """404 as for any model that is not served."""
    with pytest.raises(NotServedError):
        check_request_fields(path, {"model": model}, ("m",))
    check_request_fields(path, {"model": "m"}, ("m", "m+lora"))
    check_request_fields(path, {"model": "m+lora"}, ("m", "m+lora"))
