from trait_client.judge.judgement import JudgeBudgetError


class Budget:
    """Calls and tokens that one command may use, retries included.

    Each call reserves an estimate of its tokens before it is sent, so that calls in flight cannot exceed the limit
    together. The endpoint's count then replaces the estimate. A call without an answer keeps its estimate: it may be billed.

    Args:
        max_calls: Maximum number of calls; None sets no limit.
        max_tokens: Maximum number of tokens, prompts and answers; None sets no limit.

    Attributes:
        calls: Calls sent.
        tokens: Tokens counted by the endpoint, or estimated if it did not say.
    """

    def __init__(self, max_calls: int | None, max_tokens: int | None) -> None:
        self.calls = 0
        self.tokens = 0
        self._max_calls = max_calls
        self._max_tokens = max_tokens

    def reserve(self, estimate: int) -> None:
        """Reserve one call with an estimated number of tokens.

        Raises:
            JudgeBudgetError: It would exceed a limit; nothing is reserved.
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
        """Replace the estimate by the endpoint's count."""
        if actual is not None:
            self.tokens += actual - estimate
