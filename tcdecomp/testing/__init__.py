"""The contract of an adapter, as checks that need no test framework.

A check raises an AssertionError that says what does not hold, under ``python -O``, too. It leaves
parameters, buffers, gradients, modes and torch's global random numbers as they were. Plain
attributes that the model sets while it runs stay set. If a model is no ``torch.nn.Module``, a check
looks at the modules among its attributes.
"""

from tcdecomp.testing.attach import check_attach
from tcdecomp.testing.encode import check_encode

__all__ = ["check_attach", "check_encode"]
