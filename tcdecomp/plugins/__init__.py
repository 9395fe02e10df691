"""Which adapter serves which model, and what adapters are made of."""

from tcdecomp._checks import checked_int
from tcdecomp.plugins.attachment import Attachment, check_criterion, for_own_rows
from tcdecomp.plugins.hooks import hookimpl
from tcdecomp.plugins.models import as_posterior, attach, encode
from tcdecomp.plugins.registry import NoAdapterError, Status, register, survey, unregister

__all__ = [
    "Attachment",
    "NoAdapterError",
    "Status",
    "as_posterior",
    "attach",
    "check_criterion",
    "checked_int",
    "encode",
    "for_own_rows",
    "hookimpl",
    "register",
    "survey",
    "unregister",
]
