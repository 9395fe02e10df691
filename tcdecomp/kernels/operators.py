"""The kernels in linear memory with their derivatives, for autograd, torch.func, torch.compile.

A log-sum is a torch operator, ``tcdecomp::log_sum``, opaque to torch.compile and torch.export.
The argument ``kernel`` names the file of the kernel that serves. Second and higher derivatives use
the dense kernel and its memory. vmap takes the entries one by one. Forward-mode and nested
torch.func derivatives need ``kernel="dense"``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from tcdecomp._autocast import no_autocast
from tcdecomp.kernels import dense

__all__ = [
    "differentiable_log_sum",
    "differentiable_mean_log_mixture",
    "log_sum",
    "log_sum_backward",
]


def _kernel(name: str) -> Any:
    return import_module(f"tcdecomp.kernels.{name}")


def _log_sum(
    z: Tensor,
    items: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    component_items: Tensor | None,
    keep: str,
    kernel: str,
) -> tuple[Tensor, Tensor]:
    """Return the joint log-sums, shape (M,), and the marginal ones, shape (M, D)."""
    joint, marginals = _kernel(kernel).log_sum(z, items, mu, logvar, component_items, keep)
    return joint, marginals


def _log_sum_backward(
    grad: Tensor,
    grad_j: Tensor,
    joint: Tensor,
    marginals: Tensor,
    z: Tensor,
    items: Tensor | None,
    mu: Tensor,
    logvar: Tensor,
    component_items: Tensor | None,
    keep: str,
    kernel: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of z, mu and logvar."""
    with no_autocast(z.device):
        of_z, of_mu, of_logvar = _kernel(kernel).log_sum_backward(
            grad, grad_j, joint, marginals, z, items, mu, logvar, component_items, keep
        )
    return of_z, of_mu, of_logvar


def _mean_log_mixture(
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_own: float,
    log_other: float,
    joint: float,
    marginal: float,
    kernel: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the value of :mod:`tcdecomp.kernels.onepass`, and its three gradients."""
    value, of_z, of_mu, of_logvar = _kernel(kernel).mean_log_mixture(
        z, mu, logvar, log_own, log_other, joint, marginal
    )
    return value, of_z, of_mu, of_logvar


# Spelled out, since torch before 2.5 reads no schema from annotations that are strings.
_INPUTS = "Tensor z, Tensor? items, Tensor mu, Tensor logvar, Tensor? component_items, str keep"
_UPSTREAM = "Tensor grad, Tensor grad_j, Tensor joint, Tensor marginals"
log_sum = torch.library.custom_op(
    "tcdecomp::log_sum",
    _log_sum,
    mutates_args=(),
    schema=f"({_INPUTS}, str kernel) -> (Tensor, Tensor)",
)
log_sum_backward = torch.library.custom_op(
    "tcdecomp::log_sum_backward",
    _log_sum_backward,
    mutates_args=(),
    schema=f"({_UPSTREAM}, {_INPUTS}, str kernel) -> (Tensor, Tensor, Tensor)",
)


@log_sum.register_fake
def _(z: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape[:1]), z.new_empty(z.shape)


@log_sum_backward.register_fake
def _(
    grad: Tensor,
    grad_j: Tensor,
    joint: Tensor,
    marginals: Tensor,
    z: Tensor,
    items: Tensor | None,
    mu: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor, Tensor]:
    return z.new_empty(z.shape), mu.new_empty(mu.shape), mu.new_empty(mu.shape)


def _save_log_sum(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.keep, ctx.kernel = inputs
    ctx.save_for_backward(*output, *tensors)


def _log_sum_gradient(ctx: Any, grad: Tensor, grad_j: Tensor) -> tuple[Tensor | None, ...]:
    gradient: Any = _LogSumBackward.apply
    of_z, of_mu, of_logvar = gradient(grad, grad_j, *ctx.saved_tensors, ctx.keep, ctx.kernel)
    return of_z, None, of_mu, of_logvar, None, None, None


def _save_log_sum_backward(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    *tensors, ctx.keep, ctx.kernel = inputs
    ctx.save_for_backward(*tensors)


def _log_sum_second_gradient(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    # The inputs joint and marginals are functions of the others here, and get no gradient.
    grad, grad_j, _, _, z, items, mu, logvar, component_items = ctx.saved_tensors

    def gradient(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        *upstream, z, mu, logvar = inputs
        sums = dense.log_sum(z, items, mu, logvar, component_items, ctx.keep)
        return torch.autograd.grad(sums, (z, mu, logvar), upstream, create_graph=True)

    of_grad, of_grad_j, of_z, of_mu, of_logvar = _pulled_back(
        gradient, (grad, grad_j, z, mu, logvar), grads
    )
    return of_grad, of_grad_j, None, None, of_z, None, of_mu, of_logvar, None, None, None


def _save_mean(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    *posterior, ctx.log_own, ctx.log_other, ctx.joint, ctx.marginal, _ = inputs
    # The gradients are saved as outputs, so that a second backward finds its way through them.
    ctx.save_for_backward(*posterior, *output[1:])


def _mean_gradient(
    ctx: Any, grad: Tensor | None, *second: Tensor | None
) -> tuple[Tensor | None, ...]:
    *posterior, of_z, of_mu, of_logvar = ctx.saved_tensors
    result = [None if grad is None else grad * t for t in (of_z, of_mu, of_logvar)]
    if any(t is not None for t in second):

        def gradient(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
            value = _dense_mean(inputs, ctx.log_own, ctx.log_other, ctx.joint, ctx.marginal)
            return torch.autograd.grad(value, inputs, create_graph=True)

        seconds = [torch.zeros_like(of_z) if t is None else t for t in second]
        curvature = _pulled_back(gradient, posterior, seconds)
        result = [b if a is None else a + b for a, b in zip(result, curvature, strict=True)]
    return *result, None, None, None, None, None


log_sum.register_autograd(_log_sum_gradient, setup_context=_save_log_sum)


class _LogSum(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _log_sum(*inputs)

    setup_context = staticmethod(_save_log_sum)
    backward = staticmethod(_log_sum_gradient)


class _LogSumBackward(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _log_sum_backward(*inputs)

    setup_context = staticmethod(_save_log_sum_backward)
    backward = staticmethod(_log_sum_second_gradient)


class _MeanLogMixture(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _mean_log_mixture(*inputs)

    setup_context = staticmethod(_save_mean)
    backward = staticmethod(_mean_gradient)


def _looped(function: Any) -> Callable[..., tuple[Any, Any]]:
    """Return a vmap rule that applies the Function once to each entry of the mapped dimension."""

    def rule(info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        def entry(i: int) -> list[Any]:
            return [
                a if dim is None else a.select(dim, i)
                for a, dim in zip(arguments, in_dims, strict=True)
            ]

        results = [function.apply(*entry(i)) for i in range(info.batch_size)]
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    return rule


for _function in (_LogSum, _LogSumBackward, _MeanLogMixture):
    _function.vmap = staticmethod(_looped(_function))  # type: ignore[method-assign]


def differentiable_log_sum(*inputs: Any) -> tuple[Tensor, Tensor]:
    """Return what ``log_sum`` does, with the derivatives that the caller can have."""
    # torch.compile takes the operator whole; torch.func takes Functions only.
    function: Any = log_sum if torch.compiler.is_compiling() else _LogSum.apply
    joint, marginals = function(*inputs)
    return joint, marginals


def differentiable_mean_log_mixture(*inputs: Any) -> Tensor:
    """Return the value of the one-pass kernel; torch.compile cannot take it."""
    function: Any = _MeanLogMixture.apply
    value: Tensor = function(*inputs)[0]
    return value


def _dense_mean(
    posterior: Sequence[Tensor], log_own: float, log_other: float, joint: float, marginal: float
) -> Tensor:
    z, mu, logvar = posterior
    own = dense.log_sum(z, None, mu, logvar, None, "own")
    others = dense.log_sum(z, None, mu, logvar, None, "others")
    log_qz, log_qz_j = (
        torch.logaddexp(a + log_own, b + log_other) for a, b in zip(own, others, strict=True)
    )
    return joint * log_qz.mean() + marginal * log_qz_j.sum(1).mean()


def _pulled_back(
    function: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    inputs: Sequence[Tensor],
    grads: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Return the vector-Jacobian product of a function, differentiable if a graph is wanted."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad(), no_autocast(inputs[0].device):
        # Views, so that derivatives end here: in the caller's graph z depends on mu and logvar.
        leaves = [
            t.view_as(t) if create_graph and t.requires_grad else t.detach().requires_grad_()
            for t in inputs
        ]
        return torch.autograd.grad(function(leaves), leaves, grads, create_graph=create_graph)
