"""Fixtures that several rooms share: the real models, and a real running service."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, de-quantised; TRAIT_TEST_MODEL names another copy."""
    given = os.environ.get("TRAIT_TEST_MODEL")
    if given:
        return Path(given)
    from trait_service import models

    return models.fetch("smollm2")


@pytest.fixture(scope="session")
def gemma_path() -> Path:
    """Gemma-3-270M base, the second architecture; skipped where it cannot be had."""
    given = os.environ.get("TRAIT_TEST_GEMMA")
    if given:
        return Path(given)
    from trait_client.errors import TraitError

    from trait_service import models

    try:
        return models.fetch("gemma3")
    except TraitError as error:
        pytest.skip(f"Gemma-3-270M is not there: {error}")
