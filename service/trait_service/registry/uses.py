"""Which vector files running requests use."""

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager


class VectorUses:
    """Counts requests by the sha256 of the files that they use."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()

    @contextmanager
    def hold(self, hashes: Collection[str]) -> Iterator[None]:
        """Count the files as in use inside the block."""
        self._requests.update(hashes)
        try:
            yield
        finally:
            for sha256 in hashes:
                self._requests[sha256] -= 1
                if self._requests[sha256] == 0:
                    del self._requests[sha256]

    def requests(self, hashes: Collection[str]) -> int:
        """Number of uses of the files by running and waiting requests."""
        return sum(self._requests[sha256] for sha256 in hashes)

    def hashes(self) -> set[str]:
        """Files that are in use."""
        return set(self._requests)
