"""The link between the HTTP process and the engine: calls to workers, the vector bank and results."""
