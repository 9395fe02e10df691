"""The source of a small adapter, for tests that install one."""


def adapter(value):
    """Return a module whose posteriors have this mean."""
    return f"""
        import torch
        from tcdecomp import hookimpl

        @hookimpl
        def tcdecomp_encode(model):
            return torch.full((4, 2), {value}.0), torch.zeros(4, 2)
    """
