"""The functions that pydantic calls have signatures that all versions of Python report alike.

`operator.attrgetter` has none in Python 3.12.1 and `(*args, **kwargs)` from 3.12.3 on, which pydantic refuses: no engine started
there. Linters do not see it, and this machine has one Python.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WRAPPERS = {f"{kind}{of}" for kind in ("Plain", "Wrap", "Before", "After") for of in ("Serializer", "Validator")}


def calls() -> list[tuple[str, ast.expr]]:
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node.args[0])
        for folder in ("client", "service", "extraction")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in WRAPPERS
    ]


def test_there_are_such_calls():
    assert len(calls()) >= 8


@pytest.mark.parametrize(("where", "given"), calls(), ids=lambda value: value if isinstance(value, str) else "")
def test_it_is_a_function_or_a_class_by_its_name(where, given):
    assert isinstance(given, ast.Name | ast.Lambda), f"{where}: {ast.unparse(given)} is made by a call"
