"""Names of control directions: the random directions that a sweep registers beside a trait's vector.

They are internal. A list, a message and `GET /v1/models` leave them out, and they are deleted with the vector that they
are the control of.
"""

import re
from collections.abc import Collection

from trait_core.schema import SHA256_PREFIX

_DIGITS = 12
_CONTROL = re.compile(rf"^random\.\d+\.([0-9a-f]{{{_DIGITS}}})$")


def control_name(trait_sha256: str, seed: int) -> str:
    """Registry name `random.<seed>.<first 12 hex digits of the trait's vector>`: scales differ between vectors."""
    return f"random.{seed}.{_start(trait_sha256)}"


def is_control(name: str) -> bool:
    """Tell whether a name of the registry is that of a control direction."""
    return _CONTROL.match(name) is not None


def controls_of(hashes: Collection[str], names: Collection[str]) -> list[str]:
    """The names, among `names`, of the controls of vector files.

    Args:
        hashes: `sha256:...` of the files.
        names: Names of the registry.
    """
    starts = {_start(sha256) for sha256 in hashes}
    return [name for name in names if (found := _CONTROL.match(name)) and found.group(1) in starts]


def _start(sha256: str) -> str:
    return sha256.removeprefix(SHA256_PREFIX)[:_DIGITS]
