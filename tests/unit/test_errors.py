import importlib
import pkgutil
import re
from typing import Annotated, Literal

import pytest
import trait_client
import trait_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from trait_core.errors import MAX_SHOWN, MAX_WHERE, TraitError, first_fault
from trait_core.schema import PositionScope


class Judge(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    api_key: str


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    layers: Annotated[list[int], Field(min_length=1)] = [3]
    scope: Literal["all", "prompt"] | PositionScope = "all"
    labels: dict[str, float] = {}
    judge: Judge | None = None

    @model_validator(mode="after")
    def _ordered(self):
        if self.layers != sorted(self.layers):
            raise ValueError("layers must be in order")
        return self


def fault_of(values, **options):
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(values)
    return first_fault(caught.value, **options)


def test_the_first_of_two_faults_names_its_field_rule_and_value():
    fault = fault_of({"layers": [1, "2"], "labels": {"a": "b"}})
    assert fault.where == "layers.1"
    assert fault.loc == ("layers", 1)
    assert fault.kind == "int_type"
    assert str(fault) == "layers.1: Input should be a valid integer"
    assert fault.with_value() == "layers.1: Input should be a valid integer (got '2')"


def test_the_first_fault_is_named_even_if_a_later_one_is_deeper():
    assert fault_of({"layers": [], "labels": {"a": "b"}}).where == "layers"


def test_a_union_names_the_field_once_with_all_its_alternatives():
    fault = fault_of({"scope": "some"})
    assert fault.where == "scope"
    assert "'all' or 'prompt' or " in str(fault)
    assert str(fault).endswith("PositionScope")


def test_the_branch_of_a_union_that_got_furthest_is_the_one_that_is_reported():
    assert fault_of({"scope": {"positions": "x"}}).where == "scope.positions"


def test_a_rule_of_the_whole_value_gets_the_callers_name_and_no_prefix():
    values = {"layers": [2, 1]}
    assert str(fault_of(values, whole="the file")) == "the file: layers must be in order"
    assert str(fault_of(values)) == "layers must be in order"


def test_the_path_of_a_larger_value_is_put_before_the_field():
    assert fault_of({"layers": []}, within="sweep").where == "sweep.layers"
    assert str(fault_of({"layers": [2, 1]}, within="sweep")) == "sweep: layers must be in order"


def test_a_hidden_field_is_named_without_its_value():
    fault = fault_of({"judge": {"api_key": 12345}}, hide={"judge"})
    assert fault.with_value() == "judge.api_key: Input should be a valid string"
    assert fault.value is None
    assert "12345" in fault_of({"judge": {"api_key": 12345}}).with_value()


def test_a_missing_field_has_no_value_to_show():
    assert fault_of({"judge": {}}).with_value() == "judge.api_key: Field required"


def test_an_unknown_field_keeps_its_name_even_if_it_looks_like_a_branch():
    assert fault_of({"a[0]": 1}).where == "a[0]"


def test_a_callers_text_is_cut():
    fault = fault_of({"x" * 500: "y" * 500})
    assert fault.where == "x" * MAX_WHERE
    assert fault.with_value().endswith("...)")
    assert len(fault.with_value()) < MAX_WHERE + MAX_SHOWN + 60


def drawn():
    """Name of an error -> name of its parent, as the tree in the docstring shows them."""
    above, found = {}, {}
    for line in TraitError.__doc__.splitlines():
        if branch := re.match(r" {8}((?:[│ ] {3})*)[├└]── (\w+)", line):
            depth = len(branch[1]) // 4 + 1
            found[branch[2]] = above.get(depth - 1, "TraitError")
            above[depth] = branch[2]
    return found


def test_the_tree_shows_every_error_of_the_client_under_its_base():
    for package in (trait_core, trait_client):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)

    def below(base):
        for error in base.__subclasses__():
            yield error
            yield from below(error)

    mine = {
        e for e in below(TraitError) if e.__module__.startswith(("trait_core", "trait_client")) and e.__name__[0] != "_"
    }
    assert drawn() == {error.__name__: error.__bases__[0].__name__ for error in mine}
