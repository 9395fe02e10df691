"""One table of tolerances for each dtype; every test takes its own from here."""

import torch

TOLERANCES = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    # Inputs rounded to half precision are compared with the same rounded inputs in float64.
    torch.float16: {"rtol": 2e-5, "atol": 2e-5},
    torch.bfloat16: {"rtol": 2e-5, "atol": 2e-5},
}


def assert_close(actual, expected, dtype=torch.float64):
    """Compare values, whatever their dtype and device, by the table's row for ``dtype``."""
    actual, expected = map(_as_float64, (actual, expected))
    torch.testing.assert_close(actual, expected, **TOLERANCES[dtype])


def _as_float64(values):
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().double()
    return torch.tensor(values, dtype=torch.float64)
