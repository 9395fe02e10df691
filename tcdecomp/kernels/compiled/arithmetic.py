"""What the compiled kernels share: exponentials of which the compiler does many at once."""

# The kernels are in numba's dialect, which mypy does not know.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.polynomial import Chebyshev, Polynomial

__all__ = ["F", "exp32", "exp64", "highest", "jit", "largest", "times"]

F = np.float32
# All of fastmath but its licence to assume that there are no NaN and no infinities.
FAST = {"contract", "reassoc", "arcp", "nsz"}
LOG2_E, LOG_2 = 1 / math.log(2), math.log(2)
# exp(r) = 1 + sum_k SERIES[k] r^k for k >= 1, to 1.2e-12 for |r| <= log(2) / 2
SERIES = tuple(Chebyshev.interpolate(np.exp, 8, (-LOG_2 / 2, LOG_2 / 2)).convert(kind=Polynomial))
SHIFT = 1.5 * 2**52  # a whole number that is added to it stands in the lowest bits


def jit(function: Any) -> Any:
    """Compile a function, and keep the result on disk where numba finds a folder for it.

    What is on disk is used until the function's own file changes. After a change of another file
    that the function calls into, delete ``*.nbi``.
    """
    options = {"nogil": True, "fastmath": FAST, "error_model": "numpy"}
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:  # numba finds no folder that it may write to
        return njit(**options)(function)


@intrinsic
def _as_float32(typing_context, bits):
    """Reinterpret the bits of an int32."""

    def code(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), code


@intrinsic
def _as_float64(typing_context, bits):
    """Reinterpret the bits of an int64."""

    def code(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), code


@intrinsic
def _bits64(typing_context, number):
    """Reinterpret a float64 as an int64."""

    def code(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), code


@intrinsic
def times(typing_context, a, b):
    """Multiply float32 values before all else: of 0 * s * s, the compiler makes no 0 * (s * s)."""

    def code(context, builder, signature, arguments):
        # With a flag of its own, numba does not give it those of FAST.
        return builder.fmul(*arguments, flags=("contract",))

    return types.float32(types.float32, types.float32), code


@njit(inline="always")
def exp32(x):
    """Return exp(x) for x <= 0 to float32's precision, and 0 below -60.

    A weight below e^-60 of its row's largest cannot count. From e^-87 on it would be subnormal,
    with which processors are slow. exp(x) = 2^n exp(r) with |r| <= log(2) / 2, and exp(r) by the
    polynomial of the Cephes library: no branch, so the compiler can do many at once.
    """
    cut = x < F(-60.0)
    x = F(-60.0) if cut else x
    n = np.floor(x * F(LOG2_E) + F(0.5))
    r = x - n * F(0.693359375) + n * F(2.12194440e-4)
    p = F(1.9875691500e-4)
    p = p * r + F(1.3981999507e-3)
    p = p * r + F(8.3334519073e-3)
    p = p * r + F(4.1665795894e-2)
    p = p * r + F(1.6666665459e-1)
    p = p * r + F(5.0000001201e-1)
    p = p * r * r + r + F(1.0)
    p *= _as_float32((np.int32(n) + np.int32(127)) << np.int32(23))
    return F(0.0) if cut else p


@njit(inline="always")
def exp64(x):
    """Return exp(x) for x <= 709 to a relative 1.2e-12, and e^-700 below -700."""
    x = -700.0 if x < -700.0 else x
    n = math.floor(x * LOG2_E + 0.5)
    r = x - n * LOG_2
    p = SERIES[8]
    p = p * r + SERIES[7]
    p = p * r + SERIES[6]
    p = p * r + SERIES[5]
    p = p * r + SERIES[4]
    p = p * r + SERIES[3]
    p = p * r + SERIES[2]
    p = p * r + SERIES[1]
    p = p * r + 1.0
    return _as_float64(_bits64(p) + (_bits64(n + SHIFT) << np.int64(52)))


@njit(inline="always")
def _ordered(bits):
    """Map the bits of a float32 to an int32 of the same order, and back."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit(inline="always")
def largest(arrays):
    """Return the largest size of a float32 value, NaN if there is one; see :func:`highest`."""
    top = np.int32(0)
    for values in arrays:
        bits = values.reshape(-1).view(np.int32)
        for k in range(bits.shape[0]):
            top = max(top, bits[k] & np.int32(0x7FFFFFFF))
    return _as_float32(np.int32(top))


@njit(inline="always")
def highest(row):
    """Return the maximum of float32 values; integers the compiler compares many at once."""
    bits = row.view(np.int32)
    top = np.int32(-(2**31))
    for k in range(bits.shape[0]):
        top = max(top, _ordered(bits[k]))
    return _as_float32(np.int32(_ordered(top)))
