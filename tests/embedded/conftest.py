"""One embedded pod for the tests that only look, and places of their own for those that end pods."""

import pytest

from pytest_istio_sidecar.environments.embedded import environment
from pytest_istio_sidecar.machine.lease import leases_directory


@pytest.fixture(scope="session", autouse=True)
def own_runtime_directory(tmp_path_factory):
    """Leases of these tests lie apart from those of whatever else runs on this machine."""
    directory = tmp_path_factory.mktemp("runtime")
    directory.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(directory))
        yield directory


@pytest.fixture(scope="session")
def pod(able_machine, own_runtime_directory):
    """A pod with Istio 1.8.3's rules; tests leave it as they found it."""
    started = environment.EmbeddedEnvironment.start()
    yield started
    started.stop()


@pytest.fixture
def start_pod(able_machine, own_runtime_directory):
    """A function that starts a pod of the test's own."""
    started = []

    def start(**arguments):
        started.append(environment.EmbeddedEnvironment.start(**arguments))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def istio_rules():
    """The text that Istio 1.8.3's istio-init loads."""
    return environment.rules_for("1.8.3").ipv4


@pytest.fixture
def runtime_directory(tmp_path, monkeypatch):
    """A place for leases of this test alone."""
    directory = tmp_path / "runtime"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    assert leases_directory().parent == directory
    return directory
