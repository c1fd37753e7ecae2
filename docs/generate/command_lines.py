"""A page for each command line, from its own parser."""

import inspect
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from page_parts import document, table

INTRODUCTION = {
    "trait-client": "Steers, sweeps, captures and shows. Needs neither torch nor vllm. Exit codes: 0 ok, 1 failed, 2 usage, "
    "3 partial, 130 interrupted.",
    "trait-extract": "Makes vectors from contrastive datasets. Exit codes: 0 ok, 1 failed, 2 usage, 130 interrupted.",
    "trait-service": "Serves a model that can be steered. `serve` takes vLLM's own options too.",
}

TYPES = {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"}


def pages() -> dict[str, str]:
    """File name -> text."""
    import trait_client.cli.app
    import trait_extraction.cli
    import trait_service.cli

    apps = {
        "trait-client": trait_client.cli.app.app,
        "trait-extract": trait_extraction.cli.app,
        "trait-service": trait_service.cli.app,
    }
    return {f"{name}.md": _page(name, typer.main.get_command(app)) for name, app in apps.items()}


def _page(program: str, root: Any) -> str:
    commands = list(_commands(program, root))
    index = table(("command", ""), ((f"[`{name}`](#{_anchor(name)})", _help(each)[0]) for name, each in commands))
    return document(program, [INTRODUCTION[program], index, *(_section(name, each) for name, each in commands)])


def _commands(path: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(f"{path} {name}", command)
        else:
            yield f"{path} {name}", command


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _help(command: Any) -> list[str]:
    """Paragraphs of its help."""
    return [" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n")]


def _section(name: str, command: Any) -> str:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and not param.hidden]
    usage = " ".join([name, *(_argument(param) for param in arguments), *(["[OPTIONS]"] if options else [])])
    parts = [f"## {name}", f"```text\n{usage}\n```", *_help(command)]
    rows = [(f"`{_argument(param)}`", param.help or "", _default(param)) for param in arguments]
    rows += [(_option(param), param.help or "", _default(param)) for param in options]
    return "\n\n".join([*parts, table(("", "", "default"), rows)]) if rows else "\n\n".join(parts)


def _argument(param: Any) -> str:
    return (param.metavar or param.name.upper()) + ("..." if param.nargs == -1 else "")


def _option(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts])
    value = "" if param.is_flag else f" {_type(param)}"
    return names + value + (" (repeatable)" if param.multiple else "")


def _type(param: Any) -> str:
    annotation = param.type_descriptor.annotation
    if get_origin(annotation) is list:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return " / ".join(get_args(annotation))
    if get_origin(annotation) is tuple:
        return " ".join(TYPES[each] for each in get_args(annotation))
    if issubclass(annotation, Enum):
        return " / ".join(str(one.value) for one in annotation)
    return TYPES[annotation]


def _default(param: Any) -> str:
    value = getattr(param.default, "value", param.default)
    shown = "required" if param.required else ""
    if isinstance(value, str | int | float | Path) and not isinstance(value, bool):
        shown = f"`{value}`"
    return f"{shown}{', ' if shown else ''}or `${param.envvar}`" if param.envvar else shown
