"""The global batch of several processes, each of which holds some of its rows."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

import torch
from torch import Generator, Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = [
    "Division",
    "GlobalBatch",
    "Group",
    "check_agreement",
    "check_group",
    "made_by_each",
    "resolve_group",
    "shared_refusal",
]

T = TypeVar("T")
Group = Union["ProcessGroup", Literal["world"], None]

_FINE, _EMPTY, _REFUSED = range(3)
_LENGTH = 8  # of what each process says: the same, whether it is refused or not


def check_group(process_group: Group) -> None:
    """Refuse what cannot be a group, before there is one.

    Raises
    ------
    TypeError
        If it is neither None, "world" nor a ProcessGroup.
    """
    if process_group is None or (distributed.is_available() and process_group == "world"):
        return
    if not distributed.is_available() or not isinstance(process_group, distributed.ProcessGroup):
        raise TypeError(
            'process_group must be None, "world" or a torch.distributed ProcessGroup; '
            f"got {process_group!r}"
        )


def resolve_group(process_group: Group) -> ProcessGroup | None:
    """Return the group of processes meant, or None for this process alone.

    Raises
    ------
    TypeError
        If it is neither None, "world" nor a ProcessGroup.
    ValueError
        If this process has joined no group, or not this one.
    """
    check_group(process_group)
    if process_group is None:
        return None
    if not distributed.is_initialized():
        raise ValueError(
            "process_group must be None before torch.distributed.init_process_group; got "
            f"{process_group!r}"
        )
    group = distributed.group.WORLD if process_group == "world" else process_group
    if group is None or distributed.get_rank(group) < 0:
        raise ValueError("process_group must be one that this process belongs to")
    return group


def shared_refusal(group: ProcessGroup | None, rows: object) -> AbstractContextManager[None]:
    """Return a context in which an error of this process raises in the others, too.

    They make a :class:`GlobalBatch` next, as this process does where there is no error.

    Parameters
    ----------
    group : ProcessGroup, optional
        From :func:`resolve_group`.
    rows : object
        What was given as this process's rows, of which there may be none.
    """
    # torch.compile of older torch cannot look into a context that is a generator.
    return nullcontext() if group is None else _shared_refusal(group, rows)


@contextmanager
def _shared_refusal(group: ProcessGroup, rows: object) -> Iterator[None]:
    try:
        yield
    except Exception:
        empty = isinstance(rows, Tensor) and rows.dim() == 2 and len(rows) == 0
        _exchanged(group, [_EMPTY if empty else _REFUSED])
        raise


class GlobalBatch:
    """How many rows each process of a group brings, agreed on by all of them.

    Every process of the group makes one at the same time. One that never does is noticed by the
    group's timeout only.

    Parameters
    ----------
    group : ProcessGroup
        From :func:`resolve_group`.
    rows : Tensor, shape (M, D)
        This process's rows, in the dtype in which they are gathered.
    agree : mapping of str to int
        What else must be the same in every process than D and the dtype, by the name that errors
        give it.

    Raises
    ------
    ValueError
        If a process is in :func:`shared_refusal`, or they do not agree.
    """

    def __init__(self, group: ProcessGroup, rows: Tensor, agree: Mapping[str, int]) -> None:
        self.group = group
        self.rank = distributed.get_rank(group)
        said = {
            **agree,
            "D, the number of latents,": rows.shape[1],
            "the bits of a number": torch.finfo(rows.dtype).bits,
        }
        answers = _exchanged(group, [_FINE, len(rows), *said.values()])
        self.rows: list[int]
        states, self.rows, *values = (list(column) for column in zip(*answers, strict=True))
        _check_states(states)
        for name, by_rank in zip(said, values, strict=False):
            check_agreement(name, by_rank)

    @property
    def size(self) -> int:
        """M, the rows of all processes."""
        return sum(self.rows)

    @property
    def share(self) -> float:
        """What this process's mean counts in the average over processes: rows * processes / M."""
        return self.rows[self.rank] * len(self.rows) / self.size

    def others(self, tensor: Tensor) -> Tensor:
        """Return the rows of the other processes, in the order of their ranks, with gradient."""
        parts = self._parts(tensor)
        return torch.cat([tensor[:0], *parts[: self.rank], *parts[self.rank + 1 :]])

    def all(self, tensor: Tensor) -> Tensor:
        """Return the rows of all processes, in the order of their ranks, with gradient."""
        return torch.cat(self._parts(tensor))

    def _parts(self, tensor: Tensor) -> list[Tensor]:
        padded = F.pad(tensor, (0, 0, 0, max(self.rows) - len(tensor)))
        parts: Tensor = _Gather.apply(padded, self.group)  # type: ignore[no-untyped-call]
        return [part[:count] for part, count in zip(parts, self.rows, strict=True)]


def check_agreement(name: str, by_rank: Sequence[Any]) -> None:
    """Raise a ValueError with the name if the processes did not say the same."""
    if any(value != by_rank[0] for value in by_rank):
        raise ValueError(
            f"{name} must be the same in every process of process_group; got "
            f"{reprlib.repr(list(by_rank))} by rank"
        )


def made_by_each(make: Callable[[], T], group: ProcessGroup | None) -> list[T]:
    """Return what each process of a group makes, in the order of the ranks.

    The objects are pickled: for once in an evaluation, not for every step of a training.

    Raises
    ------
    ValueError
        If ``make`` raises in another process. An error in this process is raised as it is.
    """
    if group is None:
        return [make()]
    answers: list[Any] = [None] * distributed.get_world_size(group)
    try:
        own = (make(),)
    except Exception:
        distributed.all_gather_object(answers, None, group)
        raise
    distributed.all_gather_object(answers, own, group)
    if refused := [str(rank) for rank, answer in enumerate(answers) if answer is None]:
        raise ValueError(f"rank {', '.join(refused)} raised an error; see its traceback")
    return [answer for (answer,) in answers]


class Division:
    """Work on one data set, divided among the processes of a group; all of it without a group.

    Parameters
    ----------
    process_group : ProcessGroup or "world", optional
        The processes.
    gathered : bool
        Whether every process has the rows of all processes already.
    """

    def __init__(self, process_group: Group = None, *, gathered: bool = False) -> None:
        self.group = resolve_group(process_group)
        self.gathered = gathered
        self.rank, self.count = 0, 1
        if self.group is not None:
            self.rank = distributed.get_rank(self.group)
            self.count = distributed.get_world_size(self.group)

    def rows(self, tensor: Tensor, agree: Mapping[str, int]) -> Tensor:
        """Return the rows of all processes, which agree as those of a :class:`GlobalBatch`."""
        if self.group is None or self.gathered:
            return tensor
        return GlobalBatch(self.group, tensor, agree).all(tensor)

    def mine(self, size: int) -> range:
        """Return which of so many pieces of work are this process's."""
        return range(self.rank, size, self.count)

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum over processes."""
        if self.group is not None:
            distributed.all_reduce(tensor, group=self.group)
        return tensor

    def generator(self, generator: Generator | None, device: torch.device) -> Generator | None:
        """Return a source of the same random numbers in all processes, in place of the global."""
        if self.group is None or generator is not None:
            return generator
        seed = torch.randint(2**62, (1,), device=device)
        distributed.broadcast(seed, distributed.get_global_rank(self.group, 0), self.group)
        return Generator(device).manual_seed(int(seed.item()))


class _Gather(torch.autograd.Function):
    """Stack every process's tensor; the gradient of each comes from all processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size(group))]
        distributed.all_gather(parts, tensor.contiguous(), group)
        return torch.stack(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.contiguous().clone()
        distributed.all_reduce(total, group=ctx.group)
        return total[distributed.get_rank(ctx.group)], None


def _exchanged(group: ProcessGroup, numbers: list[int]) -> list[list[int]]:
    """Return every process's numbers, in the order of the ranks."""
    # NCCL takes no tensor of the CPU, and the rows of a process that is refused may be anywhere.
    device = "cuda" if "nccl" in distributed.get_backend(group) else "cpu"
    own = torch.tensor([*numbers, *[0] * (_LENGTH - len(numbers))], device=device)
    answers = [torch.empty_like(own) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(answers, own, group)
    gathered: list[list[int]] = torch.stack(answers).tolist()
    return gathered


def _check_states(states: list[int]) -> None:
    for state, complaint in (
        (_EMPTY, "have rows in every process; none came from"),
        (_REFUSED, "have valid input in every process; see the error of"),
    ):
        ranks = [str(rank) for rank, other in enumerate(states) if other == state]
        if ranks:
            raise ValueError(f"process_group must {complaint} rank {', '.join(ranks)}")
