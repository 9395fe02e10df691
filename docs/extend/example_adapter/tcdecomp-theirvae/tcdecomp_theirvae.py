"""The adapter of theirvae: how its models encode a batch, and where their loss has the KL."""

from theirvae import TheirVAE
from torch.distributions import Normal

from tcdecomp import hookimpl
from tcdecomp.plugins import Attachment


@hookimpl
def tcdecomp_encode(model, batch):
    """Return the posteriors of a batch as theirvae's loader yields it."""
    if not isinstance(model, TheirVAE):
        return None
    return Normal(*model.embed(batch))


@hookimpl
def tcdecomp_attach(model, criterion, dataset_size):
    """Add the excess over the plain KL to ``loss_function``; ``theirvae.fit`` states N."""
    if not isinstance(model, TheirVAE):
        return None
    return Attachment(model, "loss_function", _loss_function, criterion, dataset_size, stated=True)


def _loss_function(attachment, batch, output, z, mean, std, n_items=None):
    loss = attachment.original(batch, output, z, mean, std, n_items)
    excess = attachment.excess(z, mean, 2 * std.log(), n_items)
    return loss + attachment.model.kl_weight * excess
