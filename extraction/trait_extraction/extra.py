"""The extra `extraction`: torch, scikit-learn and gguf are imported only where a command needs them."""

from importlib.util import find_spec

from trait_core.errors import InvalidRequestError

INSTALL = "pip install 'trait-steering[extraction]'"


def is_installed(module: str) -> bool:
    """Tell whether a module of the extra can be imported, without importing it."""
    return find_spec(module) is not None


def require(module: str, package: str, purpose: str) -> None:
    """Refuse to go on without a module of the extra.

    Args:
        module: Its import name.
        package: Its name for pip.
        purpose: Subject of the message: the command or function that needs it.

    Raises:
        InvalidRequestError: It is not installed.
    """
    if not is_installed(module):
        raise InvalidRequestError(f"{purpose} needs {package}: {INSTALL}")
