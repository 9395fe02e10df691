import pytest

import lightning_models


@pytest.fixture(params=lightning_models.PACKAGES)
def pl(request):
    """The names of one of Lightning's two packages and of its adapter."""
    return lightning_models.framework(request.param)
