"""Routes of the page's API; the answers are built in `data`."""

import json
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from trait_client.dashboard import playground
from trait_client.dashboard.data import comparisons, damage, patchings, readings, runs, settings, vectors
from trait_client.dashboard.data.fingerprints import fingerprints
from trait_client.dashboard.data.prompt_set_index import PromptSetIndex, Selection
from trait_client.dashboard.data.results import Results
from trait_client.dashboard.saved import SAVED
from trait_client.http import AsyncTraitClient
from trait_client.results.json_values import json_value
from trait_core.errors import InvalidRequestError

MAX_ROWS = 10_000
MAX_SECONDS = 20.0
DEFAULT_BAR = 75.0

router = APIRouter(prefix="/api", default_response_class=JSONResponse)


def _results(request: Request) -> Results:
    found = request.app.state.results
    assert isinstance(found, Results)
    return found


def _service(request: Request) -> AsyncTraitClient:
    found = request.app.state.service
    assert isinstance(found, AsyncTraitClient)
    return found


def _selection(
    name: Annotated[str, Query(alias="set")],
    outcome: str | None = None,
    text: Annotated[str, Query(max_length=1000)] = "",
    order: Annotated[str, Query(max_length=120)] = "id",
    descending: bool = False,
    where: Annotated[str, Query(max_length=4000)] = "{}",
) -> Selection:
    return Selection(name, outcome, text, order, descending, _fields(where))


Stored = Annotated[Results, Depends(_results)]
Live = Annotated[AsyncTraitClient, Depends(_service)]
Selected = Annotated[Selection, Depends(_selection)]


class Statement(BaseModel):
    """A query of the SQL view."""

    model_config = ConfigDict(extra="forbid")

    sql: Annotated[str, Field(max_length=100_000)]


def _fields(where: str) -> dict[str, str]:
    """The wanted values of metadata fields, from JSON such as {"note": "short"}."""
    try:
        found = json.loads(where)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InvalidRequestError(f"where {where[:80]!r} is not a JSON object of texts", param="where")
    return found


@router.get("/overview")
def overview(results: Stored, bar: Annotated[float, Query(ge=0, le=100)] = DEFAULT_BAR) -> JSONResponse:
    """Runs, and each trait's best coherent setting."""
    # Never cached: whether a run is active depends on which process holds the file, and no time stamp shows that.
    with results.open() as reader:
        answer = runs.overview(reader, bar)
    return _json({"path": str(results.store.path), **answer})


@router.get("/settings")
def all_settings(results: Stored) -> JSONResponse:
    """Every setting and measure of all sweeps."""
    return _json(results.read(settings.all_settings))


@router.get("/damage")
def effect_and_damage(results: Stored) -> JSONResponse:
    """Effect and damage of the settings whose damage was measured."""
    return _json(results.read(damage.effect_and_damage))


@router.get("/setting")
def setting(results: Stored, id: Annotated[str, Query(max_length=200)]) -> JSONResponse:  # noqa: A002 - the wire's name
    """Replies of one setting."""
    return _json(results.read(settings.setting, id))


@router.get("/sets")
def sets(results: Stored, name: Annotated[str | None, Query(alias="set")] = None) -> JSONResponse:
    """Prompt sets with projections; the named one, or the first, includes its directions and the fields that filter it."""
    found = results.read(readings.prompt_sets)
    shown = next((each for each in found if each["name"] == name), found[0] if found else None)
    if shown is not None:
        index = _index(results, shown["name"])
        more = {"directions": index.directions, "fields": index.fields}
        found = [each | (more if each is shown else {}) for each in found]
    return _json(found)


@router.get("/readings")
def page(results: Stored, chosen: Selected, page: Annotated[int, Query(ge=0)] = 0) -> JSONResponse:
    """A page of a prompt set."""
    index = _index(results, chosen.name)
    with results.open() as reader:
        return _json(readings.page(reader, index, chosen, page))


@router.get("/fingerprints")
def fingerprint_page(
    results: Stored,
    chosen: Selected,
    part: Annotated[str, Query(max_length=80)] = "response",
    by: Annotated[str | None, Query(max_length=200)] = None,
    page: Annotated[int, Query(ge=0)] = 0,
) -> JSONResponse:
    """A page of the heat map of prompts, or groups of them, by directions."""
    index = _index(results, chosen.name)
    with results.open() as reader:
        return _json(fingerprints(reader, index, chosen, part, by, page))


@router.get("/reading")
def reading(
    results: Stored,
    chosen: Selected,
    id: Annotated[str | None, Query(max_length=200)] = None,  # noqa: A002 - the wire's name
) -> JSONResponse:
    """One prompt with its reply, token by token."""
    index = _index(results, chosen.name)
    with results.open() as reader:
        return _json(readings.reading(reader, index, chosen, id))


@router.get("/comparisons")
def all_comparisons(results: Stored) -> JSONResponse:
    """Comparisons of two models."""
    return _json(results.read(comparisons.comparisons))


@router.get("/comparison")
def comparison(results: Stored, id: Annotated[str, Query(max_length=200)]) -> JSONResponse:  # noqa: A002 - the wire's name
    """Findings of one comparison."""
    return _json(results.read(comparisons.comparison, id))


@router.get("/compared")
def compared(
    results: Stored,
    id: Annotated[str, Query(max_length=200)],  # noqa: A002 - the wire's name
    prompt: Annotated[str, Query(max_length=200)],
) -> JSONResponse:
    """One prompt of a comparison, with both models' values by token."""
    return _json(results.read(comparisons.compared, id, prompt))


@router.get("/patchings")
def all_patchings(results: Stored) -> JSONResponse:
    """Patchings of a prompt with another."""
    return _json(results.read(patchings.patchings))


@router.get("/patching")
def patching(results: Stored, id: Annotated[str, Query(max_length=200)]) -> JSONResponse:  # noqa: A002 - the wire's name
    """One patching and its cells."""
    return _json(results.read(patchings.patching, id))


@router.get("/vectors")
def all_vectors(results: Stored) -> JSONResponse:
    """Evidence and cosines of the stored vectors."""
    return _json(results.read(vectors.vectors))


@router.get("/saved")
def saved() -> JSONResponse:
    """Predefined queries of the SQL view."""
    return _json(SAVED)


@router.post("/sql")
def sql(results: Stored, statement: Statement) -> JSONResponse:
    """Run one read-only statement; the number of rows is limited."""
    began = time.monotonic()
    with results.open() as reader:
        answer = reader.bounded(statement.sql, max_rows=MAX_ROWS, max_seconds=MAX_SECONDS)
    return _json(
        {
            "columns": answer.columns,
            "rows": answer.rows,
            "source": answer.source,
            "truncated": answer.truncated,
            "max_rows": MAX_ROWS,
            "seconds": time.monotonic() - began,
        }
    )


@router.get("/service")
async def service(client: Live) -> JSONResponse:
    """The live service."""
    return _json(await playground.describe(client))


@router.post("/chat")
async def chat(client: Live, request: playground.ChatRequest) -> StreamingResponse:
    """A reply, streamed."""
    return StreamingResponse(playground.reply(client, request), media_type="application/x-ndjson")


def _json(value: Any) -> JSONResponse:
    return JSONResponse(json_value(value), headers={"cache-control": "no-store"})


def _index(results: Results, name: str) -> PromptSetIndex:
    return results.read(PromptSetIndex.read, name)
