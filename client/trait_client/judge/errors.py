from trait_core.errors import TraitError


class JudgeError(TraitError):
    """The judge gave no score: the score stays pending, it is never 0.

    The tree::

        JudgeError
        ├── JudgeEndpointError   no usable answer: unreachable, too slow, busy, refusing, broken
        ├── JudgeAnswerError     an answer that holds no number of the scale
        └── JudgeBudgetError     the calls or tokens that were allowed are used up
    """

    @property
    def kind(self) -> str:
        """What many failures have in common, for counting them."""
        return f"{type(self).__name__}: {self}"


class JudgeEndpointError(JudgeError):
    """The endpoint did not answer as asked, repetitions included.

    Args:
        message: What happened, and what to do.
        final: Whether asking again is pointless: a wrong key, model or address.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


class JudgeAnswerError(JudgeError):
    """The answer holds no number of the scale.

    Args:
        largest: The scale's end.
        answer: What was written instead.
    """

    def __init__(self, largest: int, answer: str) -> None:
        self._what = f"the judge's answer holds no number from 0 to {largest}"
        super().__init__(f"{self._what}: {answer[:80]!r}")

    @property
    def kind(self) -> str:
        """Without the answer: each is another."""
        return f"{type(self).__name__}: {self._what}"


class JudgeBudgetError(JudgeError):
    """The calls or tokens that were allowed are used up."""
