"""The dashboard's web application: the page's files and its API."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib import resources

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from trait_client.dashboard.data.results import Results
from trait_client.dashboard.host_check import HostCheck
from trait_client.dashboard.routes import router
from trait_client.http import AsyncTraitClient
from trait_client.results import ResultsError, ResultsMissingError, ResultStore
from trait_core.errors import InvalidRequestError, ServiceError, TraitError, first_fault

_STATUS = ((InvalidRequestError, 400), (ResultsMissingError, 404), (ResultsError, 503))
STATIC = resources.files("trait_client.dashboard") / "static"


def create_app(store: ResultStore, service: AsyncTraitClient, hosts: Iterable[str]) -> FastAPI:
    """Create the dashboard for a database and a service; both may be missing at the start.

    Args:
        store: The results database.
        service: Client for the playground; closed with the application.
        hosts: Accepted values of the `Host` header.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    # No generated documentation: its pages load scripts from other sites.
    app = FastAPI(title="trait-steering dashboard", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.results = Results(store)
    app.state.service = service
    app.add_exception_handler(TraitError, _trait_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.include_router(router)

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        return FileResponse(str(STATIC / "index.html"), headers={"cache-control": "no-cache"})

    app.mount("/static", _Files(directory=str(STATIC)))
    app.add_middleware(HostCheck, hosts=tuple(hosts))
    return app


class _Files(StaticFiles):
    """Static files that the browser always revalidates, so that an upgraded package never runs old scripts."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        answer = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        answer.headers["cache-control"] = "no-cache"
        return answer


async def _trait_error(_: Request, error: Exception) -> JSONResponse:
    status = next((each for kind, each in _STATUS if isinstance(error, kind)), 502)
    if isinstance(error, ServiceError) and error.status in {401, 403}:
        message = f"{error} (the dashboard reads the key from TRAIT_API_KEY)"
    else:
        message = str(error)
    return JSONResponse({"error": {"message": message, "type": type(error).__name__, "code": status}}, status)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    fault = first_fault(error)
    message = f"{fault.where.partition('.')[2] or 'body'}: {fault.reason}"  # without `query` or `body` at its head
    return JSONResponse({"error": {"message": message, "type": "InvalidRequestError", "code": 400}}, 400)
