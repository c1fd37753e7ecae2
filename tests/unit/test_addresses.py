import pytest
from trait_core.addresses import fits_header, is_http_url, is_loopback


@pytest.mark.parametrize(
    "address",
    ["localhost", "127.0.0.1", "127.8.8.8", "::1", "http://localhost:8000", "http://LOCALHOST", "https://[::1]:9/v1"],
)
def test_this_machines_own_addresses(address):
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["", "0.0.0.0", "10.0.0.1", "example.org", "http://10.0.0.1:8000", "http://[::2]/"])
def test_addresses_that_others_can_reach(address):
    assert not is_loopback(address)


@pytest.mark.parametrize("address", ["http://host", "https://host:8443/v1", "http://[::1]:8000"])
def test_http_urls(address):
    assert is_http_url(address)


@pytest.mark.parametrize(
    "address", ["", "host:8000", "ftp://host", "http://", "http://host:0", "http://host:99999", "http://[::1"]
)
def test_addresses_that_are_not_http_urls(address):
    assert not is_http_url(address)


def test_a_header_cannot_carry_a_key_with_a_line_break_or_non_ascii_letters():
    assert fits_header("ts-0Az_-")
    assert not any(fits_header(key) for key in ("two\nlines", "schlüssel", "\x00"))
