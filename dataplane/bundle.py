"""Many arrays that kernels take as one pointer.

numba passes a tuple of arrays by value, seven machine words each. For the forty arrays of a simulator that is 280 words
that are stored and loaded again at every call, and lowered, optimised and unpacked again for every kernel compiled.
A `Bundle` is passed as the address of a block in memory that holds those words; a kernel loads of them what it uses.
The arrays of a bundle never change places, which lets the compiler keep an array's address in a register.
"""

# numba and llvmlite are untyped, and classes and decorators of theirs are what this module is made of.
# mypy: disable-error-code="misc, untyped-decorator"

from __future__ import annotations

import hashlib
import operator
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from llvmlite import ir
from numba import typeof, types
from numba.core import cgutils, config
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    intrinsic,
    lower_builtin,
    lower_getattr_generic,
    models,
    register_model,
    unbox,
)
from numba.np.arrayobj import load_item, store_item
from numpy.typing import NDArray


class Table(types.Array):
    """An array with one dimension and no gaps. Kernels never count from its end, so an index is used as it is."""

    def __init__(self, array: Any) -> None:
        super().__init__(array.dtype, array.ndim, array.layout, not array.mutable, f"table of {array}", array.aligned)


register_model(Table)(models.ArrayModel)


def _item(context: Any, builder: Any, kind: Any, args: Any) -> Any:
    array = context.make_array(kind)(context, builder, args[0])
    return cgutils.gep_inbounds(builder, array.data, args[1])


if not config.BOUNDSCHECK:

    @lower_builtin(operator.getitem, Table, types.Integer)
    def _get(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        return load_item(context, builder, kind, _item(context, builder, kind, args))

    @lower_builtin(operator.setitem, Table, types.Integer, types.Any)
    def _set(context: Any, builder: Any, signature: Any, args: Any) -> None:
        kind, _, given = signature.args
        value = context.cast(builder, args[2], given, kind.dtype)
        store_item(context, builder, kind, value, _item(context, builder, kind, args))


def _plain(kind: Any) -> Any:
    """The type as which an array is passed to kernels."""
    return Table(kind) if kind.ndim == 1 and kind.layout == "C" else kind


def as_table(array: Any) -> Any:
    """The same array, for a kernel that uses no negative index."""
    return array


if not config.DISABLE_JIT:

    @intrinsic
    def as_table(typing_context: Any, array: Any) -> Any:
        """The same, compiled; an array with gaps stays as it is."""
        return _plain(array)(array), lambda context, builder, signature, args: args[0]


class BundleType(types.Type):
    """What numba knows of a bundle: the types of its arrays, by name."""

    def __init__(self, arrays: tuple[tuple[str, Any], ...]) -> None:
        self.arrays = arrays
        # A short name, since numba makes the symbol of every function out of those of its arguments' types.
        text = ", ".join(f"{name}: {kind}" for name, kind in arrays)
        super().__init__(f"Bundle_{hashlib.sha256(text.encode()).hexdigest()[:16]}")

    def place(self, wanted: str) -> tuple[Any, int]:
        """An array's type, and where its words begin in the block."""
        at = 0
        for name, kind in self.arrays:
            if name == wanted:
                return kind, at
            at += _words(kind.ndim)
        raise AttributeError(wanted)


def _words(dimensions: int) -> int:
    """Items, bytes per item, address, shape, strides."""
    return 3 + 2 * dimensions


def _type_of(array: NDArray[Any]) -> Any:
    return _plain(typeof(array))


@dataclass(frozen=True, eq=False)
class Bundle:
    """Base of dataclasses whose fields are numpy arrays; in kernels as in Python, `bundle.field` is the array."""

    def __post_init__(self) -> None:
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        words: list[int] = []
        for array in arrays.values():
            words += [array.size, array.itemsize, array.ctypes.data, *array.shape, *array.strides]
        block = np.array(words, np.int64)
        remembered = {
            "_block": block,
            "address": block.ctypes.data,
            "_numba_type_": BundleType(tuple((name, _type_of(array)) for name, array in arrays.items())),
        }
        for name, value in remembered.items():
            object.__setattr__(self, name, value)

    def replace(self, **arrays: Any) -> Self:
        """A bundle in which these arrays have taken the place of others."""
        return replace(self, **arrays)


@register_model(BundleType)
class _BundleModel(models.OpaqueModel):
    """An address."""


@unbox(BundleType)
def _unbox(kind: Any, bundle: Any, c: Any) -> Any:
    number = c.pyapi.object_getattr_string(bundle, "address")
    address = c.pyapi.long_as_voidptr(number)
    c.pyapi.decref(number)
    return NativeValue(address, is_error=cgutils.is_not_null(c.builder, c.pyapi.err_occurred()))


@infer_getattr
class _BundleAttributes(AttributeTemplate):
    key = BundleType

    def generic_resolve(self, kind: Any, name: str) -> Any:
        return dict(kind.arrays).get(name)


@lower_getattr_generic(BundleType)
def _load_array(context: Any, builder: Any, kind: Any, address: Any, name: str) -> Any:
    array_type, first = kind.place(name)
    word = ir.IntType(64)
    block = builder.bitcast(address, word.as_pointer())
    constant = builder.module.add_metadata([])

    def load(at: int) -> Any:
        value = builder.load(builder.gep(block, [word(first + at)]))
        value.set_metadata("invariant.load", constant)
        return value

    struct = context.make_array(array_type)(context, builder)
    struct.nitems = load(0)
    struct.itemsize = load(1)
    struct.data = builder.inttoptr(load(2), struct.data.type)
    struct.shape = cgutils.pack_array(builder, [load(3 + i) for i in range(array_type.ndim)])
    struct.strides = cgutils.pack_array(builder, [load(3 + array_type.ndim + i) for i in range(array_type.ndim)])
    return struct._getvalue()
