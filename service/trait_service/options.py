"""Command-line options from settings models: each field of a model is an option, with its docstring as the help."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args

import typer
from annotated_types import Ge, Le
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from trait_core.errors import first_fault

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Cli:
    """Annotation of a field whose option differs from the default.

    Args:
        envvar: Environment variable that gives the value if the option is missing.
        hidden: The field is not an option.
    """

    envvar: str | None = None
    hidden: bool = False


def settings_as_options(command: Command) -> Command:
    """Replace each parameter of a typer command whose type is a settings model by one option for each field.

    The command gets the validated model. A value that the model refuses ends the command with the option's name and the
    allowed range.
    """
    signature = inspect.signature(command)
    models = _models(command)
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name in models:
            parameters += [_parameter(option, field) for option, field in option_fields(models[name]).items()]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def with_options(**values: Any) -> Any:
        return command(**gathered(command, values))

    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_options  # type: ignore[return-value]


def gathered(command: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a command with settings models, from the values of its options.

    Raises:
        typer.BadParameter: A model refuses a value; names the option.
    """
    arguments = dict(values)
    for name, model in _models(command).items():
        given = {field: arguments.pop(field) for field in option_fields(model)}
        arguments[name] = _validated(model, given)
    return arguments


def option_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a settings model that are options."""
    return {name: field for name, field in model.model_fields.items() if not _cli(field).hidden}


def option_of(field: str) -> str:
    """The option of a field: `max_n` -> `--max-n`."""
    return f"--{field.replace('_', '-')}"


def _models(command: Callable[..., Any]) -> dict[str, type[BaseModel]]:
    """The settings models among a command's parameters."""
    types = {name: each.annotation for name, each in inspect.signature(inspect.unwrap(command)).parameters.items()}
    return {name: kind for name, kind in types.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    names = []
    if field.annotation is bool:  # a `--no-` form only where it says something
        names = [f"{option_of(name)}/{option_of(f'no_{name}')}" if field.default else option_of(name)]
    minimum: Any = next((limit.ge for limit in field.metadata if isinstance(limit, Ge)), None)
    maximum: Any = next((limit.le for limit in field.metadata if isinstance(limit, Le)), None)
    option: Any = typer.Option(*names, help=field.description, envvar=_cli(field).envvar, min=minimum, max=maximum)
    default = None if field.default_factory is not None else field.default
    kind: Any = field.annotation
    if default is None and type(None) not in get_args(kind):
        kind = Union[kind, None]  # noqa: UP007 - built at run time
    annotation = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _validated(model: type[BaseModel], given: dict[str, Any]) -> BaseModel:
    try:
        return model.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        fault = first_fault(error)
        raise typer.BadParameter(f"{fault.value}: {fault.reason}", param_hint=option_of(str(fault.loc[0]))) from error


def _cli(field: FieldInfo) -> Cli:
    return next((item for item in field.metadata if isinstance(item, Cli)), Cli())
