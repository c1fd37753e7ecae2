"""What our code takes for granted of vLLM, held against the source of one of its releases.

Everything is found from our own syntax trees: imports, overridden methods, members of vLLM's classes that are read or called
(on `self`, and on whatever an annotation, a constructor or a field of theirs gives a type), and vLLM's parsed arguments.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vllm_sources import Class, Function, Member, Module, Sources, decorators, signature

OURS, THEIRS = "trait_service", "vllm"
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Override(NamedTuple):
    """A method of ours in a class that extends one of vLLM's.

    `theirs` is what it overrides; None where vLLM's classes have no member of its name. `inherited` is True if any class
    behind ours has one.
    """

    concrete: Class
    method: Function
    theirs: Member | None
    inherited: bool

    @property
    def name(self) -> str:
        """Our class with vLLM's class below it, and the method."""
        return f"{self.concrete.name}.{self.method.name}"

    def problem(self) -> str | None:
        """Why vLLM's call of this method, or its call of vLLM's, would fail; None if neither does."""
        if self.theirs is None:
            called = not self.inherited and any(is_super_call(node, self.method.name) for node in ast.walk(self.method))
            return f"{self.name} calls super().{self.method.name}(), which vLLM does not have" if called else None
        node = self.theirs.node
        if not isinstance(node, Function):
            return f"{self.name} is not a method in {self.theirs.owner.name}"
        if ("property" in decorators(node)) != ("property" in decorators(self.method)):
            return f"{self.name}: a property in one of both, a method in the other"
        wanted = not_taken(signature(self.method, bound=True), signature(node, bound=True))
        return f"{self.name} does not take what {self.theirs.owner.name} takes: {wanted}" if wanted else None


def not_taken(ours: inspect.Signature, theirs: inspect.Signature) -> str | None:
    """The first parameter that an override does not take as the overridden method does."""
    kinds = {each.kind for each in ours.parameters.values()}
    star, stars = (kind in kinds for kind in VARIADIC)
    mine = [each for each in ours.parameters.values() if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    for place, each in enumerate(theirs.parameters.values()):
        if each.kind is inspect.Parameter.VAR_POSITIONAL:
            taken = star
        elif each.kind is inspect.Parameter.VAR_KEYWORD:
            taken = stars
        elif each.kind is inspect.Parameter.KEYWORD_ONLY:
            taken = stars or each.name in ours.parameters
        else:
            taken = mine[place].name == each.name if place < len(mine) else star or stars
        if not taken:
            return str(each)
    needed = [each for each in ours.parameters.values() if each.default is each.empty and each.kind not in VARIADIC]
    return next((f"{each} is ours alone" for each in needed if each.name not in theirs.parameters), None)


def is_super_call(node: ast.AST, name: str) -> bool:
    """True for `super().name(...)`."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=attribute)):
            return attribute == name
    return False


def overrides(sources: Sources) -> Iterator[Override]:
    """Every method of a class of ours that extends one of vLLM's, mixins included."""
    for concrete in extending(sources):
        lineage = concrete.lineage()
        for place, ours in enumerate(lineage):
            if ours.package != OURS:
                continue
            for name, method in ours.methods().items():
                below = [Member(each, node) for each in lineage[place + 1 :] if (node := each.own(name)) is not None]
                theirs = next((each for each in below if each.owner.package == THEIRS), None)
                yield Override(concrete, method, theirs, bool(below))


def extending(sources: Sources) -> Iterator[Class]:
    """Our classes that extend one of vLLM's, directly or through a class of ours."""
    for module in sources.modules(OURS):
        for each in module.classes():
            if any(parent.package == THEIRS for parent in each.lineage()):
                yield each


def unimplemented(sources: Sources) -> Iterator[str]:
    """Abstract methods of vLLM's classes that a class of ours does not give."""
    for concrete in extending(sources):
        for parent in concrete.lineage():
            for name, method in parent.methods().items():
                found = concrete.member(name)
                if "abstractmethod" in decorators(method) and found is not None and found.node is method:
                    yield f"{concrete.name} lacks {name}, which {parent.name} asks for"


# ------------------------------------------------------------------------------------------------- names from vLLM


def missing_imports(sources: Sources, module: Module) -> Iterator[str]:
    """Imports from vLLM that fail. Of those tried one after another, one must succeed."""
    alternatives: dict[ast.AST, tuple[ast.Try, str]] = {}
    tried: dict[tuple[ast.Try, str], bool] = {}
    for attempt in [node for node in ast.walk(module.tree) if isinstance(node, ast.Try)]:
        if any("ImportError" in ast.unparse(handler.type) for handler in attempt.handlers if handler.type):
            for node in ast.walk(attempt):
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    alternatives |= {alias: (attempt, alias.asname or alias.name) for alias in node.names}
    for node in ast.walk(module.tree):
        for alias, found in _imported(sources, module, node):
            group = alternatives.get(alias)
            if group is not None:
                tried[group] = tried.get(group, False) or found
            elif not found:
                yield f"{module.name}, line {node.lineno}: {ast.unparse(node)} (no {alias.name})"
    yield from (
        f"{module.name}, line {attempt.lineno}: no place has {name}"
        for (attempt, name), found in tried.items()
        if not found
    )


def _imported(sources: Sources, module: Module, node: ast.AST) -> Iterator[tuple[ast.alias, bool]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.split(".")[0] == THEIRS:
                yield alias, sources.module(alias.name) is not None
    elif isinstance(node, ast.ImportFrom):
        origin = module.origin(node)
        if origin.split(".")[0] == THEIRS:
            for alias in node.names:
                yield alias, sources.symbol(origin, alias.name) is not None


# -------------------------------------------------------------------------------------------------- members and calls


class Use(NamedTuple):
    """A member that is read of, or called on, a class of vLLM's."""

    where: str
    owner: str
    member: str
    problem: str | None


def uses(sources: Sources) -> Iterator[Use]:
    """Every member of a class of vLLM's that our code reads or calls, as far as its type can be seen."""
    options = argument_names(sources)
    for concrete in extending(sources):
        for ours in [each for each in concrete.lineage() if each.package == OURS]:
            for method in ours.methods().values():
                yield from Scope(sources, ours.module, method, concrete, ours).with_local_names().uses(options)
    for module in sources.modules(OURS):
        inside = {node for each in module.classes() for node in ast.walk(each.node)}
        for node in ast.walk(module.tree):
            if isinstance(node, Function) and node not in inside:
                yield from Scope(sources, module, node).with_local_names().uses(options)
        for each in module.classes():
            if all(parent.package == OURS for parent in each.lineage()):
                for method in each.methods().values():
                    yield from Scope(sources, module, method, each, each).with_local_names().uses(options)


def argument_names(sources: Sources) -> set[str]:
    """Attributes of the namespace that vLLM's parser makes: its settings' fields, and options written out."""
    parser = sources.symbol(f"{OURS}.compat.names", "make_arg_parser")
    assert parser is not None
    found = set()
    for module in (sources.module(f"{THEIRS}.engine.arg_utils"), parser.module):
        assert module is not None
        for node in ast.walk(module.tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
            elif (
                isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
            ):
                names = [each.value for each in node.args if isinstance(each, ast.Constant)]
                found |= {str(name).lstrip("-").replace("-", "_") for name in names}
    return found


class Scope:
    """One function of ours: the types of its names, as far as annotations and assignments give them.

    Args:
        sources: Both packages.
        module: Where it is defined.
        function: Itself.
        concrete: The class of its `self`.
        ours: The class in whose body it is.
    """

    def __init__(
        self,
        sources: Sources,
        module: Module,
        function: Function,
        concrete: Class | None = None,
        ours: Class | None = None,
    ) -> None:
        self.sources, self.module, self.function, self.concrete, self.ours = sources, module, function, concrete, ours
        self.types: dict[str, Class | None] = {}
        self.arguments: set[str] = set()
        arguments = function.args
        for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if each.annotation is not None:
                self.types[each.arg] = module.class_of(each.annotation)
                if ast.unparse(each.annotation) == "Namespace":
                    self.arguments.add(each.arg)
        if concrete is not None and arguments.args and "staticmethod" not in decorators(function):
            self.types[arguments.args[0].arg] = concrete

    def with_local_names(self) -> "Scope":
        """The same, with the types of what the function assigns."""
        for node in ast.walk(self.function):
            self._note(node)
        return self

    def _note(self, node: ast.AST) -> None:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                kind = self.kind(value)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                kind = self.module.class_of(annotation) or (self.kind(value) if value is not None else None)
            case _:
                return
        # A name that gets things of two classes has no type here.
        self.types[name] = kind if self.types.get(name, kind) == kind else None

    def kind(self, node: ast.expr, depth: int = 0) -> Class | None:
        """The class of an expression's value; None if it cannot be seen."""
        if depth > 8:
            return None
        match node:
            case ast.Name(id=name):
                return self.types.get(name)
            case ast.Await(value=value):
                return self.kind(value, depth)
            case ast.Attribute(value=value, attr=name):
                owner = self.kind(value, depth + 1)
                return None if owner is None else kind_of_member(self.sources, owner, name, depth + 1)
            case ast.Call(func=ast.Name() as function):
                return self.module.class_of(function)
            case ast.Call(func=ast.Attribute(value=value, attr=name)):
                owner = self.kind(value, depth + 1)
                member = None if owner is None else found_member(owner, name)
                if member is not None and isinstance(member.node, Function) and member.node.returns is not None:
                    return member.owner.module.class_of(member.node.returns)
        return None

    def uses(self, options: set[str]) -> Iterator[Use]:
        """The members that the function uses, each with what is wrong with it."""
        calls = {node.func: node for node in ast.walk(self.function) if isinstance(node, ast.Call)}
        for node in ast.walk(self.function):
            if not isinstance(node, ast.Attribute):
                continue
            where = f"{self.module.name}, line {node.lineno}"
            if isinstance(node.value, ast.Name) and node.value.id in self.arguments:
                known = node.attr in options
                yield Use(
                    where, "arguments", node.attr, None if known else f"{where}: vLLM's parser has no {node.attr}"
                )
                continue
            owner, member = self._target(node)
            if owner is None or THEIRS not in {each.package for each in owner.lineage()}:
                continue
            if member is None:
                if any(owner in each.lineage() and found_member(each, node.attr) for each in extending(self.sources)):
                    continue  # an object of vLLM's whose class we swap for ours
                missing = not owner.has_base_outside() and owner.member("__getattr__") is None
                yield Use(
                    where, owner.name, node.attr, f"{where}: {owner.name} has no {node.attr}" if missing else None
                )
            elif member.owner.package == THEIRS:
                yield Use(where, member.owner.name, node.attr, _call_problem(calls.get(node), member, where))

    def _target(self, node: ast.Attribute) -> tuple[Class | None, Member | None]:
        if is_super_call(ast.Call(func=node, args=[], keywords=[]), node.attr):
            if self.concrete is None or self.ours is None:
                return None, None
            lineage = self.concrete.lineage()
            below = lineage[lineage.index(self.ours) + 1 :]
            found = next((Member(each, own) for each in below if (own := each.own(node.attr)) is not None), None)
            return self.concrete, found
        owner = self.kind(node.value)
        return owner, None if owner is None else found_member(owner, node.attr)


def found_member(owner: Class, name: str) -> Member | None:
    """A member of a class; what a class of ours only declares (`model_runner: Any`) must be set by ours or be vLLM's."""
    declared = None
    for each in owner.lineage():
        node = each.own(name)
        if node is None:
            continue
        if each.package == OURS and isinstance(node, ast.AnnAssign) and node.value is None:
            declared = declared or Member(each, node)
            if any(isinstance(child, ast.Attribute) and child.attr == name and isinstance(child.ctx, ast.Store)
                   for child in ast.walk(each.node)):  # fmt: skip
                return declared
            continue
        return Member(each, node)
    theirs = any(each.package == THEIRS for each in owner.lineage())
    return None if theirs else declared


def kind_of_member(sources: Sources, owner: Class, name: str, depth: int) -> Class | None:
    """The class of a member's value."""
    member = found_member(owner, name)
    if member is None:
        return None
    home = member.owner.module
    match member.node:
        case ast.FunctionDef(returns=returns) as function if "property" in "".join(decorators(function)):
            return None if returns is None else home.class_of(returns)
        case ast.AnnAssign(annotation=annotation):
            return home.class_of(annotation)
        case ast.Assign(value=value):
            for method in member.owner.methods().values():
                if any(node is member.node for node in ast.walk(method)):
                    return Scope(sources, home, method, member.owner, member.owner).kind(value, depth + 1)
    return None


def _call_problem(call: ast.Call | None, member: Member, where: str) -> str | None:
    if call is None or not isinstance(member.node, Function) or "property" in "".join(decorators(member.node)):
        return None
    spread = any(isinstance(each, ast.Starred) for each in call.args) or any(each.arg is None for each in call.keywords)
    theirs = signature(member.node, bound="staticmethod" not in decorators(member.node))
    positional = [each for each in call.args if not isinstance(each, ast.Starred)]
    named = {each.arg: None for each in call.keywords if each.arg is not None}
    try:
        (theirs.bind_partial if spread else theirs.bind)(*positional, **named)
    except TypeError as error:
        return f"{where}: {member.owner.name}.{member.node.name}{theirs}: {error}"
    return None


def sources_of(vllm: Path, ours: Path) -> Sources:
    """Both packages: a release of vLLM below one folder, ours below another."""
    return Sources({THEIRS: vllm, OURS: ours})
