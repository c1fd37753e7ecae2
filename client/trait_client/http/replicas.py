"""Several replicas of one service, used as one: a call goes to the least loaded one, and to another if it breaks off."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from trait_client.http.async_client import AsyncTraitClient
from trait_client.http.calls import Call
from trait_core.errors import InvalidRequestError, ServiceUnreachableError, TraitError
from trait_core.schema import ServiceInfo, VectorInfo

logger = logging.getLogger(__name__)

ATTEMPTS = 4
"""Maximum attempts of one call, over all replicas."""

PROBE_SECONDS = 1.0
"""Interval of the readiness checks of a lost replica, which is used again once it is ready."""

_INFO_FIELDS_IGNORED = {"limits", "residual_norms"}
"""Fields of `GET /v1/steering` that may differ between replicas."""

_CHANGING_METHODS = frozenset({"PUT", "DELETE"})
_LOST_STATUSES = frozenset({502, 503, 504})


@dataclass
class _Replica:
    client: AsyncTraitClient
    room: int = 1
    in_flight: int = 0
    back: asyncio.Event = field(default_factory=asyncio.Event)
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def load(self) -> float:
        return self.in_flight / self.room


class AsyncTraitReplicas(AsyncTraitClient):
    """As `AsyncTraitClient`, over replicas that serve the same model; use it as a context manager.

    A call goes to the replica with the lowest load for its size. A call that breaks off, or is answered 502, 503, 504, or
    500 by a dead engine, is retried, on another replica if there is one. This includes chats, which the plain client never
    retries: generation has no side effects. A lost replica is used again once it is ready. A stream that breaks off after
    its first data is not retried. Vectors are put on every replica; if they share a folder, all but the first find them
    there.

    Args:
        addresses: Addresses of the replicas, or of one balancer in front of them.
        api_key: API key for all replicas.
        patience: Seconds that a call waits if no replica is ready.

    Raises:
        InvalidRequestError: (On entering.) The replicas do not serve the same model.
        ServiceUnreachableError: (On entering.) A replica does not answer. (Every method.) None does.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        api_key: str | None = None,
        timeout: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
        retries: int = 3,
        patience: float = 20.0,
    ) -> None:
        if not addresses:
            raise InvalidRequestError("no address of a service was given", param="service")
        super().__init__(addresses[0], api_key, timeout, transport, retries)
        clients = [AsyncTraitClient(address, api_key, timeout, transport, retries) for address in addresses]
        if len({client.base_url for client in clients}) < len(clients):
            raise InvalidRequestError(f"an address is given twice: {', '.join(addresses)}", param="service")
        self._replicas = [_Replica(client) for client in clients]
        self._patience = patience
        self._probes: set[asyncio.Task[None]] = set()
        for replica in self._replicas:
            replica.back.set()

    async def __aenter__(self) -> Self:
        infos = await asyncio.gather(*(replica.client.info() for replica in self._replicas))
        for replica, info in zip(self._replicas, infos, strict=True):
            _check_same(infos[0], info, self.base_url, replica.client.base_url)
            replica.room = info.limits.max_num_seqs
        return self

    async def close(self) -> None:
        """Close the connections."""
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        for replica in self._replicas:
            await replica.client.close()
        await super().close()

    async def info(self) -> ServiceInfo:
        """Description and limits of the replicas; `max_num_seqs` is their sum."""
        info = await super().info()
        together = info.limits.model_copy(update={"max_num_seqs": sum(replica.room for replica in self._replicas)})
        return info.model_copy(update={"limits": together})

    async def vectors(self, *, controls: bool = False) -> list[VectorInfo]:
        """Vectors that every replica has under the same name; `controls` as in `TraitClient.vectors`."""
        listings = (replica.client.vectors(controls=controls) for replica in self._replicas)
        first, *others = await asyncio.gather(*listings)
        known = [{(vector.name, vector.sha256) for vector in listing} for listing in others]
        return [vector for vector in first if all((vector.name, vector.sha256) in each for each in known)]

    # ---- one exchange, wherever there is room

    async def _exchange(self, call: Call[Any], *, stream: bool = False) -> httpx.Response:
        if call.method in _CHANGING_METHODS:
            return await self._change(call)
        tried: list[_Replica] = []
        while True:
            replica = await self._choose(tried)
            tried.append(replica)
            last = len(tried) == ATTEMPTS
            replica.in_flight += 1
            try:
                response = await replica.client._exchange(call, stream=stream)  # noqa: SLF001 - one of our own
            except ServiceUnreachableError as error:
                if last or isinstance(error.__cause__, httpx.ReadTimeout):
                    raise
                await self._look_at(replica)
            else:
                if last or not await self._is_lost(replica, call, response):
                    return response
                await response.aclose()
            finally:
                replica.in_flight -= 1
            logger.debug("%s %s broke off on %s and is sent again", call.method, call.path, replica.client.base_url)

    async def _change(self, call: Call[Any]) -> httpx.Response:
        """Change every replica; return the first refusal, else the first replica's answer."""
        responses = [await replica.client._exchange(call) for replica in self._replicas]  # noqa: SLF001
        return next((response for response in responses if not response.is_success), responses[0])

    async def _choose(self, tried: list[_Replica]) -> _Replica:
        """The ready replica with the lowest load, if possible one that this call has not tried."""
        if not any(replica.back.is_set() for replica in self._replicas):
            waiting = [asyncio.ensure_future(replica.back.wait()) for replica in self._replicas]
            await asyncio.wait(waiting, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
            for future in waiting:
                future.cancel()
        there = [replica for replica in self._replicas if replica.back.is_set()]
        if not there:
            addresses = ", ".join(replica.client.base_url for replica in self._replicas)
            raise ServiceUnreachableError(f"no replica was ready within {self._patience:g} s: {addresses}")
        if tried and tried[-1] in there:
            await asyncio.sleep(0.25 * 2 ** len(tried))
        return min(there, key=lambda replica: (tried.count(replica), replica.load))

    async def _is_lost(self, replica: _Replica, call: Call[Any], response: httpx.Response) -> bool:
        """Tell whether an answer means a lost replica: from a balancer without it, a full one, or a dead engine."""
        status = response.status_code
        if status in call.answers or status not in _LOST_STATUSES | {500}:
            return False
        ready = await self._look_at(replica)
        return status in _LOST_STATUSES or not ready

    async def _look_at(self, replica: _Replica) -> bool:
        """Tell whether a replica accepts requests; one that does not is not used until it does."""
        async with replica.looking:
            if replica.back.is_set() and not await _is_ready(replica):
                logger.warning("%s is gone; what it was doing goes to the others", replica.client.base_url)
                replica.back.clear()
                probe = asyncio.create_task(self._wait_for(replica))
                self._probes.add(probe)
                probe.add_done_callback(self._probes.discard)
            return replica.back.is_set()

    async def _wait_for(self, replica: _Replica) -> None:
        while not await _is_ready(replica):  # noqa: ASYNC110 - another process sends no event
            await asyncio.sleep(PROBE_SECONDS)
        logger.warning("%s is back", replica.client.base_url)
        replica.back.set()


async def _is_ready(replica: _Replica) -> bool:
    try:
        return await replica.client.ready()
    except TraitError:
        return False


def _check_same(first: ServiceInfo, other: ServiceInfo, first_url: str, other_url: str) -> None:
    left, right = (info.model_dump(exclude=_INFO_FIELDS_IGNORED) for info in (first, other))
    for name, value in left.items():
        if right[name] != value:
            raise InvalidRequestError(
                f"{first_url} and {other_url} are not replicas: {name} is {value!r} here and {right[name]!r} there",
                param="service",
            )
