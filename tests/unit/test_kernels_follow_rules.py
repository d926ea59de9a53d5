"""The rules of compiled code (numba's and ours), read from the source: what every kernel may and may not do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "dataplane"
ROOMS = ("nat", "forwarding", "packets")
DECORATORS = {"kernel", "inlined"}
#: Parameters that hold arrays or rows which only kernels touch.
ROWS = {
    "state", "packet", "session", "frame", "data", "pool", "service", "outcome", "outcomes", "entry", "end", "counter",
    "packets", "frames", "cells", "addresses", "rules", "prefixes", "used_ports", "slot_bits", "bits", "backend_slots",
    "out", "old", "new", "tables", "counters", "services",
}  # fmt: skip
#: Kernels may call these besides each other.
BUILT_IN = {"min", "max", "len", "range", "int", "abs"}
NUMBERS = {f"np.{kind}" for kind in ("int32", "int64", "uint32", "uint64")}
FORBIDDEN = (
    ast.Raise, ast.Try, ast.With, ast.Assert, ast.Lambda, ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal,
    ast.List, ast.Dict, ast.Set, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.JoinedStr,
    ast.Import, ast.ImportFrom, ast.ClassDef, ast.Starred, ast.Delete, ast.NamedExpr,
)  # fmt: skip


class Function(NamedTuple):
    """A top-level function of the package."""

    path: Path
    node: ast.FunctionDef
    is_kernel: bool

    def __str__(self) -> str:
        return f"{self.path.relative_to(PACKAGE.parent)}:{self.node.lineno} {self.node.name}"


def decorators(node: ast.FunctionDef) -> set[str]:
    return {decorator.id for decorator in node.decorator_list if isinstance(decorator, ast.Name)}


def functions(path: Path) -> Iterator[Function]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield Function(path, node, bool(decorators(node) & DECORATORS))


MODULES = [path for room in ROOMS for path in sorted((PACKAGE / room).glob("*.py"))]
FUNCTIONS = [function for path in MODULES for function in functions(path)]
KERNELS = [function for function in FUNCTIONS if function.is_kernel]
HELPERS = {function.node.name for name in ("kernel.py", "bundle.py") for function in functions(PACKAGE / name)}
KERNEL_NAMES = {function.node.name for function in KERNELS}


def body(function: Function) -> Iterator[ast.AST]:
    for statement in function.node.body:
        yield from ast.walk(statement)


def parameters(function: Function) -> list[ast.arg]:
    arguments = function.node.args
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def is_any(argument: ast.arg) -> bool:
    return isinstance(argument.annotation, ast.Name) and argument.annotation.id == "Any"


def test_there_are_kernels_to_look_at() -> None:
    assert len(KERNELS) > 60
    assert {"run", "classify", "take_port", "pop_due", "encapsulate", "adjust"} <= KERNEL_NAMES


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if not f.is_kernel], ids=str)
def test_only_kernels_touch_rows(function: Function) -> None:
    """A function that takes rows as kernels do (annotated Any) is one."""
    touched = {argument.arg for argument in parameters(function) if is_any(argument)} & ROWS
    assert not touched, f"{function} takes {touched}: it needs @kernel or @inlined"


@pytest.mark.parametrize("function", KERNELS, ids=str)
def test_a_kernel_calls_kernels_only(function: Function) -> None:
    for node in body(function):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                assert node.func.id in KERNEL_NAMES | HELPERS | BUILT_IN, f"{function} calls {node.func.id}"
            else:
                assert ast.unparse(node.func) in NUMBERS, f"{function} calls {ast.unparse(node.func)}"
            assert not node.keywords, f"{function}: keyword arguments in line {node.lineno}"


@pytest.mark.parametrize("function", KERNELS, ids=str)
def test_a_kernel_raises_prints_and_allocates_nothing(function: Function) -> None:
    for node in body(function):
        assert not isinstance(node, FORBIDDEN), f"{function}: {type(node).__name__} in line {node.lineno}"
        assert not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)), f"{function} defines a function"
        if isinstance(node, ast.Subscript):
            assert not any(isinstance(part, ast.Slice) for part in ast.walk(node.slice)), f"{function} cuts an array"


@pytest.mark.parametrize("function", KERNELS, ids=str)
def test_a_kernel_reads_fields_by_name_in_brackets(function: Function) -> None:
    """`rows[i]["field"]`: attributes are for the arrays of State and for numpy's types only."""
    for node in body(function):
        if isinstance(node, ast.Attribute):
            assert isinstance(node.value, ast.Name), f"{function}: {ast.unparse(node)} in line {node.lineno}"
            assert node.value.id in {"state", "np"}, f"{function}: {ast.unparse(node)} in line {node.lineno}"


@pytest.mark.parametrize("function", KERNELS, ids=str)
def test_a_kernel_has_one_decorator_few_parameters_and_a_docstring_or_an_underscore(function: Function) -> None:
    assert len(function.node.decorator_list) == 1
    arguments = function.node.args
    assert not any((arguments.vararg, arguments.kwarg, arguments.kwonlyargs, arguments.defaults))
    assert len(parameters(function)) <= 6
    assert ast.get_docstring(function.node) or function.node.name.startswith("_")


def test_one_name_is_one_kernel() -> None:
    names = [function.node.name for function in KERNELS if not function.node.name.startswith("_")]
    assert len(names) == len(set(names))


def test_kernels_are_in_their_rooms() -> None:
    """Besides those of the data plane, only captures and the clients of experiments have compiled code."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name not in {*ROOMS, "capture", "runs"}:
            assert not [str(function) for function in functions(path) if function.is_kernel]
