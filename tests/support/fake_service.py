"""A trait-service in memory: every route that the client calls, answered with the models of the wire schema.

tests/http/test_fake_contract.py holds its answers against those of the real service. What it says is made up and follows
from the request alone: a token is a word, a chat is `<role>`, its words, ..., `<assistant>`, a reply ends with `<end>`.
A test overrides `reply`, `pool`, `nll` or `projection` for other answers, `applied` or `monitored` for false reports.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from math import log
from typing import Any, NamedTuple

import fake_wire as wire
import httpx
import numpy as np
import safetensors.numpy
from fake_registry import VECTORS, FakeRegistry, UnknownModelError, json_of, octets_of, parsed, refusal
from fake_text import END, activation, chat_words, finish_reason, joined, last_text, projection, text_words
from trait_client.http import AsyncTraitClient
from trait_core.chat_templates import no_chat_template
from trait_core.errors import InvalidRequestError, TraitError, UnknownVectorError
from trait_core.positions import Positions
from trait_core.schema import (
    ActedPositions,
    ActivationInput,
    ActivationsMetadata,
    ActivationsRequest,
    AppliedTerm,
    LensGuess,
    LensRequest,
    Message,
    Monitor,
    MonitoredChoice,
    MonitoredDirection,
    MonitorReport,
    PositionScope,
    SteeredPositions,
    Steering,
    SteeringReport,
    SteeringTerm,
    StreamLens,
    VectorList,
)
from trait_core.storage import sha256_of
from trait_core.vectors.file import METADATA_KEY, VectorFile

CHATS, COMPLETIONS, ACTIVATIONS = "/v1/chat/completions", "/v1/completions", "/v1/activations"


class Pool(NamedTuple):
    """Activations of one text: `(n_layers_read, d_model)`, `(n_layers_read,)`, and the number of positions."""

    mean: np.ndarray
    norm: np.ndarray
    count: int


STREAM_NORM = 256.0
"""Norm of the stream at every position, by which cosines are divided."""


class FakeService(FakeRegistry):
    """Answers as a trait-service, over `httpx.MockTransport(service.answer)`, or on a port (`on_a_port`).

    Args:
        vectors: Registered under the names of their traits.
        delay: Seconds of every chat, completion and reading.
        longest: Tokens that fit into the context.
        key: The API key that is asked for; None asks for none.
        info: Fields of `ServiceInfo` that differ from `fake_registry.INFO`.

    Attributes:
        requests: Path -> bodies that arrived, in order; `answered`: those that were answered with 200.
        most_at_once: Path -> largest number of requests that were worked on together.
        fails: Path -> a function of the body; the response that it gives is sent in place of the answer.
        up: While False, connections break.
    """

    def __init__(
        self, *vectors: VectorFile, delay: float = 0.0, longest: int = 2048, key: str | None = None, **info: Any
    ) -> None:
        super().__init__(*vectors, **info)
        self.delay, self.longest, self.key = delay, longest, key
        self.words: list[str] = []
        self.requests: dict[str, list[dict]] = defaultdict(list)
        self.answered: dict[str, list[dict]] = defaultdict(list)
        self.at_once: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()
        self.fails: dict[str, Callable[[dict], httpx.Response | None]] = {}
        self.up = True
        self._lock = threading.RLock()

    def client(self, **options: Any) -> AsyncTraitClient:
        """A client of this service, without a network."""
        transport = httpx.MockTransport(self.answer_async)
        return AsyncTraitClient("http://memory", transport=transport, **{"retries": 0, **options})

    @property
    def chats(self) -> list[dict]:
        """Bodies of the chat requests so far."""
        return self.requests[CHATS]

    # ---------------------------------------------------------------------------------------- what a test may override

    def reply(self, body: dict, prompt: str, applied: Sequence[AppliedTerm]) -> str:
        """The text that answers a chat's last message, or a completion's prompt."""
        return "yes yes"

    def template(self, messages: Sequence[Message], kwargs: dict) -> list[str]:
        """Tokens of a chat: each variable of the template is one. A template that refuses raises `InvalidRequestError`."""
        if not self.info.has_chat_template:
            raise no_chat_template(self.info.model)
        return [*(f"<{name}={json.dumps(value)}>" for name, value in kwargs.items()), *chat_words(messages)]

    def pool(self, item: ActivationInput, positions: str, layers: Sequence[int]) -> Pool:
        """One text pooled over one entry of `positions`: it follows from text, layer and positions."""
        n_prompt, n_response = self.lengths(item)
        count = len(Positions.parse(positions).indices(n_prompt, n_prompt + n_response))
        mean = np.array([activation(last_text(item), layer, positions, self.info.d_model) for layer in layers])
        return Pool(mean, np.linalg.norm(mean, axis=-1), count)

    def nll(self, item: ActivationInput) -> float:
        """Mean negative log-likelihood of a response, nats a token."""
        return 1.5

    def likeliest(self, word: str, applied: Sequence[AppliedTerm]) -> dict[str, float]:
        """Log-probabilities of a word of an echoed prompt and of others in its place."""
        return {word: wire.LOGPROB}

    def projection(self, ids: Sequence[int], position: int, sha256: str, layer: int) -> float:
        """A position's projection, without the centre: it follows from all tokens up to there."""
        return projection(ids, position, sha256, layer)

    # -------------------------------------------------------------------------------------------------------- requests

    def answer(self, request: httpx.Request) -> httpx.Response:
        """One request, answered as the service would."""
        with self._working(request) as body:
            time.sleep(0.0 if body is None else self.delay)
        return self._answered(request, body)

    async def answer_async(self, request: httpx.Request) -> httpx.Response:
        """The same; the delay does not block the event loop."""
        with self._working(request) as body:
            await asyncio.sleep(0.0 if body is None else self.delay)
        return self._answered(request, body)

    @contextlib.contextmanager
    def _working(self, request: httpx.Request) -> Iterator[dict | None]:
        """The body of a request that takes time; None for the others."""
        self._check_up(request)
        path = request.url.path
        if path not in {CHATS, COMPLETIONS, ACTIVATIONS}:
            yield None
            return
        body = json.loads(request.content)
        with self._lock:
            self.requests[path].append(body)
            self.at_once[path] += 1
            self.most_at_once[path] = max(self.most_at_once[path], self.at_once[path])
        try:
            yield body
        finally:
            with self._lock:
                self.at_once[path] -= 1

    def _check_up(self, request: httpx.Request) -> None:
        if not self.up:
            raise httpx.ReadError("the service is gone", request=request)

    def _answered(self, request: httpx.Request, body: dict | None) -> httpx.Response:
        self._check_up(request)
        path = request.url.path
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return httpx.Response(401, json={"error": "Unauthorized"})
        if path in self.fails and (failure := self.fails[path](body or {})) is not None:
            return failure
        try:
            with self._lock:
                response = self._route(request, path, body)
        except TraitError as error:
            absent = isinstance(error, UnknownModelError) or (
                isinstance(error, UnknownVectorError) and path.startswith(VECTORS)
            )
            return refusal(404 if absent else 400, str(error), getattr(error, "param", None))
        if body is not None and response.is_success:
            self.answered[path].append(body)
        return response

    def _route(self, request: httpx.Request, path: str, body: dict | None) -> httpx.Response:
        if path.startswith(f"{VECTORS}/"):
            return self.registry(request, path.removeprefix(f"{VECTORS}/"))
        match path:
            case "/v1/health/ready":
                return httpx.Response(200, json={"status": "ready"})
            case "/v1/steering":
                return json_of(self.info)
            case "/v1/models":
                aliases = {f"{self.info.model}+{name}@1": sha256_of(data) for name, data in self.listed().items()}
                return httpx.Response(200, json=wire.models(self.info.model, aliases, self.longest))
            case "/v1/vectors":
                shown = self.listed(controls=request.url.params.get("controls") == "true")
                return json_of(VectorList(revision=self.revision, vectors=[self.entry(name) for name in shown]))
            case "/v1/lens":
                asked = parsed(LensRequest, request.content)
                self.check_fits(asked.file, allow_other_model=asked.allow_other_model)
                return self.lens(asked.file, asked.layers, asked.top_k)
            case "/tokenize":
                return httpx.Response(200, json=wire.tokens(self._tokenize(json.loads(request.content)), self.longest))
        assert body is not None, f"{request.method} {path} is not a route of the service"
        return {CHATS: self._chat, COMPLETIONS: self._complete, ACTIVATIONS: self._read}[path](body)

    # --------------------------------------------------------------------------------------------------------- replies

    def ids(self, words: Sequence[str]) -> list[int]:
        """Token ids; a word that is new gets the next one."""
        self.words += [word for word in dict.fromkeys(words) if word not in self.words]
        return [self.words.index(word) for word in words]

    def _tokenize(self, body: dict) -> list[int]:
        if "prompt" in body:
            return self.ids(text_words(body["prompt"], special=body.get("add_special_tokens", True)))
        return self.ids(self._rendered(body))

    def _rendered(self, body: dict) -> list[str]:
        return self.template([Message(**turn) for turn in body["messages"]], body.get("chat_template_kwargs") or {})

    def _chat(self, body: dict) -> httpx.Response:
        model, applied, monitor = self._options(body)
        prompt = self.ids(self._rendered(body))
        replies = [self._reply(body, body["messages"][-1]["content"], applied) for _ in range(body.get("n") or 1)]
        steering, monitored = self._reports(applied, monitor, prompt, replies)
        counts = wire.usage(len(prompt), sum(map(len, replies)))
        if body.get("stream"):
            with_usage = counts if (body.get("stream_options") or {}).get("include_usage") else None
            documents = list(self._chunks(model, replies[0], steering, monitored, with_usage))
            return httpx.Response(200, content=wire.events(documents), headers={"content-type": "text/event-stream"})
        choices = [
            wire.chat_choice(
                i, joined(reply), finish_reason(reply),
                wire.chat_logprobs(reply, body.get("top_logprobs") or 0) if body.get("logprobs") else None,
            )
            for i, reply in enumerate(replies)
        ]  # fmt: skip
        return httpx.Response(200, json=wire.chat(model, choices, counts) | _blocks(steering, monitored))

    def _complete(self, body: dict) -> httpx.Response:
        model, applied, monitor = self._options(body)
        given = body["prompt"]
        prompt = self.ids(text_words(given, special=True)) if isinstance(given, str) else given
        self.ids([f"<{i}>" for i in range(max(prompt) + 1 - len(self.words))])  # ids that no text has had
        reply = self._reply(body, " ".join(self.words[i] for i in prompt), applied)
        steering, monitored = self._reports(applied, monitor, prompt, [reply])
        fields: dict[str, Any] = {}
        if body.get("return_token_ids"):
            fields |= {"token_ids": self.ids(reply), "prompt_token_ids": prompt}
        if body.get("logprobs") is not None:
            echoed = [self.words[i] for i in prompt] if body.get("echo") else []
            fields["logprobs"] = wire.completion_logprobs(
                [*echoed, *reply], [self.likeliest(word, applied) for word in echoed]
            )
        if body.get("prompt_logprobs") is not None:
            fields["prompt_logprobs"] = wire.prompt_logprobs(prompt, self.words)
        choice = wire.completion_choice(0, joined(reply), finish_reason(reply), **fields)
        document = wire.completion(model, [choice], wire.usage(len(prompt), len(reply)))
        return httpx.Response(200, json=document | _blocks(steering, monitored))

    def _reply(self, body: dict, prompt: str, applied: Sequence[AppliedTerm]) -> list[str]:
        """Tokens of a reply, `<end>` where there is room for it."""
        return [*self.reply(body, prompt, applied).split(), END][: body.get("max_tokens") or self.longest]

    def _chunks(
        self,
        model: str,
        reply: list[str],
        steering: SteeringReport | None,
        monitored: MonitorReport | None,
        counts: dict | None,
    ) -> Iterator[dict]:
        """Events of a stream: the role, a piece for each token, the last with what was applied, and token counts."""
        first = wire.chunk(model, [wire.piece("", role="assistant")], prompt_token_ids=None, prompt_text=None)
        yield first | ({"monitor": _part(monitored, None)} if monitored else {})
        for i, token in enumerate(reply):
            text = "" if token == END else f" {token}" if i else token
            last = i == len(reply) - 1
            event = wire.chunk(model, [wire.piece(text, finish_reason(reply) if last else None)])
            event |= {"system_fingerprint": "fake"} if last and counts is None else {}
            event |= {"monitor": _part(monitored, i)} if monitored else {}
            yield event | ({"steering": steering.model_dump()} if last and steering else {})
        if counts is not None:
            plain = {name: value for name, value in counts.items() if value is not None}
            yield wire.chunk(model, usage=plain, system_fingerprint="fake")

    # --------------------------------------------------------------------------------------------- steering and monitor

    def _options(self, body: dict) -> tuple[str, list[AppliedTerm], Monitor | None]:
        """Model, terms and monitor of a request; an alias `MODEL+VECTOR@DOSE` adds a term."""
        base, *aliases = (body.get("model") or self.info.model).split("+")
        if base not in {self.info.model, *self.info.adapters}:
            message = f"The model `{base}` does not exist. Valid aliases: {self.info.model}."
            raise UnknownModelError(message, param="model")
        terms = [SteeringTerm(vector=v, coefficient=float(dose)) for v, _, dose in (a.partition("@") for a in aliases)]
        if body.get("steering") is not None:
            terms += parsed(Steering, body["steering"], "steering").terms
        monitor = None if body.get("monitor") is None else parsed(Monitor, body["monitor"], "monitor")
        return base, self.applied(terms), monitor

    def _reports(
        self, applied: list[AppliedTerm], monitor: Monitor | None, prompt: list[int], replies: list[list[str]]
    ) -> tuple[SteeringReport | None, MonitorReport | None]:
        steering = _steering_report(applied, len(prompt), sum(len(reply) - 1 for reply in replies)) if applied else None
        return steering, None if monitor is None else self.monitored(monitor, prompt, replies)

    def monitored(self, monitor: Monitor, prompt: list[int], replies: list[list[str]]) -> MonitorReport:
        """The projections of a request's tokens."""
        assert not monitor.bounds, "this service knows no bounds"
        columns = []
        for i, reference in enumerate(monitor.vectors):
            data = self.files[self.named(reference, f"monitor.vectors[{i}]")]
            file = VectorFile.from_bytes(data)
            for layer in self.layers_of(monitor.layers, file, "monitor.layers"):
                centre = file.evidence(layer).centre if monitor.centred and not monitor.cosine else 0.0
                columns.append(MonitoredDirection(vector=reference, sha256=sha256_of(data), layer=layer, centre=centre))
        choices = []
        for index, reply in enumerate(replies):
            ids, n = [*prompt, *self.ids(reply)], len(prompt)
            norm = STREAM_NORM if monitor.cosine else 1.0
            rows = [
                [self.projection(ids, p, c.sha256, c.layer) / norm - c.centre for c in columns]
                for p in range(len(ids) - 1)
            ]
            with_prompt = monitor.prompt and index == 0
            choice = MonitoredChoice(index=index)
            if columns:
                choice.prompt, choice.generated = rows[:n] if with_prompt else [], rows[n - 1 :]
            if monitor.lens is not None:
                choice.lens = [self.guesses(monitor.lens, word) for word in reply]
            if monitor.tokens:
                choice.prompt_tokens = [self.words[i] for i in prompt] if with_prompt else None
                choice.generated_tokens = reply
            choices.append(choice)
        layers = [] if monitor.lens is None else monitor.lens.layers
        return MonitorReport(directions=columns, lens_layers=layers, choices=choices)

    def guesses(self, lens: StreamLens, word: str) -> list[list[LensGuess]]:
        """Each layer says the word, then the words that were known first, each half as likely as the one before."""
        words = [word, *(other for other in self.words if other != word)][: lens.top_k]
        said = [LensGuess(id=self.words.index(w), text=w, logprob=-(i + 1) * log(2)) for i, w in enumerate(words)]
        return [said for _ in lens.layers]

    # ----------------------------------------------------------------------------------------------------- activations

    def lengths(self, item: ActivationInput) -> tuple[int, int]:
        """Tokens of the prompt and of the response."""
        n_response = len((item.response or "").split())
        if item.token_ids is not None:
            n_prompt = item.n_prompt or len(item.token_ids)
            return n_prompt, len(item.token_ids) - n_prompt
        if item.messages is not None:
            return len(self.template(item.messages, item.chat_template_kwargs or {})), n_response
        return len(text_words(item.text or "", special=True)), n_response

    def _read(self, body: dict) -> httpx.Response:
        request = parsed(ActivationsRequest, body)
        if len(request.inputs) > (limit := self.info.limits.max_activation_inputs):
            raise InvalidRequestError(f"{len(request.inputs)} inputs; at most {limit}", param="inputs")
        layers = list(range(self.info.n_layers)) if request.layers is None else request.layers
        self.check_layers(layers, "layers")
        if request.at not in self.info.hook_points:
            raise InvalidRequestError(f"this engine has no hook point {request.at}", param="at")
        base, applied, _ = self._options(body)
        items = [self._with_reply(item, request, body, applied) for item in request.inputs]
        lengths = [self.lengths(item) for item in items]
        for i, (n_prompt, n_response) in enumerate(lengths):
            if n_prompt + n_response > self.longest:
                message = f"inputs[{i}] has {n_prompt + n_response} tokens; at most {self.longest} fit"
                raise InvalidRequestError(message, param=f"inputs[{i}]")
            if request.logprobs and not n_response:
                raise InvalidRequestError(f"inputs[{i}]: logprobs need a prompt and a response", param=f"inputs[{i}]")
        tensors = self._tensors(request, items, layers)
        tensors["n_prompt"], tensors["n_response"] = np.array(lengths, np.int32).reshape(-1, 2).T.copy()
        fields = {"config_digest", "chat_template_digest", "n_layers", "d_model", "dtype"}
        n_tokens = sum(map(sum, lengths))
        metadata = ActivationsMetadata(
            model=base, **self.info.model_dump(include=fields), layers=layers,
            **request.model_dump(include={"positions", "pooling", "before_steering"}), hook_point=request.at,
            responses=None if request.generate is None else [item.response or "" for item in items],
            steering=_steering_report(applied, n_tokens, 0) if applied else None,
        )  # fmt: skip
        return octets_of(safetensors.numpy.save(tensors, metadata={METADATA_KEY: metadata.model_dump_json()}))

    def _with_reply(
        self, item: ActivationInput, request: ActivationsRequest, body: dict, applied: Sequence[AppliedTerm]
    ) -> ActivationInput:
        if request.generate is None:
            return item
        tokens = self._reply(body | request.generate.model_dump(), last_text(item), applied)
        return item.model_copy(update={"response": joined(tokens)})

    def _tensors(
        self, request: ActivationsRequest, items: Sequence[ActivationInput], layers: Sequence[int]
    ) -> dict[str, np.ndarray]:
        tensors: dict[str, np.ndarray] = {}
        for name in request.positions:
            Positions.parse(name)  # refuses what is not understood
        by_text = [[self.pool(item, name, layers) for name in request.positions] for item in items]
        for name, pools in zip(request.positions, zip(*by_text, strict=True), strict=True):
            tensors[f"count/{name}"] = np.array([pool.count for pool in pools], np.int32)
            if request.pooling == "none":
                each = [np.repeat(pool.mean[None], pool.count, axis=0) for pool in pools]
                tensors[f"each/{name}"] = np.concatenate(each).astype(np.float32)
                continue
            tensors[f"mean/{name}"] = np.stack([pool.mean for pool in pools]).astype(np.float32)
            tensors[f"norm/{name}"] = np.stack([pool.norm for pool in pools]).astype(np.float32)
        if request.logprobs:
            tensors["nll"] = np.array([self.nll(item) for item in items], np.float32)
        return tensors


# ------------------------------------------------------------------------------------------------------ parts of answers


def _steering_report(applied: list[AppliedTerm], n_prompt: int, n_generated: int) -> SteeringReport:
    """The positions that any term touches; the last token of a reply never goes through the model."""
    prompt: set[int] = set()
    generated: set[int] = set()
    n_total = n_prompt + n_generated
    for term in applied:
        ends = {"all": (0, n_total), "prompt": (0, n_prompt), "generated": (n_prompt - 1, n_total)}
        ends["last_prompt"] = (n_prompt - 1, n_prompt)
        if isinstance(term.scope, PositionScope) or term.scope in ends:
            start, stop = term.scope.positions if isinstance(term.scope, PositionScope) else ends[term.scope]
            held = list(range(start, min(stop, n_total)))
        else:
            held = Positions.parse(term.scope).indices(n_prompt, n_total)
        before, after = {at for at in held if at < n_prompt}, {at for at in held if at >= n_prompt}
        term.acted = ActedPositions(prompt=len(before), generated=len(after))
        prompt |= before
        generated |= after
    return SteeringReport(applied=applied, positions=SteeredPositions(prompt=len(prompt), generated=len(generated)))


def _part(report: MonitorReport, token: int | None) -> dict:
    """A chunk's share of the projections: the prompt comes with the first chunk, a generated token with its own."""
    (choice,) = report.choices
    share = choice.model_copy(update={"generated": []}) if token is None else choice.model_copy(
        update={"prompt": [], "prompt_tokens": None, "generated": choice.generated[token : token + 1]}
    )  # fmt: skip
    if choice.generated_tokens is not None:
        share.generated_tokens = [] if token is None else choice.generated_tokens[token : token + 1]
    named = report.directions if token is None else []
    return report.model_copy(update={"choices": [share], "directions": named}).model_dump()


def _blocks(steering: SteeringReport | None, monitored: MonitorReport | None) -> dict:
    blocks = {"steering": steering, "monitor": monitored}
    return {name: block.model_dump() for name, block in blocks.items() if block is not None}
