"""The set-up of comparisons."""

import pytest

from tests.helpers.comparisons import set_up, write_comparison


@pytest.fixture
def files():
    """Return a function that writes a comparison on a set-up that is there."""
    set_up()
    return write_comparison
