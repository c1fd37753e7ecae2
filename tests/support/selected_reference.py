"""Selectors of a reply by transformers: where a term acts follows from the tokens generated so far, by the rule for whole texts."""

from dataclasses import dataclass

import numpy as np
import torch
from trait_service.engine.reply_selector import ReplyItem, ReplySelector, ReplyStart
from trait_service.resolving.landmarks import Markers, reasoning


@dataclass(frozen=True)
class SelectedRun:
    """A greedy reply under a term that acts on its reasoning.

    Args:
        begin: Token that opens the reasoning.
        end: Token that closes it.
        tokens: Generated tokens.
        logprobs: `(n_tokens, n_vocabulary)`.
    """

    begin: int
    end: int
    tokens: list[int]
    logprobs: torch.Tensor

    def selector(self, first: int, *items: ReplyItem) -> ReplySelector:
        """A selector of its reply, by its markers."""
        return ReplySelector(reply=ReplyStart(first=first, begin=self.begin, end=self.end), select=items)


def selected_run(reference, ids, n_tokens, pushed) -> SelectedRun:
    """Generate with a hook that acts on the reasoning; the markers are tokens that the model happens to generate.

    Args:
        reference: `engine_harness.Reference`.
        ids: The prompt.
        n_tokens: Tokens to generate.
        pushed: Layer, and `(d_model,)` what is added there.
    """
    plain, _ = reference.greedy(ids, 3)
    begin = plain[2]
    assert begin not in plain[:2]
    endless, _ = _reply(reference, ids, n_tokens, pushed, begin, -1)
    end = next(token for i, token in enumerate(endless) if i > 5 and token != begin and token not in endless[:i])
    return SelectedRun(begin, end, *_reply(reference, ids, n_tokens, pushed, begin, end))


def _reply(reference, ids, n_tokens, pushed, begin, end):
    layer, added = pushed
    text, logprobs = list(ids), []
    for _ in range(n_tokens):
        acts = torch.from_numpy(held("thinking", text, len(ids), begin, end))

        def push(stream, _positions, acts=acts):
            return torch.where(acts[:, None], stream + added, stream)

        tokens, rows = reference.greedy(text, 1, {layer: push})
        text += tokens
        logprobs.append(rows[0])
    return text[len(ids) :], torch.stack(logprobs)


def held(part: str, ids, n_prompt: int, begin: int, end: int) -> np.ndarray:
    """`(n_tokens,)` bool: the text up to each token says that it is in a part of the reply."""
    texts = [f"<{token}>" for token in ids]
    found = np.zeros(len(ids), dtype=np.bool_)
    for at in range(n_prompt, len(ids)):
        spans = reasoning(texts[: at + 1], n_prompt, Markers(f"<{begin}>", f"<{end}>"))
        start, stop = spans[part == "answer"]
        found[at] = start <= at < stop
    return found
