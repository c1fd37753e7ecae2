"""The judge's options, on every command that uses a judge. They take precedence over the experiment's `[judge]`."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trait_core.errors import DatasetError, InvalidRequestError, first_fault
from trait_core.text_files import read_toml

if TYPE_CHECKING:  # DuckDB takes a while to import
    from trait_client.judge import JudgeConfig, JudgeUsage

JUDGE_PANEL = "Judge"


def _option(kind: type, flag: str, text: str, **constraints: Any) -> Any:
    return Annotated[kind | None, typer.Option(flag, help=text, rich_help_panel=JUDGE_PANEL, **constraints)]


_FILE = _option(
    Path, "--judge", "TOML file with a table [judge], for example an experiment's.", exists=True, dir_okay=False
)
_OPTIONS = {
    "url": _option(str, "--judge-url", "OpenAI-compatible base URL, for example https://HOST/v1."),
    "model": _option(str, "--judge-model", "Model name at that URL."),
    "api_key_env": _option(str, "--judge-key-env", "Name of the environment variable that holds the API key."),
    "scale": _option(
        str, "--judge-scale", "percent (0 to 100), or digit (0 to 9) for models whose tokens are single digits."
    ),
    "concurrency": _option(int, "--judge-concurrency", "Maximum number of requests in flight."),
    "max_calls": _option(int, "--judge-max-calls", "Maximum number of requests by this command."),
    "max_tokens": _option(int, "--judge-max-tokens", "Maximum number of tokens by this command, prompts and replies."),
}
"""Field of `JudgeConfig` -> its option."""


@dataclass(frozen=True)
class JudgeOptions:
    """The judge's options of one command line.

    Attributes:
        file: TOML file with a table `[judge]`.
        given: Field of `JudgeConfig` -> value, for the options that were given.
    """

    file: Path | None = None
    given: dict[str, Any] = field(default_factory=dict)

    def config(self, base: "JudgeConfig | None") -> "JudgeConfig | None":
        """Merge the options into a judge; None if neither configures one.

        Args:
            base: The experiment's or the run's judge. The file replaces it; single options replace its values.

        Raises:
            InvalidRequestError: A value is wrong; the message names it.
        """
        values = base.model_dump() if base is not None else {}
        if self.file is not None:
            values = _table(self.file)
        values |= self.given
        if not values:
            return None
        from pydantic import ValidationError  # noqa: PLC0415

        from trait_client.judge import JudgeConfig  # noqa: PLC0415

        try:
            return JudgeConfig.model_validate(values)
        except ValidationError as error:
            fault = first_fault(error, within="judge")
            raise InvalidRequestError(str(fault), param=fault.where) from error


def judge_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the judge's options to a typer command, in the place of its parameter `judge: JudgeOptions`."""
    annotations = {"judge": _FILE} | {f"judge_{name}": option for name, option in _OPTIONS.items()}
    signature = inspect.signature(command)
    parameters = []
    for parameter in signature.parameters.values():
        if parameter.name == "judge":
            parameters += [parameter.replace(name=n, annotation=a, default=None) for n, a in annotations.items()]
        else:
            parameters.append(parameter)

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        file = values.pop("judge")
        options = {name: values.pop(f"judge_{name}") for name in _OPTIONS}
        given = {name: value for name, value in options.items() if value is not None}
        command(**values, judge=JudgeOptions(file, given))

    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = command.__annotations__ | annotations
    return with_options


def usage_text(usage: "JudgeUsage") -> str:
    """The judge's usage in one line."""
    return (
        f"judge: {usage.judged} scores requested ({usage.logprobs} by probability, {usage.sampled} as text), "
        f"{usage.cached} cached, {usage.calls} calls, {usage.tokens} tokens"
    )


def _table(file: Path) -> dict[str, Any]:
    try:
        table = read_toml(file).get("judge")
    except DatasetError as error:
        raise InvalidRequestError(str(error), param="judge") from error
    if not isinstance(table, dict):
        raise InvalidRequestError(f"{file}: there is no table [judge]", param="judge")
    return table
