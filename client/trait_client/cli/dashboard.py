"""`trait-client dashboard`: a local web page over the results and the live service."""

import ipaddress
import webbrowser
from typing import Annotated

import typer

from trait_client.cli.console import Database
from trait_client.http import AsyncTraitClient
from trait_client.http.settings import DEFAULT_DATABASE, DEFAULT_URL, URL_VARIABLE
from trait_core.addresses import is_loopback
from trait_core.console import ApiKey, err, out
from trait_core.errors import InvalidRequestError, TraitError
from trait_core.listening import check_port

DEFAULT_PORT = 8600
DEFAULT_HTTP_PORT = 80


def dashboard(
    *,
    db: Database = DEFAULT_DATABASE,
    service: Annotated[
        str, typer.Option("--service", "--url", envvar=URL_VARIABLE, help="Address of the service.")
    ] = DEFAULT_URL,
    api_key: ApiKey = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = DEFAULT_PORT,
    bind: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", help="Another NAME[:PORT] in the page's address, for example behind a proxy; may be repeated."
        ),
    ] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Explore results and talk to the service in a local web page. It only reads; it writes nothing.

    The database and the service may both be missing at the start. There is no password: anyone who can reach the address
    can read the results and use the service with your key, so it listens on this machine only unless you give --bind.

    Example: `trait-client dashboard --db results.duckdb --service http://127.0.0.1:8000`
    """
    try:
        import uvicorn  # noqa: PLC0415 - the extra may be absent

        from trait_client.dashboard.app import create_app  # noqa: PLC0415
        from trait_client.results import ResultStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise TraitError(f"the dashboard needs {error.name}: pip install 'trait-steering[dashboard]'") from error
    hosts = own_hosts(bind, port, host or [])
    check_port(bind, port)
    if not is_loopback(bind):
        err.print(f"{bind} is reachable from other machines, and there is no password", style="yellow")
    address = f"http://{hosts[0]}/"
    out.print(f"dashboard of {db} at {address} (Ctrl-C stops it)", soft_wrap=True)
    if browse:
        webbrowser.open(address)
    app = create_app(ResultStore(db), AsyncTraitClient(service, api_key, timeout=600, retries=0), hosts)
    uvicorn.run(app, host=bind, port=port, log_level="warning", server_header=False, access_log=False)


def own_hosts(bind: str, port: int, others: list[str]) -> list[str]:
    """Accepted values of the `Host` header; the first one is the address to show.

    Raises:
        InvalidRequestError: `bind` is not an IP address.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if bind == "localhost" else bind)
    except ValueError as error:
        raise InvalidRequestError(f"--bind {bind!r} is not an IP address: write 127.0.0.1, ::1 or 0.0.0.0") from error
    names = ["127.0.0.1", "localhost", "[::1]"]
    if not (address.is_loopback or address.is_unspecified):
        names.insert(0, f"[{address}]" if address.version == 6 else str(address))
    hosts = [f"{name}:{port}" for name in names]
    if port == DEFAULT_HTTP_PORT:  # browsers leave it out
        hosts += names
    return hosts + [each.lower() for each in others]
