"""Loads, stores and copies that capture files need: little-endian numbers, and whole frames at once.

Plain bodies run interpreted and under `NUMBA_BOUNDSCHECK`; compiled, each becomes one machine instruction
(or one memcpy). Callers have proved that every byte touched lies inside the array.
"""

# numba types its extension points differently from version to version.
# mypy: disable-error-code="untyped-decorator, no-untyped-call, attr-defined, call-arg"

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, overload, register_jitable

from dataplane.kernel import COMPILED


def load16_little(data: Any, offset: Any) -> Any:
    """The 16-bit little-endian number at `offset`, as int64."""
    return np.int64(data[offset]) | (np.int64(data[offset + 1]) << 8)


def load32_little(data: Any, offset: Any) -> Any:
    """The 32-bit little-endian number at `offset`, as int64."""
    return (
        np.int64(data[offset])
        | (np.int64(data[offset + 1]) << 8)
        | (np.int64(data[offset + 2]) << 16)
        | (np.int64(data[offset + 3]) << 24)
    )


def store16_little(data: Any, offset: Any, value: Any) -> None:
    """Write the low 16 bits of `value` at `offset`, little-endian."""
    data[offset] = value & 0xFF
    data[offset + 1] = (value >> 8) & 0xFF


def store32_little(data: Any, offset: Any, value: Any) -> None:
    """Write the low 32 bits of `value` at `offset`, little-endian."""
    data[offset] = value & 0xFF
    data[offset + 1] = (value >> 8) & 0xFF
    data[offset + 2] = (value >> 16) & 0xFF
    data[offset + 3] = (value >> 24) & 0xFF


def copy_bytes(out: Any, at: Any, data: Any, offset: Any, count: Any) -> None:
    """Copy `count` bytes from `data[offset:]` to `out[at:]`; the two must not overlap."""
    out[at : at + count] = data[offset : offset + count]


def _copy_one_by_one(out: Any, at: Any, data: Any, offset: Any, count: Any) -> None:
    for index in range(count):
        out[at + index] = data[offset + index]


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, bits: int) -> Any:
    """Pointer to `array[index]` as an integer of so many bits."""
    struct = context.make_array(array_type)(context, builder, array)
    return builder.bitcast(builder.gep(struct.data, [index]), ir.IntType(bits).as_pointer())


def _load(bits: int) -> Any:
    @intrinsic
    def load(typing_context: Any, data: Any, offset: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(context, builder, signature.args[0], args[0], args[1], bits)
            return builder.zext(builder.load(pointer, align=1), ir.IntType(64))

        return types.int64(data, types.intp), generate

    return load


def _store(bits: int) -> Any:
    @intrinsic
    def store(typing_context: Any, data: Any, offset: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _pointer(context, builder, signature.args[0], args[0], args[1], bits)
            builder.store(builder.trunc(args[2], ir.IntType(bits)), pointer, align=1)
            return context.get_dummy_value()

        return types.void(data, types.intp, types.int64), generate

    return store


@intrinsic
def _copy(typing_context: Any, out: Any, at: Any, data: Any, offset: Any, count: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target = _pointer(context, builder, signature.args[0], args[0], args[1], 8)
        source = _pointer(context, builder, signature.args[2], args[2], args[3], 8)
        cgutils.raw_memcpy(builder, target, source, args[4], itemsize=1)
        return context.get_dummy_value()

    return types.void(out, types.intp, data, types.intp, types.intp), generate


if COMPILED:
    if config.BOUNDSCHECK:
        for plain in (load16_little, load32_little, store16_little, store32_little):
            register_jitable(plain)
        # Assigning a slice would allocate, which kernels may not.
        register_jitable(_copy_one_by_one)
        overload(copy_bytes)(
            lambda out, at, data, offset, count: (
                lambda out, at, data, offset, count: _copy_one_by_one(out, at, data, offset, count)
            )
        )
    else:
        _load16, _load32, _store16, _store32 = _load(16), _load(32), _store(16), _store(32)
        overload(load16_little)(lambda data, offset: lambda data, offset: _load16(data, np.intp(offset)))
        overload(load32_little)(lambda data, offset: lambda data, offset: _load32(data, np.intp(offset)))
        overload(store16_little)(
            lambda data, offset, value: (
                lambda data, offset, value: _store16(data, np.intp(offset), np.int64(value))
            )
        )
        overload(store32_little)(
            lambda data, offset, value: (
                lambda data, offset, value: _store32(data, np.intp(offset), np.int64(value))
            )
        )
        overload(copy_bytes)(
            lambda out, at, data, offset, count: (
                lambda out, at, data, offset, count: _copy(
                    out, np.intp(at), data, np.intp(offset), np.intp(count)
                )
            )
        )
