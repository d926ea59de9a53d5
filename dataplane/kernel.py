"""The one decorator for compiled code, and the few machine instructions that numba does not offer.

Kernels are plain Python functions. `@kernel` compiles them with numba; with `NUMBA_DISABLE_JIT=1`
they run as they stand and give the same results, since every helper here has a Python body too.

numba does not notice that a function which a kernel calls has changed in another file: it would load
stale machine code from its cache. So the cache lies in a folder named by a digest of all sources of
this package and of the numba switches that change code (`NUMBA_BOUNDSCHECK`, `NUMBA_OPT`).
"""

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic, overload, register_jitable

F = TypeVar("F", bound=Callable[..., Any])

#: Whether kernels are compiled (false under `NUMBA_DISABLE_JIT=1`).
COMPILED = not config.DISABLE_JIT


def _digest() -> str:
    """Digest of what decides the machine code: our sources, numba's version and switches."""
    root = Path(__file__).resolve().parent
    digest = hashlib.sha256(f"{numba.__version__} {np.__version__} {sys.version}".encode())
    digest.update(f"{config.BOUNDSCHECK} {config.OPT}".encode())
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """The folder of this version's machine code: below `NUMBA_CACHE_DIR`, or the user's cache folder."""
    base = os.environ.get("NUMBA_CACHE_DIR")
    if base:
        return Path(base) / f"dataplane-{_digest()}"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    shared = Path(tempfile.gettempdir()) / f"cache-{os.getuid()}"
    for root in (Path(home), shared):
        folder = root / "dataplane" / _digest()
        try:
            if root == shared:
                root.mkdir(mode=0o700, exist_ok=True)
                status = root.lstat()
                if status.st_uid != os.getuid() or status.st_mode & 0o022:
                    continue  # somebody else's, who could have us run any machine code
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="dataplane-"))


def _forget_old(folder: Path, keep: int = 6) -> None:
    """Delete the machine code of versions that have not been used for a week, beyond a few."""
    others = sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for other in others[keep:]:
        if other != folder and time.time() - other.stat().st_mtime > 7 * 86_400:
            shutil.rmtree(other, ignore_errors=True)


CACHE_FOLDER = cache_folder() if COMPILED else None
if CACHE_FOLDER is not None and "NUMBA_CACHE_DIR" not in os.environ:
    try:
        os.utime(CACHE_FOLDER)
        _forget_old(CACHE_FOLDER)
    except OSError:
        pass  # a cache that cannot be tidied still works


def kernel(function: F) -> F:
    """Compile `function` on first call and keep the machine code on disk; release the GIL."""
    return _compile(function, inline=False)


def inlined(function: F) -> F:
    """The same for a function that is part of its caller: for what runs per packet.

    Registers need not be saved, and what the caller knows already is not asked again.
    """
    return _compile(function, inline=True)


def _compile(function: F, *, inline: bool) -> F:
    saved = config.CACHE_DIR
    if CACHE_FOLDER is not None:
        config.CACHE_DIR = str(CACHE_FOLDER)
    try:
        # Kernels allocate nothing, so arrays need no reference counts: without `_nrt=False` half of the hot
        # path's instructions would count references.
        options = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
        return numba.njit(**options, forceinline=inline)(function)  # type: ignore[no-any-return]
    finally:
        config.CACHE_DIR = saved


def is_compiled() -> bool:
    """Whether this version's machine code is already on disk (true when nothing is to be compiled).

    It is when the packets' whole way is: some commands need only a few kernels, and an interrupted one has not all.
    """
    return CACHE_FOLDER is None or any(CACHE_FOLDER.rglob("pipeline.run-*.nbc"))


# --- loads and stores in network byte order, at any alignment -----------------------------------------
#
# `forwarding/parse.py` proves that an offset lies inside the packet before any of these touches it.
# Under NUMBA_BOUNDSCHECK their plain bodies are compiled, so that a wrong proof is caught.


def load16(data: Any, offset: Any) -> Any:
    """The 16-bit big-endian number at `offset`, as int64."""
    return (np.int64(data[offset]) << 8) | np.int64(data[offset + 1])


def load32(data: Any, offset: Any) -> Any:
    """The 32-bit big-endian number at `offset`, as int64."""
    return (
        (np.int64(data[offset]) << 24)
        | (np.int64(data[offset + 1]) << 16)
        | (np.int64(data[offset + 2]) << 8)
        | np.int64(data[offset + 3])
    )


def store16(data: Any, offset: Any, value: Any) -> None:
    """Write the low 16 bits of `value` at `offset`, big-endian."""
    data[offset] = (value >> 8) & 0xFF
    data[offset + 1] = value & 0xFF


def store32(data: Any, offset: Any, value: Any) -> None:
    """Write the low 32 bits of `value` at `offset`, big-endian."""
    data[offset] = (value >> 24) & 0xFF
    data[offset + 1] = (value >> 16) & 0xFF
    data[offset + 2] = (value >> 8) & 0xFF
    data[offset + 3] = value & 0xFF


def prefetch(rows: Any, index: Any) -> None:
    """Ask for the cache line of `rows[index]` without waiting for it. Does nothing interpreted."""


def unlikely(condition: Any) -> Any:
    """The condition itself; what follows from its truth is compiled to stand out of the way of what is usual."""
    return condition


def trailing_zeros(word: Any) -> Any:
    """The number of zero bits below the lowest set bit of a uint64 that is not zero."""
    value = int(word)
    return (value & -value).bit_length() - 1


def ones(word: Any) -> Any:
    """How many bits of a uint64 are set."""
    return int(word).bit_count()


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any, bits: int) -> Any:
    """Pointer to `array[index]` as an integer of so many bits."""
    struct = context.make_array(array_type)(context, builder, array)
    pointer = builder.gep(struct.data, [index])
    return builder.bitcast(pointer, ir.IntType(bits).as_pointer())


def _load(bits: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def load(typing_context: Any, data: Any, offset: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _address(context, builder, signature.args[0], args[0], args[1], bits)
            return builder.zext(builder.bswap(builder.load(pointer, align=1)), ir.IntType(64))

        return types.int64(data, types.intp), generate

    return load


def _store(bits: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def store(typing_context: Any, data: Any, offset: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = _address(context, builder, signature.args[0], args[0], args[1], bits)
            builder.store(builder.bswap(builder.trunc(args[2], ir.IntType(bits))), pointer, align=1)
            return context.get_dummy_value()

        return types.void(data, types.intp, types.int64), generate

    return store


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typing_context: Any, rows: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(context, builder, signature.args[0], args[0], args[1], 8)
        word = ir.IntType(32)
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [pointer.type, word, word, word]),
            "llvm.prefetch.p0i8",
        )
        builder.call(function, [pointer, word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(rows, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def _unlikely(typing_context: Any, condition: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bit = ir.IntType(1)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(bit, [bit, bit]), "llvm.expect.i1"
        )
        return builder.call(function, [args[0], bit(0)])

    return types.boolean(types.boolean), generate


@intrinsic  # type: ignore[untyped-decorator]
def _trailing_zeros(typing_context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _ones(typing_context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


if COMPILED:
    if config.BOUNDSCHECK:
        for plain in (load16, load32, store16, store32):
            register_jitable(plain)
    else:
        _load16, _load32, _store16, _store32 = _load(16), _load(32), _store(16), _store(32)
        overload(load16)(lambda data, offset: lambda data, offset: _load16(data, np.intp(offset)))
        overload(load32)(lambda data, offset: lambda data, offset: _load32(data, np.intp(offset)))
        overload(store16)(
            lambda data, offset, value: lambda data, offset, value: _store16(
                data, np.intp(offset), np.int64(value)
            )
        )
        overload(store32)(
            lambda data, offset, value: lambda data, offset, value: _store32(
                data, np.intp(offset), np.int64(value)
            )
        )
    overload(prefetch)(lambda rows, index: lambda rows, index: _prefetch(rows, np.intp(index)))
    overload(unlikely)(lambda condition: lambda condition: _unlikely(condition))
    overload(ones)(lambda word: lambda word: _ones(np.uint64(word)))
    overload(trailing_zeros)(lambda word: lambda word: _trailing_zeros(np.uint64(word)))
