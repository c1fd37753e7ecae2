"""The HTTP client, sync and async.

Every route is a `Call`: the request, and how its answer is read. `Service` builds calls, reads answers and decides on
retries; `TraitClient` and `AsyncTraitClient` only do I/O and wait. `AsyncTraitReplicas` is the async client over several
replicas of one service.
"""

from trait_client.http.async_client import AsyncTraitClient
from trait_client.http.calls import MAX_CONNECTIONS
from trait_client.http.replicas import AsyncTraitReplicas
from trait_client.http.sync_client import TraitClient

__all__ = ["MAX_CONNECTIONS", "AsyncTraitClient", "AsyncTraitReplicas", "TraitClient"]
