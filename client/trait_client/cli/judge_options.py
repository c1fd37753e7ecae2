"""The options of a judge, on every command that asks one; they go before the experiment's `[judge]`."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trait_core.errors import InvalidRequestError

if TYPE_CHECKING:  # DuckDB takes a while to import
    from trait_client.judge import JudgeConfig, JudgeUsage

_PANEL = "Judge"

JudgeFile = Annotated[
    Path | None,
    typer.Option(
        "--judge",
        exists=True,
        dir_okay=False,
        help="TOML file with a table [judge]; an experiment's will do.",
        rich_help_panel=_PANEL,
    ),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option("--judge-url", help="OpenAI-compatible base URL, as https://HOST/v1.", rich_help_panel=_PANEL),
]
JudgeModel = Annotated[
    str | None, typer.Option("--judge-model", help="Model name at the endpoint.", rich_help_panel=_PANEL)
]
JudgeKeyEnv = Annotated[
    str | None,
    typer.Option(
        "--judge-key-env", help="NAME of the environment variable that holds the key.", rich_help_panel=_PANEL
    ),
]
JudgeScale = Annotated[
    str | None,
    typer.Option(
        "--judge-scale",
        help="percent (0 to 100), or digit (0 to 9) for models that write a digit a token.",
        rich_help_panel=_PANEL,
    ),
]
JudgeConcurrency = Annotated[
    int | None, typer.Option("--judge-concurrency", help="Most requests in flight.", rich_help_panel=_PANEL)
]
JudgeMaxCalls = Annotated[
    int | None, typer.Option("--judge-max-calls", help="Most requests of this command.", rich_help_panel=_PANEL)
]
JudgeMaxTokens = Annotated[
    int | None,
    typer.Option("--judge-max-tokens", help="Most tokens of this command, both ways.", rich_help_panel=_PANEL),
]


def judge_config(base: "JudgeConfig | None", *, file: Path | None, **given: Any) -> "JudgeConfig | None":
    """The judge of an experiment, with a file's table in its place, and options in place of its values.

    Raises:
        InvalidRequestError: A wrong value; the message names it.
    """
    values = base.model_dump() if base is not None else {}
    if file is not None:
        values = _table(file)
    values |= {name: value for name, value in given.items() if value is not None}
    if not values:
        return None
    from pydantic import ValidationError  # noqa: PLC0415

    from trait_client.judge import JudgeConfig  # noqa: PLC0415

    try:
        return JudgeConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(["judge", *(str(part) for part in first["loc"])])
        reason = first["msg"].removeprefix("Value error, ")
        raise InvalidRequestError(f"{where}: {reason}", param=where) from error


def usage_text(usage: "JudgeUsage") -> str:
    """For people."""
    return (
        f"judge: {usage.judged} scores asked for ({usage.logprobs} by probability, {usage.sampled} as written), "
        f"{usage.cached} known already, {usage.calls} calls, {usage.tokens} tokens"
    )


def _table(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("judge")
    except ValueError as error:
        raise InvalidRequestError(f"{file}: not TOML: {error}", param="judge") from error
    if not isinstance(table, dict):
        raise InvalidRequestError(f"{file}: has no table [judge]", param="judge")
    return table
