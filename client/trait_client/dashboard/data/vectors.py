"""Evidence for the stored vectors, layer by layer."""

from typing import Any

from trait_client.results import ResultReader


def vectors(reader: ResultReader) -> dict[str, Any]:
    """Evidence by layer of every vector except random controls, and the stored cosines."""
    return {
        "layers": reader.records("SELECT * FROM vector_layers WHERE method <> 'random' ORDER BY trait, method, layer"),
        "cosines": reader.records(
            "SELECT trait, method, other_trait, other_method, layer, cosine, sha256, other_sha256, model "
            "FROM vector_cosines WHERE method <> 'random' AND other_method <> 'random' ORDER BY ALL"
        ),
    }
