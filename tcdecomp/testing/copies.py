"""A copy of an attached model: trainers make them, and people pickle their models."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

from torch import Tensor

from tcdecomp.plugins.attachment import Attachment
from tcdecomp.testing.recorder import Recorder
from tcdecomp.testing.require import require
from tcdecomp.testing.state import modules_of
from tcdecomp.testing.step import LossFn, check_close, gradient_of, loss_of

__all__ = ["check_copies", "copiers"]

_Copier = Callable[[Any], Any]


def _pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def copiers(model: Any) -> dict[str, _Copier]:
    """Return the ways of copying, deep or by a pickle, that the model bears as it is."""
    ways: dict[str, _Copier] = {"deep": copy.deepcopy, "pickled": _pickled}
    return {name: copied for name, copied in ways.items() if _works(copied, model)}


def _works(copied: _Copier, model: Any) -> bool:
    try:
        copied(model)
    except Exception:  # of any part of the model
        return False
    return True


def check_copies(
    ways: dict[str, _Copier], model: Any, recorder: Recorder, loss_fn: LossFn, plain: Tensor
) -> None:
    """Check that copies of a model attached to train by themselves, and detach to its plain loss.

    Parameters
    ----------
    ways : dict
        As :func:`copiers` returned them for the model before it was attached to.
    model, recorder
        The model, attached to with this criterion.
    loss_fn, plain
        The loss of a step, and its value before.
    """
    loss = loss_of(loss_fn, model)
    gradient = gradient_of(loss, model)
    for name, copied in ways.items():
        what = f"a {name} copy of an attached model"
        recorder.taken()  # a copy cannot take its graph along
        try:
            other = copied(model)
        except Exception as error:
            message = f"{what} must be possible, as it is of the plain one: {error}"
            raise AssertionError(message) from error
        own = _attachment_of(other)
        if own is None:
            raise AssertionError(f"{what} must carry an attachment of its own; it carries none")
        copy_loss = loss_of(loss_fn, other)
        require(recorder.asked is None, f"{what} must use its own criterion, not the original's")
        same = f"the loss of {what} must be that of the original"
        check_close(copy_loss, loss, same)
        check_close(gradient_of(copy_loss, other), gradient, same)
        own.detach()
        check_close(loss_of(loss_fn, other), plain, f"detach must restore the loss of {what}")
        loss_of(loss_fn, model)


def _attachment_of(model: Any) -> Attachment | None:
    """Return the attachment that the model carries, or one of its parts."""
    parts = (model, *vars(model).values(), *modules_of(model).values())
    return next(filter(None, map(Attachment.of, parts)), None)
