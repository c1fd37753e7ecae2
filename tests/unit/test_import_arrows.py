"""The packages build on each other in one direction: no file circle, and no import against the arrows."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "trait_core": ROOT / "client",
    "trait_client": ROOT / "client",
    "trait_steering": ROOT / "client",
    "trait_service": ROOT / "service",
    "trait_extraction": ROOT / "extraction",
}
MAY_IMPORT = {
    "trait_core": set(),
    "trait_client": {"trait_core"},
    "trait_service": {"trait_core"},
    "trait_extraction": {"trait_core", "trait_client"},
    "trait_steering": {"trait_core", "trait_client", "trait_service", "trait_extraction"},
}


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in (folder / package).rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Our own modules that a file imports, late imports and those for types included."""
    named = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                named.add(submodule if submodule in known else node.module)
    return named & set(known)


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components of two modules or more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in sorted(arrows[module]):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = [stack.pop()]
            while group[-1] != module:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for module in sorted(arrows):
        if module not in index:
            visit(module)
    return found


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    known = modules()
    assert len(known) > 200
    return {module: imports(path, known) - {module} for module, path in known.items()}


def test_no_import_runs_against_the_arrows(arrows):
    wrong = []
    for module, targets in arrows.items():
        package = module.partition(".")[0]
        for target in targets:
            other = target.partition(".")[0]
            if other != package and other not in MAY_IMPORT[package]:
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_no_files_import_each_other_in_a_circle(arrows):
    assert circles(arrows) == []


@pytest.mark.parametrize("package", sorted(FOLDERS))
def test_the_parts_of_a_package_build_on_each_other_in_one_direction(arrows, package):
    """A part is a folder or a file directly below the package: no two parts import each other, by any way round."""

    def part(module: str) -> str:
        return ".".join(module.split(".")[:2])

    own = [module for module in arrows if module.startswith(f"{package}.")]
    parts: dict[str, set[str]] = {part(module): set() for module in own}
    for module in own:
        parts[part(module)] |= {part(other) for other in arrows[module] if other in own} - {part(module)}
    assert circles(parts) == []


def test_a_circle_and_a_chain_are_distinguished():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
