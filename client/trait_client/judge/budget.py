from trait_client.judge.judgement import JudgeBudgetError


class Budget:
    """Calls and tokens that one command may spend, repetitions included.

    A call takes an estimate of its tokens before it is sent, so that calls in flight cannot overdraw it together; the
    endpoint's own count takes its place. A call without an answer keeps its estimate: it may be billed.

    Args:
        max_calls: None sets no limit.
        max_tokens: Prompts and answers; None sets no limit.

    Attributes:
        calls: Sent.
        tokens: Counted by the endpoint; estimated where it did not say.
    """

    def __init__(self, max_calls: int | None, max_tokens: int | None) -> None:
        self.calls = 0
        self.tokens = 0
        self._max_calls = max_calls
        self._max_tokens = max_tokens

    def reserve(self, estimate: int) -> None:
        """Take one call of about so many tokens.

        Raises:
            JudgeBudgetError: It would go over a limit; nothing is taken.
        """
        if self._max_calls is not None and self.calls >= self._max_calls:
            raise JudgeBudgetError(f"the judge's budget is spent: {self.calls} of {self._max_calls} calls (max_calls)")
        if self._max_tokens is not None and self.tokens + estimate > self._max_tokens:
            raise JudgeBudgetError(
                f"the judge's budget is spent: {self.tokens} of {self._max_tokens} tokens (max_tokens)"
            )
        self.calls += 1
        self.tokens += estimate

    def settle(self, estimate: int, actual: int | None) -> None:
        """Put the endpoint's count in place of the estimate."""
        if actual is not None:
            self.tokens += actual - estimate
