"""A service in memory with a model and two adapters: `odd` writes of tea and reads the word otherwise, `same` changes nothing."""

import asyncio
import hashlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from fake_service import FakeService, Pool
from trait_client.prompt_sets import SetPrompt
from trait_client.results import ResultStore
from trait_client.variants import CompareOptions, run_comparison, side_of
from trait_core.positions import Positions
from trait_core.schema import ActivationInput, AppliedTerm, LayerEvidence, Message
from trait_core.storage import sha256_of
from trait_core.vectors.file import VectorFile
from vector_fixtures import made_vector

D_MODEL = 64
SHAPE = {"n_layers": 6, "d_model": D_MODEL, "model": "smol"}
ADAPTERS = {"odd": "a1", "same": "a2"}
PLANTED = 6.0
"""Residual units that `odd` adds to the stream of "tea" along the vector `planted`."""


DECODING = 0.25
"""Residual units by which a reply that is being generated is read otherwise than one that is read at once, as by rounding."""


class FakeOrganism(FakeService):
    """A residual stream that follows from the tokens: noise, and for the adapter `odd` also the planted direction."""

    def __init__(self, **info) -> None:
        evidence = LayerEvidence(separation=4.0, centre=0.5, residual_norm=8.0)
        vectors = [made_vector((1, 2), seed, evidence, trait=t, **SHAPE) for seed, t in enumerate(("planted", "other"))]
        super().__init__(*vectors, **SHAPE | {"adapters": ADAPTERS} | info)
        self._asked = threading.local()

    def reply(self, body: dict, prompt: str, applied: Sequence[AppliedTerm]) -> str:
        last = prompt.split()[-2]
        return f"do drink tea , tea is best . {last} is so" if body["model"] == "odd" else f"it is {last} . that is so"

    def stream(self, ids: Sequence[int], position: int, layer: int) -> np.ndarray:
        """`(d_model,)`, before the centre is subtracted."""
        seed = hashlib.sha256(f"{list(ids[: position + 1])}|{layer}".encode()).digest()
        noise = np.random.default_rng(list(seed)).standard_normal(D_MODEL)
        if self._asked.model != "odd":
            return noise
        own = 0.3 * np.random.default_rng([*seed, 1]).standard_normal(D_MODEL)  # training moves everything a little
        planted = VectorFile.from_bytes(self.files["planted"]).directions[layer]
        return noise + own + PLANTED * (self.words[ids[position]] == "tea") * planted

    def projection(self, ids: Sequence[int], position: int, sha256: str, layer: int) -> float:
        data = next(data for data in self.files.values() if sha256_of(data) == sha256)
        return DECODING * self._asked.decodes + float(
            self.stream(ids, position, layer) @ VectorFile.from_bytes(data).directions[layer]
        )

    def pool(self, item: ActivationInput, positions: str, layers: Sequence[int]) -> Pool:
        n_prompt, n_response = self.lengths(item)
        held = Positions.parse(positions).indices(n_prompt, n_prompt + n_response)
        mean = [np.mean([self.stream(item.token_ids, p, layer) for p in held], 0) for layer in layers]
        return Pool(np.array(mean), np.linalg.norm(mean, axis=-1), len(held))

    def _complete(self, body: dict) -> httpx.Response:
        self._asked.model, self._asked.decodes = body["model"], body["max_tokens"] > 1
        return super()._complete(body)

    def _read(self, body: dict) -> httpx.Response:
        self._asked.model = body.get("model")
        return super()._read(body)


def compared(path: Path, words: Sequence[str]) -> ResultStore:
    """A database in which `odd` is compared with its base, on one prompt for each word, by both vectors."""
    prompts = [
        SetPrompt(word, (Message(role="user", content=f"tell me what this is please : {word}"),), None)
        for word in words
    ]
    store, service = ResultStore(path), FakeOrganism()

    async def run() -> None:
        async with service.client() as client:
            base, variant = await side_of(client), await side_of(client, "odd")
            await run_comparison(prompts, CompareOptions(["planted", "other"]), base, variant, store, "things.jsonl")

    with ThreadPoolExecutor(1) as thread:  # a browser test's own thread has an event loop already
        thread.submit(asyncio.run, run()).result()
    return store
