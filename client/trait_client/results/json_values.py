"""Result values as JSON."""

import math
from typing import Any

LARGEST_EXACT = 2**53
"""Largest integer that most JSON readers keep exactly."""


def json_value(value: Any) -> Any:
    """The value as JSON: numbers that are not finite become null; times, decimals and huge integers become text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, int) and abs(value) > LARGEST_EXACT:
        return str(value)
    return value if value is None or isinstance(value, str | int | bool) else str(value)
