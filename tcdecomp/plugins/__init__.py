"""Which adapter serves which model, and what it does: encode a batch, attach a criterion."""

from tcdecomp.plugins.attachment import Attachment
from tcdecomp.plugins.hooks import hookimpl
from tcdecomp.plugins.models import as_posterior, attach, encode
from tcdecomp.plugins.registry import NoAdapterError, Status, register, survey, unregister

__all__ = [
    "Attachment",
    "NoAdapterError",
    "Status",
    "as_posterior",
    "attach",
    "encode",
    "hookimpl",
    "register",
    "survey",
    "unregister",
]
