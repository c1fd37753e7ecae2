"""Python packages as syntax trees: what a module defines, which classes a class extends, what their members take.

Nothing is imported, so that a release of vLLM can be read that this machine cannot install.
"""

import ast
import importlib.util
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Symbol(NamedTuple):
    """Something that a module defines: the module, and the node (None for the module itself)."""

    module: "Module"
    node: ast.AST | None


class Member(NamedTuple):
    """Something that a class defines: the class, and the node (a function, an annotation or an assigned value)."""

    owner: "Class"
    node: ast.AST


def installed(package: str) -> Path:
    """The folder that holds an installed package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1]


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, those inside its conditions and attempts included."""
    for node in body:
        yield node
        for name in ("body", "orelse", "finalbody"):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from statements(getattr(node, name, []))
        for handler in getattr(node, "handlers", []):
            yield from statements(handler.body)


class Sources:
    """Packages by their folders.

    Args:
        roots: First part of a module's name -> the folder that holds the package.
    """

    def __init__(self, roots: Mapping[str, Path]) -> None:
        self.roots = dict(roots)
        self._modules: dict[str, Module | None] = {}

    def module(self, name: str) -> "Module | None":
        """A module; None if the packages have none of that name."""
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def modules(self, package: str) -> Iterator["Module"]:
        """Every module at and below a package."""
        root = self.roots[package.split(".", maxsplit=1)[0]]
        for path in sorted(root.joinpath(*package.split(".")).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            module = self.module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
            assert module is not None
            yield module

    def file(self, path: Path) -> "Module":
        """A file that is in no package."""
        return Module(self, path.stem, False, ast.parse(path.read_text(encoding="utf-8")))

    def symbol(self, module: str, name: str) -> Symbol | None:
        """What `from module import name` gives; None if it fails. A name of a package outside gives its node, if any."""
        found = self.module(module)
        return None if found is None else found.symbol(name)

    def _read(self, name: str) -> "Module | None":
        first, *rest = name.split(".")
        if first not in self.roots:
            return None
        stem = self.roots[first].joinpath(first, *rest)
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return Module(self, name, path.name == "__init__.py", ast.parse(path.read_text(encoding="utf-8")))
        # A package without a file of its own.
        return Module(self, name, True, ast.parse("")) if stem.is_dir() and any(stem.rglob("*.py")) else None


@dataclass(eq=False)
class Module:
    """One module's syntax tree."""

    sources: Sources
    name: str
    is_package: bool
    tree: ast.Module
    _resolving: set[str] = field(default_factory=set)

    def symbol(self, name: str) -> Symbol | None:
        """A name that the module binds, imports passed through."""
        if name in self._resolving:  # a module that imports from itself
            return None
        self._resolving.add(name)
        try:
            found = self._symbol(name)
        finally:
            self._resolving.discard(name)
        if found is None and self.is_package:
            submodule = self.sources.module(f"{self.name}.{name}")
            return None if submodule is None else Symbol(submodule, None)
        return found

    def _symbol(self, name: str) -> Symbol | None:
        for node in self.bindings.get(name, []):
            if isinstance(node, ast.alias):
                found = self._imported(node, name)
                if found is not None:
                    return found
            else:
                return Symbol(self, node)
        for starred in self._starred:
            found = self.sources.symbol(starred, name)
            if found is not None:
                return found
        return self._lazy(name)

    def _imported(self, node: ast.alias, name: str) -> Symbol | None:
        origin, original = self._origins[node]
        if origin.split(".")[0] not in self.sources.roots:
            return Symbol(self, node)
        if original is None:
            target = origin if node.asname else name
            module = self.sources.module(target)
            return None if module is None else Symbol(module, None)
        return self.sources.symbol(origin, original)

    def _lazy(self, name: str) -> Symbol | None:
        """A name behind the module's `__getattr__`: `{"LLM": ".entrypoints.llm:LLM"}`, or a key of another table."""
        if "__getattr__" not in self.bindings:
            return None
        for node in ast.walk(self.tree):
            for key, value in zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ():
                if isinstance(key, ast.Constant) and key.value == name:
                    text = value.value if isinstance(value, ast.Constant) else None
                    if isinstance(text, str) and text.startswith(".") and ":" in text:
                        module, _, attribute = text.partition(":")
                        return self.sources.symbol(self.name + module, attribute)
                    return Symbol(self, value)
        return None

    @cached_property
    def bindings(self) -> dict[str, list[ast.AST]]:
        """Name -> the nodes that bind it at the top level."""
        found: dict[str, list[ast.AST]] = {}
        for node in statements(self.tree.body):
            for name, bound in _bound(node):
                found.setdefault(name, []).append(bound)
        return found

    @cached_property
    def _origins(self) -> dict[ast.alias, tuple[str, str | None]]:
        """Each import's module and, of `from` imports, the name there."""
        found: dict[ast.alias, tuple[str, str | None]] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias: (alias.name, None) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {alias: (self.origin(node), alias.name) for alias in node.names}
        return found

    @cached_property
    def _starred(self) -> list[str]:
        return [self.origin(node) for node in statements(self.tree.body)
                if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]  # fmt: skip

    def origin(self, node: ast.ImportFrom) -> str:
        """The full name of the module that a `from` import names."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        parts = parts[: len(parts) - node.level + (1 if self.is_package else 0)]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def late_bindings(self) -> dict[str, ast.alias]:
        """Names that imports inside functions bind, and those at the top."""
        return {alias.asname or alias.name.split(".")[0]: alias for alias in self._origins}

    def class_of(self, node: ast.expr) -> "Class | None":
        """The class that an expression names; None for another kind of thing, or a class outside the packages."""
        match node:
            case ast.Constant(value=str(text)):
                try:
                    return self.class_of(ast.parse(text, mode="eval").body)
                except SyntaxError:
                    return None
            case ast.Name(id=name):
                found = self.symbol(name)
                if found is None and name in self.late_bindings():
                    found = self._imported(self.late_bindings()[name], name)
                return self.sources_class(found)
            case ast.Attribute(value=ast.Name(id=prefix), attr=name):
                found = self.symbol(prefix)
                inside = found.module.symbol(name) if found is not None and found.node is None else None
                return self.sources_class(inside)
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                return self.class_of(left) or self.class_of(right)
            case ast.Subscript(value=ast.Name(id="Optional" | "Annotated" | "type"), slice=inner):
                return self.class_of(inner.elts[0] if isinstance(inner, ast.Tuple) else inner)
        return None

    @staticmethod
    def sources_class(found: Symbol | None) -> "Class | None":
        """The class that a symbol is, if it is one."""
        return Class(found.module, found.node) if found and isinstance(found.node, ast.ClassDef) else None

    def classes(self) -> Iterator["Class"]:
        """The classes that are defined at the top level."""
        for node in statements(self.tree.body):
            if isinstance(node, ast.ClassDef):
                yield Class(self, node)


@dataclass(frozen=True)
class Class:
    """One class, and those that it extends."""

    module: Module
    node: ast.ClassDef

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.module.name}.{self.node.name}"

    @property
    def package(self) -> str:
        """The first part of the full name."""
        return self.module.name.split(".")[0]

    def lineage(self) -> list["Class"]:
        """Itself and every class that it extends, in the order in which Python looks up a member, nearly."""
        found = [self]
        for base in self.node.bases:
            plain = base.value if isinstance(base, ast.Subscript) else base
            parent = self.module.class_of(plain)
            if parent is not None and parent.node is not self.node:
                # A base of two bases comes behind both.
                found = [each for each in found if each not in (rest := parent.lineage())] + rest
        return found

    def has_base_outside(self) -> bool:
        """True if a class of its lineage extends one outside the packages, whose members are not known."""
        harmless = {"ABC", "Protocol", "Generic", "object", "Enum", "NamedTuple"}
        for each in self.lineage():
            for base in each.node.bases:
                plain = base.value if isinstance(base, ast.Subscript) else base
                if each.module.class_of(plain) is None and ast.unparse(plain).split(".")[-1] not in harmless:
                    return True
        return False

    def own(self, name: str) -> ast.AST | None:
        """The node that gives this class, not its parents, a member: in its body, or by an assignment to `self`."""
        return _members(self.node).get(name)

    def member(self, name: str) -> Member | None:
        """A member, inherited ones included."""
        for each in self.lineage():
            node = each.own(name)
            if node is not None:
                return Member(each, node)
        return None

    def methods(self) -> dict[str, Function]:
        """The methods in its body."""
        return {name: node for name, node in _members(self.node).items() if isinstance(node, Function)}


def _bound(node: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """Names that a statement binds, each with the node that says to what."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name, node
        case ast.Assign(targets=targets, value=value):
            yield from ((each.id, value) for each in _single(targets) if isinstance(each, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name, node
        case ast.Import(names=names):
            yield from ((alias.asname or alias.name.split(".")[0], alias) for alias in names)
        case ast.ImportFrom(names=names):
            yield from ((alias.asname or alias.name, alias) for alias in names)


def _single(targets: Sequence[ast.expr]) -> Iterator[ast.expr]:
    """The targets of an assignment, those of a tuple one by one."""
    for target in targets:
        yield from target.elts if isinstance(target, ast.Tuple) else [target]


_known_members: dict[ast.ClassDef, dict[str, ast.AST]] = {}


def _members(node: ast.ClassDef) -> dict[str, ast.AST]:
    if node not in _known_members:
        found: dict[str, ast.AST] = {}
        for statement in statements(node.body):
            for name, bound in _bound(statement):
                found.setdefault(name, bound)
        for method in [each for each in found.values() if isinstance(each, Function)]:
            for name, bound in _set_on_self(method):
                found.setdefault(name, bound)
        _known_members[node] = found
    return _known_members[node]


def _set_on_self(method: Function) -> Iterator[tuple[str, ast.AST]]:
    first = [each.arg for each in (*method.args.posonlyargs, *method.args.args)][:1]
    for node in ast.walk(method):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for each in _single(targets):
            if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and [each.value.id] == first:
                yield each.attr, node


def signature(node: Function, *, bound: bool) -> inspect.Signature:
    """The parameters of a function; without the first if it is bound. Defaults are only marked."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [inspect.Parameter.empty] * (len(positional) - len(arguments.defaults)) + [None] * len(
        arguments.defaults
    )
    found = [
        inspect.Parameter(each.arg, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for each, default in zip(positional, defaults, strict=True)
    ][1 if bound else 0 :]
    if arguments.vararg:
        found.append(inspect.Parameter(arguments.vararg.arg, inspect.Parameter.VAR_POSITIONAL))
    found += [
        inspect.Parameter(
            each.arg,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is None else None,
        )
        for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    if arguments.kwarg:
        found.append(inspect.Parameter(arguments.kwarg.arg, inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(found)


def decorators(node: Function) -> set[str]:
    """Last names of a function's decorators."""
    plain = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
    return {ast.unparse(each).split(".")[-1] for each in plain}
