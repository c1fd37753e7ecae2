"""From worker to scheduler: the requests that one step has failed or must end.

They travel as an attribute of the step's `ModelRunnerOutput`. With asynchronous scheduling that output is made when the
device has finished the step, so that this is known without waiting in the step itself.
"""

from collections.abc import Callable
from typing import Any

from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput

from trait_service.engine.step_end import StepVerdict

_ATTRIBUTE = "trait_verdict"


def verdict_of(output: ModelRunnerOutput) -> StepVerdict:
    """The verdict that a worker attached to its output; an empty one if there is none."""
    verdict: StepVerdict = vars(output).get(_ATTRIBUTE) or StepVerdict()
    return verdict


def with_verdict(output: Any, verdict: Callable[[], StepVerdict]) -> Any:
    """Attach a step's verdict to a runner's output, now or once the output is ready.

    Args:
        output: Answer of a runner's `sample_tokens`.
        verdict: Waits for the step's projections if it depends on them.
    """
    if isinstance(output, AsyncModelRunnerOutput):
        return _LateOutput(output, verdict)
    if isinstance(output, ModelRunnerOutput):
        _attach(output, verdict())
    return output


class _LateOutput(AsyncModelRunnerOutput):  # type: ignore[misc]
    """An asynchronous output that gets its verdict when it is read."""

    def __init__(self, output: AsyncModelRunnerOutput, verdict: Callable[[], StepVerdict]) -> None:
        self._output = output
        self._verdict = verdict

    def get_output(self) -> ModelRunnerOutput:
        """Wait for vLLM's output and for the verdict."""
        output = self._output.get_output()
        _attach(output, self._verdict())
        return output

    def get_kv_connector_output(self) -> Any:
        """Answer of vLLM's own output; vLLM asks for it from 0.33 on."""
        own: Any = self._output
        return own.get_kv_connector_output()


def _attach(output: ModelRunnerOutput, verdict: StepVerdict) -> None:
    if verdict:
        setattr(output, _ATTRIBUTE, verdict)
