"""Readers of error answers."""

import email.utils
import json
from datetime import UTC, datetime

import httpx
from pydantic import ValidationError

from trait_core.schema import ErrorBody


def error_detail(response: httpx.Response) -> tuple[str, str | None]:
    """Return message and field of an error: OpenAI's body, vLLM's `{"error": "..."}`, FastAPI's `detail`, or plain text."""
    try:
        detail = ErrorBody.model_validate_json(response.content).error
    except ValidationError:
        pass
    else:
        return detail.message, detail.param
    try:
        body = json.loads(response.content)
    except ValueError:
        body = response.text.strip()[:200]
    param = None
    for _ in range(2):  # some nest as OpenAI does, with fewer fields
        if isinstance(body, dict):
            param = body["param"] if isinstance(body.get("param"), str) else None
            body = next((body[key] for key in ("error", "detail", "message") if key in body), body)
    return (body if isinstance(body, str) else json.dumps(body)[:500]) or response.reason_phrase, param


def retry_after(response: httpx.Response) -> float | None:
    """Seconds to wait according to `Retry-After`, a number or a date; None if it is absent or unreadable."""
    text = response.headers.get("retry-after", "").strip()
    if text.isdigit():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when.tzinfo else None
