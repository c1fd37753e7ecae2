"""The table `[judge]` of an experiment: the model, how it is asked, and limits.

::

    [judge]
    url = "https://api.example.com/v1"
    model = "some-model"
    api_key_env = "JUDGE_API_KEY"        # the *name* of a variable; the key itself is never stored
    fields = {max_tokens = "max_completion_tokens", temperature = false}    # names at the endpoint; false leaves one out
    concurrency = 8
    max_calls = 5000
"""

import os
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trait_client.judge.fields import NAMES, RequestFields
from trait_client.judge.rubric import Rubric
from trait_core.addresses import fits_header, is_http_url
from trait_core.errors import InvalidRequestError
from trait_core.model_identity import digest

PROTOCOL = "1"
"""Increment it when the wording of the question or the arithmetic of the score changes: everything is judged again."""

_RESERVED = frozenset({"model", "messages", "stream", "n"})

Scale = Literal["percent", "digit"]


class JudgeConfig(BaseModel):
    """A judge and how it is asked.

    Attributes:
        url: Base URL, as for an OpenAI client; a bare `http://HOST:PORT` means its `/v1`.
        model: The model's name at the endpoint.
        api_key_env: Name of the environment variable with the key; None sends no key.
        coherence: Judge coherence too.
        controls: Judge replies under random directions too. Without them, no judged delta is called an effect.
        scale: `percent` asks for 0 to 100; `digit` asks for one digit 0 to 9 (9 is 100), for models that write one digit
            per token, since the first token of `70` says little there.
        logprobs: Weight the answer token's candidates by their probability; False takes the written number.
        top_logprobs: Number of candidates requested; OpenAI allows at most 20.
        min_mass: Minimum probability on numbers; below it, the written number is taken.
        max_answer_tokens: Maximum length of an answer.
        fields: Names of `temperature`, `max_tokens`, `logprobs` and `top_logprobs` at the endpoint; null, in TOML false,
            leaves one out. `max_tokens` and `logprobs` adapt by themselves where the endpoint refuses them in plain words.
        extra: Further fields of the request, for example to disable a model's thinking.
        concurrency: Maximum number of requests in flight.
        timeout: Seconds for one request, from the first byte to the last.
        retries: Retries of a request after a time-out, a broken connection, 429, 5xx or an unreadable answer.
        retry_pause: Seconds before the first retry, doubled each time; Retry-After is honoured.
        give_up_after: Failed questions in a row after which the judge is given up; the rest stay pending.
        max_calls: Maximum number of requests of one command, retries included; None sets no limit.
        max_tokens: Maximum number of tokens of one command, prompts and answers; None sets no limit.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    url: Annotated[str, Field(min_length=1, max_length=2000)]
    model: Annotated[str, Field(min_length=1, max_length=300)]
    api_key_env: str | None = None
    coherence: bool = True
    controls: bool = True
    scale: Scale = "percent"
    logprobs: bool = True
    top_logprobs: Annotated[int, Field(ge=2, le=100)] = 20
    min_mass: Annotated[float, Field(gt=0, le=1)] = 0.5
    max_answer_tokens: Annotated[int, Field(ge=1, le=65536)] = 8
    fields: dict[str, str | None] = {}
    extra: dict[str, Any] = {}
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    timeout: Annotated[float, Field(gt=0, le=3600)] = 60.0
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    retry_pause: Annotated[float, Field(gt=0, le=60)] = 0.5
    give_up_after: Annotated[int, Field(ge=1)] = 10
    max_calls: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @field_validator("url")
    @classmethod
    def _usable(cls, url: str) -> str:
        parts = urlsplit(url) if is_http_url(url) else None
        if parts is None or parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            # The message does not contain the address: it may hold a key.
            raise ValueError(
                "write http(s)://HOST[:PORT]/PATH without user, password or query; a key goes into api_key_env"
            )
        url = url.rstrip("/")
        return url if parts.path.rstrip("/") else f"{url}/v1"

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        # A key pasted here by mistake is refused, and the message does not contain it.
        if name is not None and not (name.isidentifier() and name.isupper() and len(name) <= 64):
            raise ValueError("is the NAME of an environment variable (upper case), not the key")
        return name

    @field_validator("extra")
    @classmethod
    def _not_ours(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if ours := sorted({*_RESERVED, "logprobs", "top_logprobs"} & extra.keys()):
            raise ValueError(f"{ours[0]} is set by the judge itself")
        return extra

    @field_validator("fields", mode="before")
    @classmethod
    def _null(cls, fields: object) -> object:
        """TOML has no null."""
        if not isinstance(fields, dict):
            return fields
        return {name: None if value is False or value == "null" else value for name, value in fields.items()}

    @field_validator("fields")
    @classmethod
    def _known(cls, fields: dict[str, str | None]) -> dict[str, str | None]:
        if unknown := sorted(fields.keys() - set(NAMES)):
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(NAMES)}; other fields go into extra")
        for field, name in fields.items():
            if name is not None and (not name.isidentifier() or name in {*_RESERVED, *NAMES} - {field}):
                raise ValueError(f"{name[:80]!r} cannot be the name of {field}")
        return fields

    def api_key(self) -> str | None:
        """The key, from the environment.

        Raises:
            InvalidRequestError: The variable is not set, or holds a character that is not allowed in an HTTP header.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise InvalidRequestError(
                f"the judge's key is expected in the environment variable {self.api_key_env}, which is not set",
                param="judge.api_key_env",
            )
        if not fits_header(key):
            raise InvalidRequestError(
                f"the key in {self.api_key_env} holds characters that are not allowed in an HTTP header",
                param="judge.api_key_env",
            )
        return key

    @property
    def largest(self) -> int:
        """The largest number of the scale."""
        return 100 if self.scale == "percent" else 9

    def asking(self) -> dict[str, Any]:
        """Everything that a score depends on besides rubric, prompt and reply; the endpoint's address is not part of it."""
        names = ("model", "scale", "logprobs", "top_logprobs", "min_mass", "max_answer_tokens", "extra")
        asking = {"protocol": PROTOCOL} | {name: getattr(self, name) for name in names}
        asking["logprobs"] = self.logprobs and self.request_fields.name_of("logprobs") is not None
        left_out = [name for name in ("temperature", "max_tokens") if self.request_fields.name_of(name) is None]
        return asking | ({"left_out": left_out} if left_out else {})

    @property
    def request_fields(self) -> RequestFields:
        """The fields of a request as the endpoint is first asked. A name alone does not change a score."""
        return RequestFields(self.fields if self.logprobs else {**self.fields, "logprobs": None})

    def definition(self, rubric: Rubric) -> str:
        """Digest of this judge with a rubric: scores of one definition are comparable."""
        return digest([self.asking(), rubric.trait, rubric.text])
