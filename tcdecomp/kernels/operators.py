"""The kernels with their derivatives, for autograd, torch.func, torch.compile and torch.export.

A kernel is a module with the functions of :mod:`tcdecomp.kernels.blocked`; the argument ``kernel``
names it. torch.compile and torch.export get torch operators, which they take whole. Second and
higher derivatives use the dense kernel and its memory. vmap takes the entries one by one.
Forward-mode and nested torch.func derivatives need ``kernel="dense"``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from tcdecomp._autocast import no_autocast
from tcdecomp.kernels import dense

__all__ = ["function_of", "log_joint", "log_mixture", "mean_log_mixture", "mean_of"]

POSTERIOR = "Tensor z, Tensor mu, Tensor logvar, "
MIXTURE = POSTERIOR + "Tensor log_own, Tensor log_other, Tensor? items, Tensor? ids, str kernel"
MEAN = (
    POSTERIOR + "float log_own, float log_other, float joint, float marginal, float kl, str kernel"
)
SCHEMAS = {
    "log_mixture": f"({MIXTURE}) -> (Tensor, Tensor)",
    "log_mixture_backward": "(Tensor grad, Tensor grad_j, Tensor log_q, Tensor log_q_j, "
    f"{MIXTURE}) -> (Tensor, Tensor, Tensor)",
    "mean_log_mixture": f"({MEAN}) -> (Tensor, Tensor, Tensor, Tensor)",
}


def log_mixture(*inputs: Any) -> tuple[Tensor, Tensor]:
    """Return log q(z), shape (M,), and log q(z_j), shape (M, D).

    The arguments are those of :func:`tcdecomp.kernels.dense.log_mixture`, and the kernel's name.
    """
    log_q, log_q_j = _applied(_LogMixture, torch.ops.tcdecomp.log_mixture, inputs)
    return log_q, log_q_j


def mean_log_mixture(*inputs: Any, trained: bool) -> Tensor:
    """Return the value of :func:`tcdecomp.kernels.blocked.mean_log_mixture`.

    The arguments are those of that function, and the kernel's name.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        operator = torch.ops.tcdecomp.mean_log_mixture
        value: Tensor = _applied(_MeanLogMixture, operator, inputs)[0]
        return value
    if not trained:
        return _run("mean_log_mixture", *inputs, gradients=False)[0]  # type: ignore[no-any-return]
    apply: Any = _Mean.apply
    return apply(*inputs[:3], inputs[3:])  # type: ignore[no-any-return]


def log_joint(*inputs: Any) -> Tensor:
    """Return the log-sums of all components' densities, shape (M,), without a gradient.

    The arguments are z, mu and logvar, and the kernel's name.
    """
    return _run("log_joint", *inputs)  # type: ignore[no-any-return]


def _applied(function: Any, operator: Any, inputs: Sequence[Any]) -> Any:
    # torch.compile takes the operator whole; torch.func takes Functions only, which cost less.
    return operator(*inputs) if torch.compiler.is_compiling() else function.apply(*inputs)


def _run(name: str, *inputs: Any, **options: Any) -> Any:
    with no_autocast(inputs[0].device):
        return function_of(inputs[-1], name)(*inputs[:-1], **options)


@cache
def function_of(kernel: str, name: str) -> Any:
    """Return a function of a kernel, which is imported where it is used first."""
    return getattr(import_module(f"tcdecomp.kernels.{kernel}"), name)


class _Kernel(Function):
    """A kernel's function as a node of the graph; ``name`` is that of its operator, too."""

    name: str

    @classmethod
    def vmap(cls, info: Any, in_dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        """Apply the function once to each entry of the mapped dimension."""

        def entry(i: int) -> list[Any]:
            return [
                a if dim is None else a.select(dim, i)
                for a, dim in zip(arguments, in_dims, strict=True)
            ]

        apply: Any = cls.apply
        results = [apply(*entry(i)) for i in range(info.batch_size)]
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)


class _LogMixture(_Kernel):
    name = "log_mixture"

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _run("log_mixture", *inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.kernel = inputs
        ctx.save_for_backward(*output, *tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        inputs = *grads, *ctx.saved_tensors, ctx.kernel
        operator = torch.ops.tcdecomp.log_mixture_backward
        return *_applied(_LogMixtureBackward, operator, inputs), *[None] * 5


class _LogMixtureBackward(_Kernel):
    name = "log_mixture_backward"

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _run("log_mixture_backward", *inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        # log_q and log_q_j are functions of the other inputs here, and get no gradient.
        grad, grad_j, _, _, *posterior, log_own, log_other, items, ids = ctx.saved_tensors

        def gradient(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
            *upstream, z, mu, logvar = inputs
            densities = dense.log_mixture(z, mu, logvar, log_own, log_other, items, ids)
            return torch.autograd.grad(densities, (z, mu, logvar), upstream, create_graph=True)

        of_grad, of_grad_j, *result = _pulled_back(gradient, (grad, grad_j, *posterior), grads)
        return of_grad, of_grad_j, None, None, *result, *[None] * 5


class _MeanLogMixture(_Kernel):
    name = "mean_log_mixture"

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return _run("mean_log_mixture", *inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        # The gradients are saved as outputs, so that a second backward finds its way through them.
        ctx.save_for_backward(*inputs[:3], *output[1:])
        ctx.options = inputs[3:8]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *second: Tensor | None) -> Any:
        *posterior, of_z, of_mu, of_logvar = ctx.saved_tensors
        result = [None if grad is None else grad * t for t in (of_z, of_mu, of_logvar)]
        if any(t is not None for t in second):

            def gradient(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
                value = _dense_mean(inputs, *ctx.options)
                return torch.autograd.grad(value, inputs, create_graph=True)

            seconds = [
                torch.zeros_like(of) if t is None else t
                for of, t in zip((of_z, of_mu, of_logvar), second, strict=True)
            ]
            curvature = _pulled_back(gradient, posterior, seconds)
            result = [b if a is None else a + b for a, b in zip(result, curvature, strict=True)]
        return *result, *[None] * 6


class _Mean(Function):
    """The same for autograd alone, in a fraction of the time that a node costs torch.func."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, mu: Tensor, logvar: Tensor, options: tuple[Any, ...]) -> Any:
        ctx.save_for_backward(z, mu, logvar)
        ctx.options = options
        value, *ctx.gradients = _run("mean_log_mixture", z, mu, logvar, *options)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is not None and not torch.is_grad_enabled():
            if grad.device.type != "cpu" or grad.item() != 1:  # to ask a GPU would be to wait
                gradients = [t.mul_(grad) for t in gradients]
            return *gradients, None
        # They are to be differentiated, or were handed out before.
        apply: Any = _MeanLogMixture.apply
        _, *gradients = apply(*ctx.saved_tensors, *ctx.options)
        return *(grad * t for t in gradients), None


def _dense_mean(
    posterior: Sequence[Tensor],
    log_own: float,
    log_other: float,
    joint: float,
    marginal: float,
    kl: float,
) -> Tensor:
    z, mu, logvar = posterior
    weights = (z.new_full(z.shape[:1], w) for w in (log_own, log_other))
    log_q, log_q_j = dense.log_mixture(z, mu, logvar, *weights)
    return mean_of(log_q, log_q_j, mu, logvar, joint, marginal, kl)


def mean_of(
    log_q: Tensor,
    log_q_j: Tensor,
    mu: Tensor,
    logvar: Tensor,
    joint: float,
    marginal: float,
    kl: float,
) -> Tensor:
    """Return the value of :func:`tcdecomp.kernels.blocked.mean_log_mixture` from densities."""
    value = joint * log_q.mean() + marginal * log_q_j.sum(1).mean()
    if kl == 0:
        return value
    mu, logvar = mu[: len(log_q)], logvar[: len(log_q)]
    return value + kl * 0.5 * (mu.square() + logvar.expm1() - logvar).sum(1).mean()


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


def _shapes(function: type[_Kernel]) -> Callable[..., tuple[Tensor, ...]]:
    """Return what makes results of the right shapes without computing them."""

    def gradients(z: Tensor, mu: Tensor, *_: Any) -> tuple[Tensor, ...]:
        return z.new_empty(z.shape), mu.new_empty(mu.shape), mu.new_empty(mu.shape)

    if function is _LogMixture:
        return lambda z, *_: (z.new_empty(z.shape[:1]), z.new_empty(z.shape))
    if function is _MeanLogMixture:
        return lambda z, *rest: (z.new_empty(()), *gradients(z, *rest))
    return lambda *inputs: gradients(*inputs[4:])


def _register(function: Any) -> None:
    """Make the function a torch operator of its name, with its derivative."""
    operator = torch.library.custom_op(
        f"tcdecomp::{function.name}",
        function.forward,
        mutates_args=(),
        schema=SCHEMAS[function.name],
    )
    operator.register_fake(_shapes(function))
    if function is not _LogMixtureBackward:
        operator.register_autograd(function.backward, setup_context=function.setup_context)


for _function in (_LogMixture, _LogMixtureBackward, _MeanLogMixture):
    _register(_function)
