"""Whose fault an error is that nobody expected, and what its answer says."""

import asyncio
import json

import pytest
from trait_service.access import admission
from trait_service.errors import error_response
from trait_service.http.bad_request import bad_request_response


def answer(cause, claimed):
    """Status and message of the answer to the error that `cause` raises, in a request with so many completions claimed."""

    async def respond():
        admission._claim.set(admission._Claim(max_n=4, max_completions=8, claimed=claimed))
        try:
            cause()
        except (AttributeError, LookupError) as error:
            return await bad_request_response(None, error)

    response = asyncio.run(respond())
    return response.status_code, json.loads(response.body)["error"]["message"]


@pytest.mark.parametrize("cause", [lambda: [].get("x"), [].pop, lambda: {}["x"]])
def test_an_error_before_the_engine_was_asked_is_the_senders(cause):
    status, message = answer(cause, claimed=0)
    assert (status, "cannot be read" in message) == (400, True)


def test_an_error_after_the_engine_was_asked_is_the_servers():
    assert answer([].pop, claimed=1) == (500, "IndexError: pop from empty list")


def test_an_error_in_our_own_code_is_the_servers():
    status, message = answer(lambda: error_response(None, 400), claimed=0)
    assert status == 500
    assert "NoneType" in message
