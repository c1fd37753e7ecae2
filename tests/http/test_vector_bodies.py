"""JSON bodies of `PUT /v1/vectors/NAME`: a pointer, or a file for balancers that let only JSON through."""

import base64
import json

import pytest

pytest.importorskip("vllm")

from trait_core.errors import InvalidRequestError
from trait_core.schema import VectorPointer, VectorUpload
from trait_core.storage import sha256_of
from trait_service.http.routes.vectors import read_json

DATA = bytes(range(256))
UPLOAD = {"file": base64.b64encode(DATA).decode(), "sha256": sha256_of(DATA)}


def test_a_body_with_a_file_is_an_upload():
    body = read_json(json.dumps(UPLOAD).encode())
    assert isinstance(body, VectorUpload)
    assert (body.file, body.sha256, body.allow_other_model) == (DATA, sha256_of(DATA), False)


def test_a_pointer_to_a_vector_that_is_called_file_is_a_pointer():
    assert read_json(b'{"vector": "file"}') == VectorPointer(vector="file")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"safetensors", "the body is not JSON"),
        (b"[]", "Send {"),
        (b"{}", "vector: Field required"),
        (json.dumps(UPLOAD | {"file": "A"}).encode(), "file: "),
        (json.dumps({"file": UPLOAD["file"]}).encode(), "sha256: Field required"),
        (json.dumps(UPLOAD | {"sha256": "abc"}).encode(), "sha256: "),
        (json.dumps(UPLOAD | {"vector": "x"}).encode(), "vector: Extra inputs are not permitted"),
    ],
)
def test_another_body_is_refused_with_what_to_send(body, message):
    with pytest.raises(InvalidRequestError, match=message):
        read_json(body)
