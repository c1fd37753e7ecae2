"""Reading a vector file through the model's own final norm and unembedding (`trait_service.engine.lens`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from trait_core.schema import LayerLens, LensToken, VectorLens
from trait_core.vectors.file import VectorFile

from trait_service.engine_link.workers import Workers
from trait_service.resolving.stream_lens import token_text


class Lens:
    """Reads directions as tokens.

    Args:
        workers: The engine's workers.
        tokenizer: The model's tokenizer, as transformers has it.
    """

    def __init__(self, workers: Workers, tokenizer: Any) -> None:
        self._workers = workers
        self._tokenizer = tokenizer

    async def read(self, file: VectorFile, sha256: str, layers: Sequence[int] | None, top_k: int) -> VectorLens:
        """List the tokens that a vector's directions move most.

        Args:
            file: The vector, of the served model's shape.
            sha256: Its identity, for the answer.
            layers: Layers to read; None reads the chosen layer.
            top_k: Number of tokens at either end.

        Raises:
            InvalidRequestError: The file has no direction for a layer, or the model's vectors cannot be read so.
        """
        wanted = [file.metadata.chosen_layer] if layers is None else sorted(set(layers))
        for layer in wanted:
            file.evidence(layer)
        directions = np.stack([file.directions[layer] for layer in wanted])
        ranked = await self._workers.lens(directions, top_k, len(self._tokenizer))
        read = [
            LayerLens(
                layer=layer,
                promoted=self._tokens(ranked["promoted"], row),
                suppressed=self._tokens(ranked["suppressed"], row),
            )
            for row, layer in enumerate(wanted)
        ]
        return VectorLens(sha256=sha256, trait=file.metadata.trait, layers=read)

    def _tokens(self, end: dict[str, list[list[Any]]], row: int) -> list[LensToken]:
        pairs = zip(end["tokens"][row], end["z"][row], strict=True)
        return [LensToken(id=token, text=token_text(self._tokenizer, token), z=z) for token, z in pairs]
