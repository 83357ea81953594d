"""The classes and functions that make components: imported, or read from their source.

Importing an in-process backend loads torch, and importing a hosted one its client. To check or describe
settings, a signature, its types and its docstring are enough, and the source has them.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol, get_type_hints

from stepagent.errors import ConfigError


class Load(Protocol):
    """Returns the object that `target` names as module:name. Raises ConfigError naming `role`."""

    def __call__(self, role: str, target: str, remedy: str | None = None) -> Any:
        """Return the object."""
        ...


def import_object(role: str, target: str, remedy: str | None = None) -> Any:
    """Return the object that `target` names as module:name; modules in the working directory count.

    Raises ConfigError naming `role`.
    """
    module, _, name = target.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        remedy = remedy or "check the name and that the module can be imported from here"
        raise ConfigError(f"{role}: cannot import '{target}' ({error}); {remedy}") from None


def load_outline(role: str, target: str, remedy: str | None = None) -> Any:
    """Return the outline of a built-in backend; import everything else. Raises ConfigError naming `role`."""
    if target.startswith("stepagent.backends."):
        return outline(target)
    return import_object(role, target, remedy)


@cache
def outline(target: str) -> Callable[..., Any]:
    """Return a function with the signature, the types and the docstring of the constructor that `target` names as
    module:name in this package. Its module is not imported, and it makes nothing."""
    module, _, name = target.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(f"{target}: its source file is missing; install stepagent again")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    node = next(statement for statement in tree.body if getattr(statement, "name", None) == name)
    init = node
    if isinstance(node, ast.ClassDef):
        init = next(statement for statement in node.body if getattr(statement, "name", None) == "__init__")
    if not isinstance(init, ast.FunctionDef):
        raise TypeError(f"{target} is neither a class with a constructor nor a function")
    names = _Names(module, tree)

    def stand_in(*_: object, **__: object) -> None:
        raise TypeError(f"{target} is only outlined; import it to make it")

    parameters = [parameter for parameter in _parameters(init, names) if parameter.name != "self"]
    stand_in.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    stand_in.__annotations__ = {p.name: p.annotation for p in parameters if p.annotation is not p.empty}
    stand_in.__doc__ = ast.get_docstring(node) if isinstance(node, ast.ClassDef | ast.FunctionDef) else None
    return stand_in


def hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a constructor's arguments; none where only a type checker can resolve them."""
    try:
        return get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
    except NameError:
        return {}


class _Names(dict[str, Any]):
    """The names of a module, each resolved when an annotation asks for it."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        super().__init__()
        self._module = module
        self._origins = {
            alias.asname or alias.name: (statement.module, alias.name)
            for statement in tree.body
            if isinstance(statement, ast.ImportFrom) and statement.module
            for alias in statement.names
        }

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        module, original = self._origins.get(name, (self._module, name))
        self[name] = value = getattr(importlib.import_module(module), original)
        return value


def _parameters(function: ast.FunctionDef, names: _Names) -> Iterator[inspect.Parameter]:
    """Return the parameters of a function's source, their annotations and defaults evaluated."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    undefaulted = len(positional) - len(arguments.defaults)
    for index, argument in enumerate(positional):
        default = arguments.defaults[index - undefaulted] if index >= undefaulted else None
        yield _parameter(argument, default, names, kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(argument, default, names, kind=inspect.Parameter.KEYWORD_ONLY)


def _parameter(argument: ast.arg, default: ast.expr | None, names: _Names, *, kind: Any) -> inspect.Parameter:
    empty = inspect.Parameter.empty
    return inspect.Parameter(
        argument.arg,
        kind,
        default=empty if default is None else _value(default, names),
        annotation=empty if argument.annotation is None else _value(argument.annotation, names),
    )


def _value(expression: ast.expr, names: _Names) -> Any:
    return eval(compile(ast.Expression(expression), "<outline>", "eval"), {}, names)
