"""The drawings of docs/architecture.md have the real arrows: each line is an import, and each import follows the lines."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from fenced_blocks import ROOT, blocks

PAGE = "docs/architecture.md"
DRAWN = ("trait_service", "trait_client", "trait_extraction")
_ARROW = re.compile(r"^ *(\w+) --> (\w+)$", re.MULTILINE)


def load_import_arrows():
    """The test module beside this one: tests are no packages."""
    path = Path(__file__).parents[1] / "unit" / "test_import_arrows.py"
    spec = importlib.util.spec_from_file_location("import_arrows", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["import_arrows"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    found = load_import_arrows()
    known = found.modules()
    return {module: found.imports(path, known) - {module} for module, path in known.items()}


def parts_of(package: str, imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Part of a package (a folder or file directly below it) -> parts that it imports."""
    own = [module for module in imports if module.startswith(f"{package}.")]
    found: dict[str, set[str]] = {module.split(".")[1]: set() for module in own}
    for module in own:
        part = module.split(".")[1]
        found[part] |= {other.split(".")[1] for other in imports[module] if other in own} - {part}
    return found


def packages_of(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module, others in imports.items():
        package = module.partition(".")[0]
        found.setdefault(package, set()).update({other.partition(".")[0] for other in others} - {package})
    return found


def reached(start: str, arrows: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for other in arrows.get(waiting.pop(), set()) - found:
            found.add(other)
            waiting.append(other)
    return found


def necessary(arrows: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows that no way over other parts implies."""
    return {
        (part, other)
        for part, others in arrows.items()
        for other in others
        if not any(other in reached(between, arrows) for between in others - {other})
    }


def drawings() -> dict[str, set[tuple[str, str]]]:
    """Heading of a drawing's comment -> its arrows."""
    found = {}
    for block in blocks(PAGE):
        if block.language == "mermaid":
            title = re.search(r"%% (\w+)", block.text)
            assert title, f"{block.where}: a drawing begins with the comment `%% PACKAGE`"
            found[title.group(1)] = set(_ARROW.findall(block.text))
    return found


def test_each_package_is_drawn():
    assert set(drawings()) == {"packages", *DRAWN}


@pytest.mark.parametrize("package", ["packages", *DRAWN])
def test_a_drawing_has_the_real_arrows(imports, package):
    real = necessary(packages_of(imports) if package == "packages" else parts_of(package, imports))
    drawn = drawings()[package]
    assert drawn == real, f"to draw: {sorted(real - drawn)}; to take away: {sorted(drawn - real)}"


@pytest.mark.parametrize("package", DRAWN)
def test_every_part_is_described(imports, package):
    described = set(re.findall(r"^\| `(\w+)` \|", (ROOT / PAGE).read_text(), re.MULTILINE))
    assert set(parts_of(package, imports)) <= described


def test_an_arrow_that_is_not_drawn_is_found():
    arrows = {"a": {"b"}, "b": {"c"}, "c": set()}
    assert necessary(arrows) == {("a", "b"), ("b", "c")}
    arrows["a"].add("c")
    assert necessary(arrows) == {("a", "b"), ("b", "c")}, "implied"
    arrows["c"].add("d")
    assert necessary(arrows) == {("a", "b"), ("b", "c"), ("c", "d")}
