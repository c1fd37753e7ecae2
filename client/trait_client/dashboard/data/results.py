"""Cached answers of a results database."""

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from trait_client.results import ResultReader, ResultStore, layout
from trait_core.storage import Signature, signature

T = TypeVar("T")

Signatures = tuple[Signature, ...]

MOST_KEPT = 64


class Results:
    """A results store that caches answers until its file or its snapshot changes.

    Every query opens the file and closes it again, so that a sweep can start writing at any time.
    """

    def __init__(self, store: ResultStore) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._signature: Signatures = ()
        self._kept: dict[Hashable, Any] = {}

    def read(self, function: Callable[..., T], *arguments: Hashable) -> T:
        """The cached or new result of `function(reader, *arguments)`.

        Raises:
            ResultsError: There is no database, or this version cannot read it.
            InvalidRequestError: The database refuses a query.
        """
        key = (function, arguments)
        signature = self._now()
        with self._lock:
            if signature != self._signature:
                self._signature, self._kept = signature, {}
            elif key in self._kept:
                return self._kept[key]  # type: ignore[no-any-return]
        with self.open() as reader:
            answer = function(reader, *arguments)
        with self._lock:
            if signature == self._signature:
                while len(self._kept) >= MOST_KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = answer
        return answer

    def open(self) -> ResultReader:
        """Open a reader for a result that is not cached.

        Raises:
            ResultsError: There is no database, or this version cannot read it.
        """
        reader = self.store.reader()
        try:
            layout.check(reader, self.store.path)
        except BaseException:
            reader.close()
            raise
        return reader

    def _now(self) -> Signatures:
        return signature(self.store.path), signature(self.store.snapshot)
