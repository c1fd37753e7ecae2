"""A vector file as a GGUF control vector for llama.cpp and repeng."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from trait_core.errors import InvalidRequestError
from trait_core.schema import Unit
from trait_core.units import residual_units
from trait_core.vectors.file import VectorFile

ARCHITECTURE = "controlvector"


@dataclass(frozen=True)
class ControlVector:
    """Content of the file.

    Args:
        directions: 0-based block -> `(d_model,)` float32, scaled to the length that scale 1 adds in llama.cpp.
        left_out: One sentence for each thing that cannot be expressed.
    """

    directions: dict[int, npt.NDArray[np.float32]]
    left_out: list[str]

    @property
    def lengths(self) -> dict[int, float]:
        """Layer -> length that scale 1 adds, residual units."""
        return {layer: float(np.linalg.norm(d.astype(np.float64))) for layer, d in self.directions.items()}

    def to_bytes(self, model_hint: str) -> bytes:
        """The file's bytes.

        Raises:
            InvalidRequestError: The gguf library is not installed.
        """
        try:
            from gguf import GGUFWriter  # noqa: PLC0415 - optional
        except ModuleNotFoundError as error:
            raise InvalidRequestError("GGUF files are written with the gguf library: pip install gguf") from error
        with tempfile.TemporaryDirectory(prefix="trait-export-") as folder:
            path = Path(folder) / "vector.gguf"
            writer = GGUFWriter(path, ARCHITECTURE)
            writer.add_string(f"{ARCHITECTURE}.model_hint", model_hint)
            writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(self.directions))
            for layer, direction in self.directions.items():
                writer.add_tensor(f"direction.{layer}", direction)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            return path.read_bytes()


def control_vector(
    vector: VectorFile, layers: list[int] | None = None, coefficient: float = 1.0, unit: Unit = "raw"
) -> ControlVector:
    """The directions that llama.cpp adds.

    llama.cpp adds `scale * direction.N` to the output of decoder block N, counted from 0, for every N >= 1 in the
    file: block 0 cannot be expressed. With coefficient 1, unit raw, directions have unit length, and llama.cpp's scale is in
    residual units; else scale 1 is the coefficient.

    Args:
        vector: The vector file.
        layers: Blocks to write; None writes only the chosen layer, where a request without layers steers.
        coefficient: The coefficient that scale 1 stands for.
        unit: Its unit.

    Raises:
        InvalidRequestError: A layer that the file does not have, layer 0 only, or a coefficient without effect.
    """
    wanted = sorted(set([vector.metadata.chosen_layer] if layers is None else layers))
    evidence = {layer: vector.evidence(layer) for layer in wanted}
    left_out = []
    if 0 in wanted:
        wanted.remove(0)
        left_out.append("layer 0 is left out: a control vector numbers directions from 1, and 1 is the second block")
    if not wanted:
        raise InvalidRequestError("layer 0 cannot be expressed in a control vector: choose another", param="layer")
    lengths = {layer: residual_units(coefficient, unit, evidence[layer]) for layer in wanted}
    if not all(np.isfinite(a) and a != 0 for a in lengths.values()):
        raise InvalidRequestError(f"coefficient {coefficient:g} {unit} gives a length of {lengths}", param="coef")
    directions = {
        layer: (vector.directions[layer].astype(np.float64) * a).astype(np.float32) for layer, a in lengths.items()
    }
    return ControlVector(directions, left_out)
