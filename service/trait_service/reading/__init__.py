"""POST /v1/activations: how activations are read and returned."""
