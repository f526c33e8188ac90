import pytest

from molmo2_ros.runtime.engine import NANO, load_engine


@pytest.fixture(scope="session")
def nano():
    """The shipped engine on one thread."""
    return load_engine(NANO, threads=1)
