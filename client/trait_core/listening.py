"""A check that a server can listen on an address, before anything is loaded for it."""

import socket
import sys

from trait_core.errors import TraitError
from trait_core.os_errors import port_sentence


class PortError(TraitError):
    """A server cannot listen on an address: the port is in use, or the machine has no such address."""


def check_port(host: str, port: int) -> None:
    """Bind an address as a server would, and release it again.

    Args:
        host: Name or address to listen on; empty means all addresses of this machine.
        port: Port to listen on, 1 to 65535.

    Raises:
        PortError: The message names the address and says what to do.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise PortError(f"--host {host!r} is not an address of this machine: {error.strerror}") from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        if sys.platform != "win32":  # there the option would let two servers share a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise PortError(port_sentence(error, host or "this machine", port)) from error
