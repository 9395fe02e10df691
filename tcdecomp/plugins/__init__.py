"""Which adapter serves which model, and what adapters are made of."""

from tcdecomp._checks import checked_int, warn_user
from tcdecomp.plugins.attachment import Attachment
from tcdecomp.plugins.criteria import check_criterion, for_own_rows
from tcdecomp.plugins.hooks import hookimpl
from tcdecomp.plugins.models import Reader, answer_of, as_posterior, attach, called_with, encode
from tcdecomp.plugins.registry import NoAdapterError, Status, register, survey, unregister
from tcdecomp.plugins.seam import KLWeight, Seam, find_seam

__all__ = [
    "Attachment",
    "KLWeight",
    "NoAdapterError",
    "Reader",
    "Seam",
    "Status",
    "answer_of",
    "as_posterior",
    "attach",
    "called_with",
    "check_criterion",
    "checked_int",
    "encode",
    "find_seam",
    "for_own_rows",
    "hookimpl",
    "register",
    "survey",
    "unregister",
    "warn_user",
]
