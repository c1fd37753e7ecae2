"""API keys, each with a name, scopes and limits. Only their hashes are stored.

A key is 256 random bits, so that its sha256 reveals nothing and cannot be searched: a slow password hash would
add no safety, and would let anyone who sends wrong keys spend the service's time.

    {"version": 1, "keys": [{"name": "laptop", "sha256": "...", "scopes": ["generate", "steer"], "created": "..."}]}
"""

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from trait_core.errors import DatasetError, TraitError, first_fault
from trait_core.locks import locked
from trait_core.schema import NAME_PATTERN
from trait_core.storage import Signature, signature, write_atomically
from trait_core.text_files import read_text

logger = logging.getLogger(__name__)

Scope = Literal["generate", "steer", "vectors:write", "metrics", "admin"]
"""`generate`: run the model as it is. `steer`: change and read its residual stream (together with `generate` where text
is generated). `vectors:write`: register and delete. `metrics`: scrape. `admin`: everything."""

ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))
KEYS_VARIABLE = "TRAIT_KEYS"
"""Environment variable that holds the text of a keys file."""

PREFIX = "ts-"
MAX_KEYS = 10_000
_RELOAD_S = 1.0


class KeysError(TraitError):
    """The keys cannot be read; the service must not start without them."""


class ApiKey(BaseModel):
    """The stored form of a key.

    Attributes:
        sha256: Hex digest of the key's UTF-8 bytes.
        max_relative_dose: Largest relative dose of a request on one layer; None leaves the server's limit.
        requests_per_minute: None leaves the server's limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    created: str = ""
    max_relative_dose: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    def allows(self, scopes: frozenset[Scope]) -> bool:
        """True if the key has one of `scopes`, or `admin`."""
        return "admin" in self.scopes or not scopes.isdisjoint(self.scopes)


ANYONE = ApiKey(name="anyone", sha256="0" * 64, scopes=ALL_SCOPES)
"""The caller if no key is configured. No known text has this digest, and no keyring holds it."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    keys: Annotated[list[ApiKey], Field(max_length=MAX_KEYS)] = []

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [key.name for key in self.keys]
        if len(set(names)) < len(names):
            raise ValueError("two keys have one name")
        return self


def key_digest(key: str) -> str:
    """The hash that is stored in place of a key's text."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def plain_key(text: str, number: int) -> ApiKey:
    """A key given on the command line: it opens everything."""
    return ApiKey(name=f"api-key-{number}", sha256=key_digest(text), scopes=frozenset({"admin"}))


def read_keys(text: str, where: str) -> list[ApiKey]:
    """The keys of a file's text.

    Raises:
        KeysError: The file is not a valid key list. The message gives the location, never a value.
    """
    try:
        return _Document.model_validate_json(text).keys
    except ValidationError as error:
        raise KeysError(f"{where} is not a list of API keys: {first_fault(error, whole='document')}") from None


class KeyFile:
    """A file of keys, changed under a lock and replaced as a whole.

    Args:
        path: Readable by its owner only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[ApiKey]:
        """Read the keys in the file.

        Raises:
            KeysError: The file is absent, unreadable, or not a list of keys.
        """
        try:
            text = read_text(self.path)
        except DatasetError as error:
            raise KeysError(f"the keys file cannot be read: {error}") from None
        return read_keys(text, str(self.path))

    def create(
        self,
        name: str,
        scopes: Collection[str],
        max_relative_dose: float | None = None,
        requests_per_minute: int | None = None,
    ) -> str:
        """Add a key; returns its text, which is not stored.

        Raises:
            KeysError: The name is taken or invalid, a scope does not exist, or a limit is outside its range.
        """
        text = PREFIX + secrets.token_urlsafe(32)
        try:
            key = ApiKey.model_validate(
                {
                    "name": name,
                    "sha256": key_digest(text),
                    "scopes": frozenset(scopes),
                    "created": datetime.now(UTC).isoformat(timespec="seconds"),
                    "max_relative_dose": max_relative_dose,
                    "requests_per_minute": requests_per_minute,
                }
            )
        except ValidationError as error:
            raise KeysError(first_fault(error, hide={"sha256"}).with_value()) from None
        with self._changing() as keys:
            if any(other.name == name for other in keys):
                raise KeysError(f"a key {name!r} exists already: revoke it first, or choose another name")
            keys.append(key)
        return text

    def revoke(self, name: str) -> None:
        """Remove a key.

        Raises:
            KeysError: No key has that name.
        """
        with self._changing() as keys:
            left = [key for key in keys if key.name != name]
            if len(left) == len(keys):
                known = ", ".join(key.name for key in keys[:20]) or "none"
                raise KeysError(f"no key is called {name[:80]!r} (keys: {known})")
            keys[:] = left

    @contextmanager
    def _changing(self) -> Iterator[list[ApiKey]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self.path.with_name(f".{self.path.name}.lock"), mode=0o600):
            keys = self.read() if self.path.exists() else []
            yield keys
            write_atomically(self.path, _Document(keys=keys).model_dump_json(indent=1, exclude_none=True).encode())


class Keyring:
    """The keys that a running service accepts: fixed ones, and those of a file, which is read again when it changes.

    Args:
        fixed: Keys of the command line and the environment.
        file: Keys file; None without one.

    Raises:
        KeysError: The file cannot be read.
    """

    def __init__(
        self, fixed: list[ApiKey], file: KeyFile | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fixed = fixed
        self._file = file
        self._clock = clock
        self._mutex = threading.Lock()
        self._checked = 0.0
        self._signature: Signature = None
        self._of_file: list[ApiKey] = []
        if file is not None:
            self._of_file = file.read()
            self._signature = signature(file.path)

    def __bool__(self) -> bool:
        # An empty key file denies every request.
        return bool(self._fixed) or self._file is not None

    def find(self, text: str) -> ApiKey | None:
        """Find the key of this text, in the same time for every text, known or not."""
        presented = key_digest(text)
        found = None
        for key in [*self._fixed, *self._current()]:
            if secrets.compare_digest(presented, key.sha256):
                found = key
        return found

    def _current(self) -> list[ApiKey]:
        with self._mutex:
            now = self._clock()
            if self._file is not None and now - self._checked >= _RELOAD_S:
                self._checked = now
                self._reload(self._file)
            return self._of_file

    def _reload(self, file: KeyFile) -> None:
        found = signature(file.path)
        if found == self._signature:
            return
        try:
            self._of_file, self._signature = file.read(), found
        except KeysError as error:
            # The keys read before stay valid: a half-edited file must not lock anyone out.
            self._signature = found
            logger.error("%s; the keys read before stay in force", error)  # noqa: TRY400
        else:
            logger.info("%d API keys read from %s", len(self._of_file), file.path)


def configured_keyring(plain: list[str], path: Path | None, environment: Mapping[str, str]) -> Keyring:
    """The keys of `--api-key`, of the environment (`TRAIT_KEYS`) and of `--keys`; false if none is configured.

    Raises:
        KeysError: Keys are configured and cannot be read.
    """
    fixed = [plain_key(text, number) for number, text in enumerate(plain, 1)]
    given = environment.get(KEYS_VARIABLE, "").strip()
    if given:
        fixed += read_keys(given, KEYS_VARIABLE)
    return Keyring(fixed, KeyFile(path) if path is not None else None)
