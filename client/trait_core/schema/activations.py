"""`POST /v1/activations`: the request, and the metadata of the answer."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from trait_core.schema.base import (
    MAX_LAYERS,
    RESID_POST,
    ChatTemplateKwargs,
    HeadPoint,
    HookPoint,
    Layer,
    Request,
    Response,
)
from trait_core.schema.steering import Steering, SteeringReport

MAX_INPUTS = 8192
"""Texts of one request."""

MAX_POSITIONS = 8
"""Pools of one request."""


class Message(Request):
    """One chat message, as the chat route takes it; fields beside those below are passed on to the model's template.

    Attributes:
        role: `system`, `user`, `assistant`, `tool`, `developer`, or another that the model's template knows.
        content: A text, a list of parts (`{"type": "text", "text": "..."}`), or None.
        name: Name of the participant or of the tool.
        tool_calls: Calls that the assistant made; content may then be left out.
        tool_call_id: The call that a `tool` message answers.
    """

    model_config = ConfigDict(extra="allow")

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: (
        Annotated[str, Field(max_length=1_000_000)] | Annotated[list[dict[str, Any]], Field(max_length=1024)] | None
    ) = None
    name: Annotated[str, Field(max_length=256)] | None = None
    tool_calls: Annotated[list[dict[str, Any]], Field(max_length=1024)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    @property
    def text(self) -> str:
        """The content's text; parts that are not text are left out."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(part["text"]) for part in self.content or () if part.get("text"))

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if "content" not in self.model_fields_set and not self.tool_calls:
            raise ValueError("a message needs content: a text, a list of parts, or null")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A plain message has a role and a content, whatever else a message may have: digests depend on it."""
        return {name: value for name, value in write(self).items() if value is not None or name == "content"}


class ActivationInput(Request):
    """One text to read: exactly one of `messages`, `text`, `token_ids`.

    Attributes:
        messages: A chat; it is rendered with the model's template and the header of the assistant's turn.
        text: Raw text for base models; special tokens as the tokenizer adds them.
        token_ids: Token ids, used unchanged.
        response: The reply to read after `messages` or `text`, unchanged. Its tokens follow the prompt's.
        n_prompt: With `token_ids` only: index at which the response begins; by default all ids are the prompt.
        chat_template_kwargs: With `messages` only: variables of the chat template, such as `enable_thinking`. A reply is read
            back after the prompt that it was written after if both requests have the same.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)] | None = None
    text: Annotated[str, Field(max_length=4_000_000)] | None = None
    token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1_000_000)] | None = None
    response: Annotated[str, Field(min_length=1, max_length=4_000_000)] | None = None
    n_prompt: Annotated[int, Field(ge=1)] | None = None
    chat_template_kwargs: ChatTemplateKwargs = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("messages", "text", "token_ids") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of messages, text, token_ids (got {given or 'none'})")
        if self.chat_template_kwargs is not None and self.messages is None:
            raise ValueError(f"chat_template_kwargs goes with messages; {given[0]} is read without a chat template")
        if self.token_ids is not None:
            if self.response is not None:
                raise ValueError("response goes with messages or text; with token_ids, set n_prompt")
            if self.n_prompt is not None and self.n_prompt > len(self.token_ids):
                raise ValueError(f"n_prompt {self.n_prompt} exceeds the {len(self.token_ids)} token_ids")
        elif self.n_prompt is not None:
            raise ValueError("n_prompt goes with token_ids only")
        return self


class Generation(Request):
    """How replies are generated before they are read."""

    max_tokens: Annotated[int, Field(ge=1, le=65536)] = 64
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    seed: int | None = None


class ActivationsRequest(Request):
    """`POST /v1/activations`.

    Attributes:
        inputs: Up to 8192 texts, read in one batch.
        layers: 0-based decoder blocks, read at their output; None reads all.
        at: The place in these blocks that is read: `resid_post` (their output), `attn_out` (what the attention adds to the
            stream), `mlp_out` (what the MLP or the experts add), `head_out` (what the attention heads put out, side by side,
            before the output projection) or `head_out[3]` (one of them).
        positions: Pools, each a mean over the positions it names (`trait_core.positions`).
        pooling: `mean` over the positions; `none` returns every position (of a single entry of `positions`).
        before_steering: With `pooling` `none`: return the block's output before steering. Pools are taken after it.
        generate: First generate a reply to each input and read it; inputs must not have a response.
        logprobs: Also return the mean negative log-likelihood per response token (given responses only).
        steering: Steering during the reading; None reads the unsteered model.
    """

    model: str | None = None
    inputs: Annotated[list[ActivationInput], Field(min_length=1, max_length=MAX_INPUTS)]
    layers: Annotated[list[Layer], Field(min_length=1, max_length=MAX_LAYERS)] | None = None
    at: HookPoint | HeadPoint = RESID_POST
    positions: Annotated[
        list[Annotated[str, Field(max_length=64)]],
        Field(min_length=1, max_length=MAX_POSITIONS, default_factory=lambda: ["response[:]"]),
    ]
    pooling: Literal["mean", "none"] = "mean"
    before_steering: bool = False
    generate: Generation | None = None
    logprobs: bool = False
    steering: Steering | None = None

    @model_validator(mode="after")
    def _responses_fit(self) -> Self:
        if self.pooling == "none" and len(self.positions) != 1:
            raise ValueError(f"pooling 'none' takes one entry of positions, not {len(self.positions)}")
        if self.before_steering and self.pooling != "none":
            raise ValueError("before_steering goes with pooling 'none': pools are taken after steering")
        if self.generate is not None:
            if self.logprobs:
                raise ValueError("logprobs reads given responses; it does not go with generate")
            for i, item in enumerate(self.inputs):
                if item.response is not None or item.n_prompt is not None:
                    raise ValueError(f"inputs[{i}] has a response already; it does not go with generate")
        return self


class ActivationsMetadata(Response):
    """The metadata entry (`trait`, JSON) in the safetensors answer of `POST /v1/activations`.

    Tensors for n inputs and the layers listed here, in order; at `attn_out` or `mlp_out` the stream is what the block's attention
    or MLP adds to it; at `head_out` or one of its heads it is what they put out, `width` takes the place of `d_model`, and there
    is no `norm`::

        mean/<positions>    (n, n_layers_read, d_model) float32   mean residual stream after the block
        norm/<positions>    (n, n_layers_read)          float32   mean of the token norms
        count/<positions>   (n,)                        int32     positions pooled
        each/<positions>    (n_positions, n_layers_read, d_model) float32   with `pooling` `none`, instead of mean and norm:
                                                                  the residual stream, input after input, count of each
        n_prompt            (n,)                        int32     prompt tokens
        n_response          (n,)                        int32     response tokens (generated ones included)
        nll                 (n,)                        float32   with `logprobs`: mean nats per response token
    """

    schema_version: int = 1
    model: str
    config_digest: str
    chat_template_digest: str | None = None
    n_layers: int
    d_model: int
    dtype: str
    hook_point: HookPoint | HeadPoint = RESID_POST
    width: int | None = None
    layers: list[int]
    positions: list[str]
    pooling: Literal["mean", "none"] = "mean"
    before_steering: bool = False
    responses: list[str] | None = None
    steering: SteeringReport | None = None
