"""Which judge, how it is asked, and how much of it: the table `[judge]` of an experiment.

::

    [judge]
    url = "https://api.example.com/v1"
    model = "some-model"
    api_key_env = "JUDGE_API_KEY"        # the *name* of a variable; the key itself is never stored
    concurrency = 8
    max_calls = 5000
"""

import os
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trait_client.judge.rubric import Rubric
from trait_core.addresses import fits_header, is_http_url
from trait_core.errors import InvalidRequestError
from trait_core.model_identity import digest

PROTOCOL = "1"
"""Raise it when the wording of the question or the arithmetic of the score changes: everything is judged anew."""

Scale = Literal["percent", "digit"]


class JudgeConfig(BaseModel):
    """A judge.

    Attributes:
        url: What an OpenAI client takes as base URL; a bare `http://HOST:PORT` means its `/v1`.
        model: Name at the endpoint.
        api_key_env: Environment variable that holds the key; None sends none.
        coherence: Judge coherence too.
        controls: Judge the replies under random directions too. Without, no judged delta is called an effect.
        scale: `percent` asks for 0 to 100; `digit` for one digit 0 to 9 (9 is 100), for models that write one digit a
            token: of those the first token of `70` says little.
        logprobs: Weight the answer token's candidates by their probability; False takes the number that was written.
        top_logprobs: Candidates asked for; 20 is the most that OpenAI takes.
        min_mass: Least probability on numbers; below, the written number is taken.
        max_answer_tokens: Of an answer.
        extra: Further fields of the request, for example to turn a model's thinking off.
        concurrency: Most requests in flight.
        timeout: Seconds of one request, first byte to last.
        retries: Repetitions of a request that met a time-out, a broken connection, 429, 5xx or garbage.
        retry_pause: Seconds before the first repetition, doubled each time; Retry-After is honoured.
        give_up_after: Failed questions in a row after which the judge is taken for gone; the rest stay pending at once.
        max_calls: Most requests of one command, repetitions included; None sets no limit.
        max_tokens: Most tokens of one command, prompts and answers; None sets no limit.
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
    max_answer_tokens: Annotated[int, Field(ge=1, le=4096)] = 8
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
            # The address is not repeated: it may hold a key.
            raise ValueError(
                "write http(s)://HOST[:PORT]/PATH without user, password or query; a key goes into api_key_env"
            )
        url = url.rstrip("/")
        return url if parts.path.rstrip("/") else f"{url}/v1"

    @field_validator("api_key_env")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        # A key pasted here by mistake is refused, and not repeated.
        if name is not None and not (name.isidentifier() and name.isupper() and len(name) <= 64):
            raise ValueError("is the NAME of an environment variable (upper case), not the key")
        return name

    @field_validator("extra")
    @classmethod
    def _not_ours(cls, extra: dict[str, Any]) -> dict[str, Any]:
        if ours := sorted({"model", "messages", "logprobs", "top_logprobs", "stream", "n"} & extra.keys()):
            raise ValueError(f"{ours[0]} is set by the judge itself")
        return extra

    def api_key(self) -> str | None:
        """The key, from the environment.

        Raises:
            InvalidRequestError: The variable is not set, or holds what no HTTP header takes.
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
                f"the key in {self.api_key_env} holds characters that no HTTP header takes", param="judge.api_key_env"
            )
        return key

    @property
    def largest(self) -> int:
        """The scale's end."""
        return 100 if self.scale == "percent" else 9

    def asking(self) -> dict[str, Any]:
        """What decides on a score beside rubric, prompt and reply; the endpoint's address does not."""
        names = ("model", "scale", "logprobs", "top_logprobs", "min_mass", "max_answer_tokens", "extra")
        return {"protocol": PROTOCOL} | {name: getattr(self, name) for name in names}

    def definition(self, rubric: Rubric) -> str:
        """Digest of how a score is taken: this judge by that rubric."""
        return digest([self.asking(), rubric.trait, rubric.text])
