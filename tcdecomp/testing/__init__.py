"""The contract of an adapter, to test one against: it needs no test framework.

Each check raises an AssertionError that says what does not hold, under ``python -O``, too, and
leaves parameters, buffers, gradients and modes, and torch's global random numbers, as they were.
Plain attributes that the model sets while it runs stay set. Of a model that is no
``torch.nn.Module``, the modules among its attributes are looked at.
"""

from tcdecomp.testing.attach import check_attach
from tcdecomp.testing.encode import check_encode

__all__ = ["check_attach", "check_encode"]
