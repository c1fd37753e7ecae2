"""Chat and text completions: typed replies, and the event stream. No I/O; requests are built in `chat_requests`.

A reply to a steered or monitored request carries the service's report. Without one the request fails: otherwise the text of
a server that ignores the fields (a plain vLLM) would look steered.
"""

from collections.abc import Iterator

from pydantic import Field, ValidationError

from trait_client.http.report_check import Expected
from trait_core.errors import ServiceError
from trait_core.schema import ErrorBody, MonitorReport, Response, SteeringReport


class Usage(Response):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class TopLogprob(Response):
    """One candidate for a position."""

    token: str
    logprob: float


class TokenLogprob(Response):
    """A generated token, its log-probability in nats, and the other candidates."""

    token: str
    logprob: float
    top_logprobs: list[TopLogprob] = Field(default_factory=list)


class Choice(Response):
    """One of `n` replies.

    Attributes:
        reasoning: The reasoning before `text`, if the server keeps it apart (vLLM's `--reasoning-parser`).
        token_ids: Its tokens, and `prompt_token_ids` the prompt's, of a completion that asked for them.
    """

    index: int
    text: str
    finish_reason: str | None
    logprobs: list[TokenLogprob] | None = None
    reasoning: str | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class ChatResult(Response):
    """A finished request. `text`, `reasoning`, `finish_reason` and `logprobs` are those of the first choice."""

    id: str
    model: str
    choices: list[Choice] = Field(min_length=1)
    usage: Usage
    steering: SteeringReport | None = None
    monitor: MonitorReport | None = None

    @property
    def text(self) -> str:
        """The first reply."""
        return self.choices[0].text

    @property
    def reasoning(self) -> str | None:
        """The reasoning before the first reply, if the server keeps it apart."""
        return self.choices[0].reasoning

    @property
    def finish_reason(self) -> str | None:
        """`stop`, `length`, ..."""
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        """Log-probabilities of the first reply's tokens, if requested."""
        return self.choices[0].logprobs


class ChatDelta(Response):
    """A piece of a streamed reply or of its reasoning, with the projections of its tokens if they are monitored.

    The last ones carry `usage` and, when steered, `steering`.
    """

    text: str = ""
    reasoning: str | None = None
    finish_reason: str | None = None
    logprobs: list[TokenLogprob] | None = None
    usage: Usage | None = None
    steering: SteeringReport | None = None
    monitor: MonitorReport | None = None


# ---------------------------------------------------------------------------------------------------- replies


class _ChatLogprobs(Response):
    content: list[TokenLogprob] | None = None


class _ChatMessage(Response):
    content: str | None = None
    reasoning: str | None = None


class _ChatChoice(Response):
    index: int
    message: _ChatMessage
    finish_reason: str | None = None
    logprobs: _ChatLogprobs | None = None


class _ChatCompletion(Response):
    id: str
    model: str
    choices: list[_ChatChoice]
    usage: Usage
    steering: SteeringReport | None = None
    monitor: MonitorReport | None = None


class _TextLogprobs(Response):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None = None


class _TextChoice(Response):
    index: int
    text: str
    finish_reason: str | None = None
    logprobs: _TextLogprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class _TextCompletion(Response):
    id: str
    model: str
    choices: list[_TextChoice]
    usage: Usage
    steering: SteeringReport | None = None
    monitor: MonitorReport | None = None


def read_chat(data: bytes, expected: Expected) -> ChatResult:
    """Read the answer of `POST /v1/chat/completions`.

    Raises:
        SteeringFailedError: A report was requested and the answer has none.
    """
    wire = _ChatCompletion.model_validate_json(data)
    expected.check_against(wire.steering, wire.monitor)
    choices = [
        Choice(
            index=choice.index,
            text=choice.message.content or "",
            finish_reason=choice.finish_reason,
            logprobs=choice.logprobs.content if choice.logprobs else None,
            reasoning=choice.message.reasoning,
        )
        for choice in wire.choices
    ]
    return ChatResult(
        id=wire.id, model=wire.model, choices=choices, usage=wire.usage, steering=wire.steering, monitor=wire.monitor
    )


def read_completion(data: bytes, expected: Expected) -> ChatResult:
    """Read the answer of `POST /v1/completions`.

    Raises:
        SteeringFailedError: A report was requested and the answer has none.
    """
    wire = _TextCompletion.model_validate_json(data)
    expected.check_against(wire.steering, wire.monitor)
    choices = [
        Choice(
            index=choice.index,
            text=choice.text,
            finish_reason=choice.finish_reason,
            logprobs=_text_logprobs(choice.logprobs) if choice.logprobs else None,
            token_ids=choice.token_ids,
            prompt_token_ids=choice.prompt_token_ids,
        )
        for choice in wire.choices
    ]
    return ChatResult(
        id=wire.id, model=wire.model, choices=choices, usage=wire.usage, steering=wire.steering, monitor=wire.monitor
    )


def _text_logprobs(wire: _TextLogprobs) -> list[TokenLogprob]:
    tops = wire.top_logprobs or [None] * len(wire.tokens)
    return [
        TokenLogprob(
            token=token,
            logprob=logprob,
            top_logprobs=[TopLogprob(token=t, logprob=p) for t, p in (top or {}).items()],
        )
        for token, logprob, top in zip(wire.tokens, wire.token_logprobs, tops, strict=True)
        if logprob is not None  # an echoed prompt's first token has none
    ]


# ---------------------------------------------------------------------------------------------------- event stream


class _StreamChoice(Response):
    delta: _ChatMessage
    finish_reason: str | None = None
    logprobs: _ChatLogprobs | None = None


class _StreamChunk(Response):
    choices: list[_StreamChoice] = Field(default_factory=list)
    usage: Usage | None = None
    steering: SteeringReport | None = None
    monitor: MonitorReport | None = None


class ReplyStream:
    """Reader of the server-sent events of one streamed chat reply: `feed` bytes as they arrive, then `finish`.

    Lines are split on bytes: a str splitter would also break a chunk at U+2028 or U+0085 inside the generated text.
    """

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._buffer = b""
        self._data: list[bytes] = []
        self._report: SteeringReport | None = None
        self._monitor: MonitorReport | None = None
        self._done = False

    def feed(self, data: bytes) -> Iterator[ChatDelta]:
        """Yield the deltas that `data` completes.

        Raises:
            ServiceError: The service reports an error in the stream.
        """
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            text = line.rstrip(b"\r")
            if text.startswith(b"data:"):
                self._data.append(text[5:].removeprefix(b" "))
            elif not text and self._data:
                event, self._data = b"\n".join(self._data), []
                delta = self._delta(event)
                if delta is not None:
                    yield delta

    def finish(self) -> None:
        """Check that the reply is complete.

        Raises:
            ServiceError: The stream broke off before its end.
            SteeringFailedError: A report was requested and the stream had none.
        """
        if not self._done:
            raise ServiceError("the stream broke off before its end: the reply is incomplete. Send the request again")
        self._expected.check_against(self._report, self._monitor)

    def _delta(self, event: bytes) -> ChatDelta | None:
        if event == b"[DONE]":
            self._done = True
            return None
        _raise_stream_error(event)
        try:
            chunk = _StreamChunk.model_validate_json(event)
        except ValidationError as error:
            raise ServiceError(f"a chunk of the stream is not understood: {event[:200]!r}") from error
        self._report = chunk.steering or self._report
        self._monitor = chunk.monitor or self._monitor
        delta = ChatDelta(usage=chunk.usage, steering=chunk.steering, monitor=chunk.monitor)
        if chunk.choices:
            choice = chunk.choices[0]
            delta.text = choice.delta.content or ""
            delta.reasoning = choice.delta.reasoning
            delta.finish_reason = choice.finish_reason
            delta.logprobs = choice.logprobs.content if choice.logprobs else None
        return delta if delta != ChatDelta() else None


def _raise_stream_error(event: bytes) -> None:
    if b'"error"' not in event:
        return
    try:
        detail = ErrorBody.model_validate_json(event).error
    except ValidationError:  # a chunk whose text contains the word
        return
    raise ServiceError(detail.message, status=detail.code if isinstance(detail.code, int) else None, param=detail.param)
