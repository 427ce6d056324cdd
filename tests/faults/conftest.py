import pytest

from tests.faults.calm import Calm, run_calmly


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Calm:
    """The undisturbed study, run once for all fault tests."""
    return run_calmly(tmp_path_factory.mktemp("study"), tmp_path_factory.mktemp("calm"))
