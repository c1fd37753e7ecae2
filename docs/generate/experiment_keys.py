"""The keys of experiment.toml, from the model that reads it."""

from typing import Any, get_args

from page_parts import document, split_docstring, table
from pydantic import BaseModel


def page() -> str:
    """Text of the page."""
    from trait_client.judge.config import JudgeConfig
    from trait_client.sweeps.experiment import Control, DamageSpec, Experiment, PrecisionService, TraitOverride

    sections: dict[str, tuple[str, type[BaseModel]]] = {
        "## The experiment": ("Every trait runs on every combination of the others, and on every prompt.", Experiment),
        "## `[control]`": ("", Control),
        "## `[damage]`": ("", DamageSpec),
        "## `[trait.NAME]`": ("", TraitOverride),
        "## `[precision.NAME]`": ("", PrecisionService),
        "## `[judge]`": ("How scores are taken: [howto-judge.md](../howto-judge.md).", JudgeConfig),
    }
    parts = ["What a sweep runs. An example to begin with: [howto-sweep.md](../howto-sweep.md)."]
    for title, (more, model) in sections.items():
        before, described = split_docstring(model.__doc__ or "")
        parts.append("\n\n".join(filter(None, [title, before, more, _keys(model, described)])))
    return document("experiment.toml", parts)


def _keys(model: type[BaseModel], described: dict[str, str]) -> str:
    rows = []
    for name, field in model.model_fields.items():
        if _is_section(field.annotation):
            continue
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
        rows.append((f"`{name}`", described.get(name, ""), default.replace("`None`", "")))
    return table(("key", "", "default"), rows)


def _is_section(annotation: Any) -> bool:
    parts = get_args(annotation) or (annotation,)
    return any(
        isinstance(part, type) and issubclass(part, BaseModel) for part in parts if part is not type(None)
    ) and not any(getattr(part, "__name__", "") in {"PositionScope", "Gate"} for part in parts)
