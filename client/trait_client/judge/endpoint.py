"""One OpenAI-compatible endpoint: requests in flight, retries, and reading of answers."""

import asyncio
import itertools
import logging
from dataclasses import dataclass

import httpx
from pydantic import Field, ValidationError

from trait_client import __version__
from trait_client.http.answers import error_detail, retry_after
from trait_client.http.chat_requests import json_bytes
from trait_client.http.replies import TokenLogprob
from trait_client.http.settings import RetryPolicy
from trait_client.judge.budget import Budget
from trait_client.judge.config import JudgeConfig
from trait_client.judge.fields import RequestFields
from trait_client.judge.judgement import JudgeEndpointError
from trait_client.judge.weighting import without_thoughts
from trait_core.addresses import is_loopback
from trait_core.errors import first_fault
from trait_core.schema import Response

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
MAX_ANSWER_BYTES = 4_000_000
CHARACTERS_A_TOKEN = 3
"""Used to estimate a prompt's tokens. English has about four, so the estimate is rather high."""

_PASSING_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


# Not `http.replies.read_chat`, which demands what our service always sends (id, model, index, usage): other endpoints omit it.
class _Logprobs(Response):
    content: list[TokenLogprob] | None = None


class _Message(Response):
    content: str | None = None


class _Choice(Response):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(Response):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Body(Response):
    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


@dataclass(frozen=True)
class JudgeAnswer:
    """An endpoint's answer.

    Attributes:
        text: Text of the message.
        tokens: Its tokens with their candidates; empty if the endpoint gives none.
        prompt_tokens: Tokens of the prompt; None if the endpoint does not say.
        completion_tokens: Tokens of the answer; None if the endpoint does not say.
        cut: The answer ended at the limit of its tokens.
    """

    text: str
    tokens: list[TokenLogprob]
    prompt_tokens: int | None
    completion_tokens: int | None
    cut: bool


class _PassingError(Exception):
    """A temporary failure: a retry may succeed."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class _FieldRefusedError(Exception):
    """The endpoint refuses a field of the request that can be renamed or left out."""

    def __init__(self, tried: RequestFields, instead: RequestFields) -> None:
        super().__init__()
        self.tried = tried
        self.instead = instead


class Endpoint:
    """Sends chat requests, at most `config.concurrency` at once, and none after too many failures in a row.

    Args:
        config: The judge.
        api_key: Bearer token; None sends none. It is removed from the endpoint's messages.
        budget: Counts every request, retries included.
    """

    def __init__(self, config: JudgeConfig, api_key: str | None, budget: Budget) -> None:
        self._config = config
        self._budget = budget
        self._retry = RetryPolicy(config.retries, first_pause=config.retry_pause)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._api_key = api_key
        self._resume_at = 0.0
        self._failed_in_a_row = 0
        self._gone: JudgeEndpointError | None = None
        self._fields = config.request_fields
        headers = {"user-agent": f"trait-client/{__version__}", "content-type": "application/json"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(config.timeout, connect=min(config.timeout, CONNECT_TIMEOUT), pool=None),
            limits=httpx.Limits(max_connections=config.concurrency),
            follow_redirects=False,  # the key goes to the given address only
            trust_env=not is_loopback(config.url),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, messages: list[dict[str, str]], temperature: float = 0.0) -> JudgeAnswer:
        """Request one chat completion.

        Raises:
            JudgeEndpointError: No usable answer after all retries, or the judge was given up before.
            JudgeBudgetError: The budget is used up.
        """
        config = self._config
        estimate = sum(len(message["content"]) for message in messages) // CHARACTERS_A_TOKEN + config.max_answer_tokens
        try:
            answer = await self._adapt(messages, temperature, estimate)
            self._check_whole(answer)
        except JudgeEndpointError as error:
            self._failed_in_a_row += 1
            if self._gone is None and (error.final or self._failed_in_a_row >= config.give_up_after):
                logger.warning("the judge is given up after %d failures in a row: %s", self._failed_in_a_row, error)
                self._gone = JudgeEndpointError(f"the judge was given up: {error}", final=True)
            raise
        self._failed_in_a_row = 0
        return answer

    def _check_whole(self, answer: JudgeAnswer) -> None:
        """Refuse an empty answer of full length. Some endpoints do not show the thoughts that took its place.

        Raises:
            JudgeEndpointError: The answer was cut before it began.
        """
        if not answer.cut or answer.text.strip():
            return
        limit = self._config.max_answer_tokens
        raise JudgeEndpointError(
            f"the judge was cut while thinking: its {answer.completion_tokens or limit} tokens hold no answer. Raise "
            f"max_answer_tokens (now {limit}; thinking takes hundreds or thousands), or turn thinking off, for example with "
            'extra = {chat_template_kwargs = {enable_thinking = false}} or extra = {reasoning_effort = "none"}'
        )

    async def _adapt(self, messages: list[dict[str, str]], temperature: float, estimate: int) -> JudgeAnswer:
        """Ask, and ask again with the fields that the endpoint takes; all later questions are sent with them."""
        while True:
            try:
                return await self._repeat(messages, temperature, estimate)
            except _FieldRefusedError as refused:
                if self._fields == refused.tried:  # else another question has met the refusal before
                    logger.warning("the judge refuses a field of the request; from now on: %s", refused.instead)
                    self._fields = refused.instead

    def _body(self, messages: list[dict[str, str]], temperature: float) -> bytes:
        config = self._config
        values = {
            "temperature": temperature,
            "max_tokens": config.max_answer_tokens,
            "logprobs": True,
            "top_logprobs": config.top_logprobs,
        }
        return json_bytes({"model": config.model, "messages": messages, **self._fields.written(values), **config.extra})

    async def _repeat(self, messages: list[dict[str, str]], temperature: float, estimate: int) -> JudgeAnswer:
        for attempt in itertools.count():
            try:
                return await self._attempt(messages, temperature, estimate)
            except _PassingError as error:
                pause = self._retry.pause(attempt, error.wait)
                if pause is None:
                    raise JudgeEndpointError(f"{error} ({attempt + 1} attempts)") from error
                if error.wait is not None:  # the limit holds for the key: other requests wait too
                    self._resume_at = max(self._resume_at, _now() + error.wait)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def _attempt(self, messages: list[dict[str, str]], temperature: float, estimate: int) -> JudgeAnswer:
        async with self._slots:
            while (wait := self._resume_at - _now()) > 0:  # noqa: ASYNC110 - it may be moved while we wait
                await asyncio.sleep(wait)
            if self._gone is not None:  # given up while this request waited
                raise self._gone
            self._budget.reserve(estimate)
            fields = self._fields
            answer = self._read(await self._send(self._body(messages, temperature)), fields)
        if answer.prompt_tokens is not None:
            self._budget.settle(estimate, answer.prompt_tokens + (answer.completion_tokens or 0))
        return answer

    async def _send(self, content: bytes) -> httpx.Response:
        """Send a request and read the whole answer within the time-out; httpx's time-out restarts with each chunk.

        Raises:
            _PassingError: No answer came.
        """
        url = f"{self._config.url}/chat/completions"
        try:
            async with asyncio.timeout(self._config.timeout):
                request = self._http.build_request("POST", url, content=content)
                response = await self._http.send(request, stream=True)
                try:
                    data = await _body_of(response)
                finally:
                    await response.aclose()
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _PassingError(f"the judge did not answer within {self._config.timeout:g} s") from error
        except httpx.RequestError as error:
            raise _PassingError(f"the judge cannot be reached ({str(error) or type(error).__name__})") from error
        # The content is decoded already and must not be decoded again.
        headers = [(k, v) for k, v in response.headers.items() if k not in {"content-encoding", "content-length"}]
        return httpx.Response(response.status_code, headers=headers, content=data, request=request)

    def _read(self, response: httpx.Response, fields: RequestFields) -> JudgeAnswer:
        status = response.status_code
        if not response.is_success:
            raise self._refusal(response, fields)
        try:
            body = _Body.model_validate_json(response.content)
        except ValidationError as error:
            raise _PassingError(
                f"the judge's answer ({status}) is not a chat completion: {first_fault(error, whole='body')}"
            ) from error
        choice, usage = body.choices[0], body.usage or _Usage()
        tokens = (choice.logprobs.content if choice.logprobs else None) or []
        text, tokens = without_thoughts(choice.message.content or "", tokens)
        return JudgeAnswer(
            text=text,
            tokens=tokens,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cut=choice.finish_reason == "length",
        )

    def _refusal(self, response: httpx.Response, fields: RequestFields) -> Exception:
        status = response.status_code
        message, param = error_detail(response)
        message = " ".join(message.split())[:300]
        if self._api_key:
            message = message.replace(self._api_key, "***")
        if status in _PASSING_STATUSES:
            return _PassingError(f"the judge answered {status} {message}", retry_after(response))
        if (instead := fields.after(status, message, param)) is not None:
            return _FieldRefusedError(fields, instead)
        if status in {401, 403}:
            variable = self._config.api_key_env
            what = f"the key in {variable}" if variable else "a request without a key: set api_key_env"
            return JudgeEndpointError(f"the judge refuses {what} ({status} {message})", final=True)
        if status in {404, 405} or response.is_redirect:
            return JudgeEndpointError(
                f"{self._config.url} has no chat completions of model {self._config.model!r} ({status} {message})",
                final=True,
            )
        return JudgeEndpointError(f"the judge refuses the request ({status} {message}){fields.hint(message)}")


async def _body_of(response: httpx.Response) -> bytes:
    data = bytearray()
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) > MAX_ANSWER_BYTES:
            raise JudgeEndpointError(f"the judge's answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(data)


def _now() -> float:
    return asyncio.get_running_loop().time()
