"""vLLM's part of the wire, field by field: completions, chunks of a stream, models, tokens. Nothing is decided here."""

import json
from collections.abc import Sequence
from typing import Any

CREATED = 1_700_000_000
LOGPROB = -0.25
_NOT_USED = dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics"))


def usage(n_prompt: int, n_generated: int) -> dict:
    """Token counts."""
    counts = {"prompt_tokens": n_prompt, "completion_tokens": n_generated, "total_tokens": n_prompt + n_generated}
    return counts | dict.fromkeys(("prompt_tokens_details", "completion_tokens_details"))


def chat(model: str, choices: list[dict], counts: dict) -> dict:
    """`POST /v1/chat/completions`."""
    document = {"id": "chatcmpl-1", "object": "chat.completion", "created": CREATED, "model": model, "choices": choices}
    document |= {"service_tier": None, "system_fingerprint": "fake", "usage": counts}
    return document | dict.fromkeys(("prompt_logprobs", "prompt_token_ids", "prompt_text")) | _NOT_USED


def chat_choice(index: int, text: str, finish_reason: str, logprobs: dict | None = None) -> dict:
    """One reply of a chat."""
    unused = dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
    choice = {"index": index, "message": {"role": "assistant", "content": text, **unused}, "logprobs": logprobs}
    return choice | {"finish_reason": finish_reason, "stop_reason": None, "token_ids": None, "routed_experts": None}


def chat_logprobs(tokens: Sequence[str], n_top: int) -> dict:
    """Log-probabilities of a chat's reply: the token itself is the first of its `n_top` candidates."""
    entries = [{"token": token, "logprob": LOGPROB, "bytes": list(token.encode())} for token in tokens]
    return {"content": [entry | {"top_logprobs": [entry] * n_top} for entry in entries]}


def completion(model: str, choices: list[dict], counts: dict) -> dict:
    """`POST /v1/completions`."""
    document = {"id": "cmpl-1", "object": "text_completion", "created": CREATED, "model": model, "choices": choices}
    return document | {"service_tier": None, "system_fingerprint": "fake", "usage": counts} | _NOT_USED


def completion_choice(index: int, text: str, finish_reason: str, **given: Any) -> dict:
    """One text; `given` are the fields that a request asks for."""
    choice = {"index": index, "text": text, "finish_reason": finish_reason}
    fields = ("logprobs", "stop_reason", "token_ids", "prompt_logprobs", "prompt_token_ids", "routed_experts")
    return choice | dict.fromkeys(fields) | given


def completion_logprobs(tokens: Sequence[str], echoed: Sequence[dict[str, float]] = ()) -> dict:
    """Log-probabilities of a text, as parallel lists; those of an echoed prompt come first, its first token has none."""
    rest = tokens[len(echoed) :]
    tops = [*echoed, *({token: LOGPROB} for token in rest)]
    each = [top[token] for token, top in zip(tokens, tops, strict=True)]
    if echoed:
        each, tops = [None, *each[1:]], [None, *tops[1:]]
    return {
        "text_offset": list(range(len(tokens))),
        "token_logprobs": each,
        "tokens": list(tokens),
        "top_logprobs": tops,
    }


def prompt_logprobs(ids: Sequence[int], words: Sequence[str]) -> list[dict | None]:
    """Log-probability of each prompt token but the first."""
    entries = ({str(i): {"logprob": LOGPROB, "rank": 1, "decoded_token": words[i]}} for i in ids[1:])
    return [None, *entries]


def events(documents: Sequence[dict]) -> bytes:
    """A stream of server-sent events, whole."""
    return b"".join(f"data: {json.dumps(document)}\n\n".encode() for document in documents) + b"data: [DONE]\n\n"


def chunk(model: str, choices: Sequence[dict] = (), **blocks: Any) -> dict:
    """One event of a stream."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": CREATED, "model": model}
    return head | {"choices": list(choices)} | blocks


def piece(content: str | None, finish_reason: str | None = None, **delta: str) -> dict:
    """A choice of a chunk; `role` comes with the first one only."""
    choice = {"index": 0, "delta": {**delta, "content": content}, "logprobs": None, "finish_reason": finish_reason}
    return choice | ({} if delta else {"token_ids": None}) | ({"stop_reason": None} if finish_reason else {})


def models(base: str, aliases: dict[str, str], max_model_len: int) -> dict:
    """`GET /v1/models`; an alias has the sha256 of its vector for a root."""
    cards = [(base, "/models/fake", None), *((name, root, base) for name, root in aliases.items())]
    allowed = ("create_engine", "sampling", "logprobs", "search_indices", "view", "fine_tuning")
    permission = {"id": "modelperm-1", "object": "model_permission", "created": CREATED, "organization": "*"}
    permission |= {f"allow_{each}": True for each in allowed} | {"group": None, "is_blocking": False}
    data = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "vllm", "root": root, "parent": parent,
         "max_model_len": max_model_len, "permission": [permission]}
        for name, root, parent in cards
    ]  # fmt: skip
    return {"object": "list", "data": data}


def tokens(ids: list[int], max_model_len: int) -> dict:
    """`POST /tokenize`."""
    return {"count": len(ids), "max_model_len": max_model_len, "tokens": ids, "token_strs": None}
