"""One running service: the parts that the routes need, assembled once at start-up."""

import asyncio
import logging
from argparse import Namespace
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Annotated, Any, Self, get_args

from fastapi import Depends, Request
from starlette.datastructures import State
from trait_core import __version__
from trait_core.schema import (
    MAX_INPUTS,
    MAX_MONITORED,
    MAX_POSITIONS,
    MAX_TERMS,
    NamedScope,
    ServiceInfo,
    SteeringLimits,
    Unit,
)

from trait_service.access.keys import ApiKey
from trait_service.engine.settings import EngineSettings
from trait_service.engine_link.bank_client import BankClient
from trait_service.engine_link.capture_slots import CaptureSlots
from trait_service.engine_link.engine_client import SteeredEngineClient
from trait_service.engine_link.lens_room import LensRoom
from trait_service.engine_link.result_fetcher import ResultFetcher
from trait_service.engine_link.workers import Workers
from trait_service.metrics import expose_bank
from trait_service.models.identity import chat_template_digest, config_digest, registry_folder
from trait_service.models.weights import checkpoint_digest, weights_digest
from trait_service.patching.patcher import Patcher
from trait_service.reading.branch_check import check_branches
from trait_service.reading.chat_template import ChatTemplate
from trait_service.reading.lens import Lens
from trait_service.reading.reader import ActivationReader
from trait_service.reading.residual_norms import measure_residual_norms
from trait_service.reading.tokenized import finder_of
from trait_service.registry.registry import VectorRegistry
from trait_service.registry.uses import VectorUses
from trait_service.resolving.placing import Placer
from trait_service.resolving.resolve import Resolver
from trait_service.resolving.stream_lens import LensLimits, TokenText, token_text
from trait_service.settings import ServiceSettings

logger = logging.getLogger(__name__)

TOKEN_TEXTS_KEPT = 1 << 16
"""Texts of tokens that are kept for answers of the lens."""


@dataclass(frozen=True)
class TraitService:
    """Everything behind the routes.

    Args:
        info: The answer of `GET /v1/steering`.
        models: vLLM's served models and adapters.
    """

    settings: ServiceSettings
    info: ServiceInfo
    registry: VectorRegistry
    resolver: Resolver
    reader: ActivationReader
    lens: Lens
    patcher: Patcher
    client: SteeredEngineClient
    models: Any

    @classmethod
    async def start(cls, engine: Any, state: State, args: Namespace) -> Self:
        """Assemble the parts, give vLLM's handlers our engine client, and measure the residual norms.

        Raises:
            RuntimeError: The engine runs without the plugin's worker.
        """
        engine_settings = EngineSettings.from_additional_config(engine.vllm_config.additional_config)
        if engine_settings is None:
            raise RuntimeError("the engine runs without steering: start it with `trait-service serve`")
        settings = ServiceSettings.from_args(args)
        workers, uses = Workers(engine), VectorUses()
        shape = await workers.info()
        rows = CaptureSlots(shape["capture_rows"])
        lens = LensRoom(_lens_limits(shape, settings), rows, _token_text(engine))
        placer = _placer(engine, state, settings)
        client = _connect(engine, workers, uses, engine_settings, lens, placer)
        _hand_over(state, engine, client)
        reader = ActivationReader(client, state, shape, rows, settings.max_activation_bytes, settings.reasoning_markers)
        vector_lens = Lens(workers, engine.renderer.get_tokenizer())
        patcher = Patcher(client, state, shape, engine_settings.terms_per_layer, settings.max_activation_bytes)
        identity = await _identify(engine, state)
        registry, norms = _open_registry(settings, identity, uses), await measure_residual_norms(reader)
        await check_branches(reader, shape["hook_points"])
        resolver = _resolver(registry, norms, settings, engine_settings, shape)
        info = ServiceInfo(
            model=state.openai_serving_models.base_model_paths[0].name,
            **identity,
            n_layers=shape["n_layers"],
            d_model=shape["d_model"],
            dtype=shape["dtype"],
            quantization=shape["quantization"],
            weights=shape["weights"],
            reasoning_markers=reader.reasoning_markers,
            residual_norms=norms,
            operations=list(shape["operations"]),
            hook_points=list(shape["hook_points"]),
            holds=list(shape["holds"]),
            n_heads=None if shape["heads"] is None else shape["heads"]["n_heads"],
            scopes=[*get_args(NamedScope), "positions", "selectors"],
            units=list(get_args(Unit)),
            limits=_limits(settings, engine_settings, shape),
            versions={"trait-steering": __version__, **_texts(shape.get("versions"))},
        )
        logger.info(
            "steering %s: %d layers, d_model %d, vectors in %s",
            info.model,
            info.n_layers,
            info.d_model,
            settings.vectors,
        )
        return cls(
            settings, info, registry, resolver, reader, vector_lens, patcher, client, state.openai_serving_models
        )

    def resolver_for(self, caller: ApiKey) -> Resolver:
        """The resolver, with the caller's own dose limit if that is lower."""
        limit = caller.max_relative_dose
        if limit is None or limit >= self.resolver.max_relative_dose:
            return self.resolver
        return replace(self.resolver, max_relative_dose=limit)

    async def describe(self) -> ServiceInfo:
        """The answer of `GET /v1/steering`; adapters may change while the service runs."""
        loras = dict(self.models.lora_requests)
        digests = [await asyncio.to_thread(checkpoint_digest, lora.lora_path) for lora in loras.values()]
        return self.info.model_copy(update={"adapters": dict(zip(loras, digests, strict=True))})

    def served_names(self) -> list[str]:
        """Names that a request may give as its model, aliases excluded."""
        return [*(path.name for path in self.models.base_model_paths), *self.models.lora_requests]


def _lens_limits(shape: dict[str, Any], settings: ServiceSettings) -> LensLimits:
    return LensLimits(
        shape["n_layers"], shape["lens"]["first_layer"], shape["lens"]["refusal"], settings.max_lens_readings
    )


def _token_text(engine: Any) -> TokenText:
    """Text of a token id; that of a likely token is asked for again and again."""
    return lru_cache(maxsize=TOKEN_TEXTS_KEPT)(partial(token_text, engine.renderer.get_tokenizer()))


def _placer(engine: Any, state: State, settings: ServiceSettings) -> Placer:
    """Places scopes by the model's own tokenizer and markers."""
    tokenizer = engine.renderer.get_tokenizer()
    finder = finder_of(state.online_renderer, settings.reasoning_markers)
    return Placer(finder, tokenizer.decode, partial(tokenizer.encode, add_special_tokens=False))


def _connect(
    engine: Any, workers: Workers, uses: VectorUses, settings: EngineSettings, lens: LensRoom, placer: Placer
) -> SteeredEngineClient:
    """The engine client that steers: it keeps the workers' vector banks in step and fetches their results."""
    tokenizer = engine.renderer.get_tokenizer()
    bank = BankClient(workers.update_bank, settings.bank_rows)
    expose_bank(settings.bank_rows, lambda: bank.held, lambda: bank.resident)
    fetcher = ResultFetcher(workers.collect, workers.discard, workers.projections)
    return SteeredEngineClient(
        engine, bank, fetcher, uses, tokenizer.bos_token_id, tokenizer.decode, lens, settings.terms_per_layer, placer
    )


async def _identify(engine: Any, state: State) -> dict[str, Any]:
    """The digests that say which model is served, and whether it has a chat template, by the names of `ServiceInfo`."""
    model = engine.model_config.model, engine.model_config.revision
    template, found = state.openai_serving_chat.chat_template, ChatTemplate(state.online_renderer)
    return {
        "config_digest": config_digest(engine.model_config.hf_config.to_dict()),
        "weights_digest": await asyncio.to_thread(weights_digest, *model),
        "checkpoint_digest": await asyncio.to_thread(checkpoint_digest, *model),
        "chat_template_digest": chat_template_digest(
            template or getattr(engine.renderer.get_tokenizer(), "chat_template", None),
            state.online_renderer.default_chat_template_kwargs,
        ),
        "has_chat_template": found.exists,
        "chat_template_variables": found.variables,
    }


def _open_registry(settings: ServiceSettings, identity: dict[str, Any], uses: VectorUses) -> VectorRegistry:
    """The model's vectors."""
    return VectorRegistry(
        settings.vectors / registry_folder(identity["config_digest"], identity["weights_digest"]),
        max_vectors=settings.max_vectors,
        max_bytes=settings.max_vector_bytes,
        max_versions=settings.max_vector_versions,
        uses=uses,
    )


def _resolver(
    registry: VectorRegistry,
    residual_norms: list[float],
    settings: ServiceSettings,
    engine_settings: EngineSettings,
    shape: dict[str, Any],
) -> Resolver:
    """The resolver of requests against the model's vectors."""
    return Resolver(
        lookup=registry.get,
        n_layers=shape["n_layers"],
        d_model=shape["d_model"],
        residual_norms=residual_norms,
        operations=tuple(shape["operations"]),
        terms_per_layer=engine_settings.terms_per_layer,
        max_relative_dose=settings.max_relative_dose,
        max_total_dose=settings.max_total_dose,
        hook_points=tuple(shape["hook_points"]),
    )


def _limits(settings: ServiceSettings, engine_settings: EngineSettings, shape: dict[str, Any]) -> SteeringLimits:
    return SteeringLimits(
        max_terms=MAX_TERMS,
        max_relative_dose=settings.max_relative_dose,
        max_layers_per_term=shape["n_layers"],
        terms_per_layer=engine_settings.terms_per_layer,
        bank_rows=engine_settings.bank_rows,
        max_num_seqs=shape["max_num_seqs"],
        max_activation_inputs=MAX_INPUTS,
        max_positions=MAX_POSITIONS,
        max_monitored=MAX_MONITORED,
        max_lens_readings=settings.max_lens_readings,
    )


def _hand_over(state: State, engine: Any, client: SteeredEngineClient) -> None:
    """Make every serving object of the application use our engine client."""
    state.engine_client = client
    for served in list(state._state.values()):  # noqa: SLF001 - starlette's State has no public iteration
        if getattr(served, "engine_client", None) is engine:
            served.engine_client = client


def _texts(versions: dict[str, Any] | None) -> dict[str, str]:
    return {name: str(version) for name, version in (versions or {}).items()}


def get_service(request: Request) -> TraitService:
    """The service behind a route."""
    service: TraitService = request.app.state.trait
    return service


Service = Annotated[TraitService, Depends(get_service)]
