"""`POST /v1/patch`: activation patching, cell by cell."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trait_core.schema.activations import ActivationInput, Message
from trait_core.schema.base import MAX_LAYERS, RESID_POST, ChatTemplateKwargs, HookPoint, Layer, Request, Response
from trait_core.schema.steering import Selector

MAX_PATCH_CELLS = 4000
"""Cells of one request: positions, or parts, times layers times hook points; each takes two runs of the prompt."""

LEAST_DIFFERENCE = 1e-3
"""Nats between the source's metric and the target's below which there is nothing to restore."""

PatchPart = Literal["before", "span", "behind", "all"]


class PatchPrompt(Request):
    """One of the two prompts: exactly one of `text` and `messages`, and the answer that the model gives to it.

    Attributes:
        text: Raw text; special tokens as the tokenizer adds them.
        messages: A chat; it is rendered with the model's template and the header of the assistant's turn.
        chat_template_kwargs: With `messages` only: variables of the chat template.
        span: A text that occurs once in the prompt, and is aligned with the other prompt's.
        answer: The answer; its first token is what the metric compares. After raw text it usually begins with a space.
    """

    text: Annotated[str, Field(min_length=1, max_length=100_000)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)] | None = None
    chat_template_kwargs: ChatTemplateKwargs = None
    span: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    answer: Annotated[str, Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give exactly one of text and messages")
        if self.chat_template_kwargs is not None and self.messages is None:
            raise ValueError("chat_template_kwargs goes with messages; text is read without a chat template")
        return self

    def read_as(self, response: str | None = None) -> ActivationInput:
        """The prompt as an input of `POST /v1/activations`."""
        return ActivationInput(
            text=self.text,
            messages=self.messages,
            chat_template_kwargs=self.chat_template_kwargs,
            response=response,
        )


class PatchRequest(Request):
    """`POST /v1/patch`: run the target with streams of the source in it, one cell at a time.

    A cell is one aligned position, or all positions of one part, at one hook point of one layer. What the model has there
    becomes what the source has at the partner position; everything behind it is computed from that.

    Attributes:
        source: The prompt whose streams are put into the target.
        target: The prompt that is run with them.
        layers: 0-based decoder blocks; None: every one.
        positions: Positions of the target to patch (`trait_core.positions`), such as `prompt[-4:]`; None: every aligned one.
        parts: Patch all positions of these parts together, instead of each position alone. `before`, `span` and `behind` the
            span, and `all`. A part may hold as many positions as one layer may have terms.
        at: Hook points: the residual stream after the block, what its attention adds, what its MLP or experts add.
    """

    model: str | None = None
    source: PatchPrompt
    target: PatchPrompt
    layers: Annotated[list[Layer], Field(min_length=1, max_length=MAX_LAYERS)] | None = None
    positions: Selector | None = None
    parts: Annotated[list[PatchPart], Field(min_length=1, max_length=4)] | None = None
    at: Annotated[list[HookPoint], Field(min_length=1, max_length=3, default_factory=lambda: [RESID_POST])]

    @model_validator(mode="after")
    def _spans_go_together(self) -> Self:
        if (self.source.span is None) != (self.target.span is None):
            raise ValueError("give a span to both prompts, or to neither")
        return self


class PatchAnswer(Response):
    """One of the two answers, as the metric reads it.

    Attributes:
        text: As given.
        token_id: Its first token.
        token: The text of that token.
    """

    text: str
    token_id: int
    token: str


class PatchRun(Response):
    """One prompt as the model ran it without patching.

    Attributes:
        tokens: The text of each token; joined they are the prompt.
        span: `[from, to)` of the span's tokens; None without a span.
        logprobs: Log-probability of the source's answer and of the target's, by their first tokens, nats.
        difference: The first minus the second: the metric. It equals the difference of the two logits.
        left_out: Positions without a partner in the other prompt.
    """

    tokens: list[str]
    span: tuple[int, int] | None
    logprobs: tuple[float, float]
    difference: float
    left_out: list[int]


class PatchCell(Response):
    """The target with one cell patched.

    Attributes:
        part: `before`, `span` or `behind` the span; `all`.
        positions: Patched positions of the target.
        source_positions: The positions of the source whose streams they were given.
        logprobs: As in `PatchRun`.
        difference: As in `PatchRun`.
        restored: (difference - target's) / (source's - target's): 0 is the target's answer and 1 the source's. It may lie outside
            0..1. None if source and target differ by less than 0.001 nats.
    """

    part: PatchPart
    positions: list[int]
    source_positions: list[int]
    layer: int
    at: HookPoint = RESID_POST
    logprobs: tuple[float, float]
    difference: float
    restored: float | None


class PatchReport(Response):
    """The answer of `POST /v1/patch`.

    Attributes:
        answers: The source's, then the target's.
        cells: By hook point, then by layer, then by position.
    """

    model: str
    config_digest: str
    weights_digest: str | None = None
    chat_template_digest: str | None = None
    n_layers: int
    dtype: str
    answers: tuple[PatchAnswer, PatchAnswer]
    source: PatchRun
    target: PatchRun
    cells: list[PatchCell]
