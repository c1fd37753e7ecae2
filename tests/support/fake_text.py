"""Replies of the fake service: tokens, activations and projections that follow from a text alone."""

import hashlib
from collections.abc import Sequence

import numpy as np
from trait_core.schema import ActivationInput, Message

END = "<end>"


def activation(text: str, layer: int, positions: str, d_model: int) -> np.ndarray:
    """`(d_model,)` float32: the mean residual stream of a text."""
    seed = hashlib.sha256(f"{text}|{layer}|{positions}".encode()).digest()
    return np.frombuffer(seed[:d_model], np.uint8).astype(np.float32)


def projection(ids: Sequence[int], position: int, sha256: str, layer: int) -> float:
    """A projection that follows from all tokens up to a position."""
    seed = hashlib.sha256(f"{list(ids[: position + 1])}|{sha256}|{layer}".encode()).digest()
    return float(seed[0])


def last_text(item: ActivationInput) -> str:
    """The last message of a chat, or the text."""
    return item.messages[-1].text if item.messages is not None else item.text or ""


def chat_words(messages: Sequence[Message]) -> list[str]:
    """The tokens of a chat, up to the header of the assistant's turn."""
    return [w for turn in messages for w in (f"<{turn.role}>", *turn.text.split())] + ["<assistant>"]


def text_words(text: str, *, special: bool) -> list[str]:
    """The tokens of a text."""
    return [*(["<bos>"] if special else []), *text.split()]


def joined(reply: Sequence[str]) -> str:
    """The text of a reply's tokens."""
    return " ".join(token for token in reply if token != END)


def finish_reason(reply: Sequence[str]) -> str:
    """`stop` where the reply came to its end."""
    return "stop" if reply[-1:] == [END] else "length"
