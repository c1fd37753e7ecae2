"""Entry point of `vllm.general_plugins`: loaded in every process of vLLM, with or without our block in its config."""

from trait_service.engine import operation


def register() -> None:
    """Register the custom operation and nothing else: an engine without our `worker_cls` never calls it."""
    operation.register()
