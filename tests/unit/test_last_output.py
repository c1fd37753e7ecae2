"""The finished output of a request that is read whole: an aborted one is a 503, not a result that is cut short."""

import asyncio

import pytest
from trait_service.engine_link.engine_client import last_output
from trait_service.errors import AbortedError, SteeringFailedError
from vllm.outputs import CompletionOutput, RequestOutput


def output(finish_reason):
    completion = CompletionOutput(0, "", [], None, None, finish_reason=finish_reason)
    return RequestOutput("r", None, [1], None, [completion], finished=finish_reason is not None)


def last(*outputs):
    async def each():
        for one in outputs:
            yield one

    return asyncio.run(last_output(each()))


def test_the_last_output_is_the_finished_one():
    assert last(output(None), output("length")).outputs[0].finish_reason == "length"


def test_an_aborted_request_has_no_output():
    with pytest.raises(AbortedError, match="aborted before it was finished; send it again"):
        last(output(None), output("abort"))


@pytest.mark.parametrize("outputs", [(), (output(None),)])
def test_an_engine_that_ends_early_is_a_failure(outputs):
    with pytest.raises(SteeringFailedError, match="without an output"):
        last(*outputs)
