"""Checks of addresses and API keys."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(address: str) -> bool:
    """Tell whether a URL, a host name or an IP address leads to this machine only."""
    host = urlsplit(address).hostname or "" if "://" in address else address
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_http_url(address: str) -> bool:
    """Tell whether an address is `http(s)://HOST...` with a usable port."""
    try:
        parts = urlsplit(address)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def fits_header(key: str) -> bool:
    """Tell whether an HTTP header can carry an API key."""
    return key.isascii() and key.isprintable()
