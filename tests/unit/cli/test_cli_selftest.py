"""`istio-sidecar selftest` where it cannot be run."""

import pytest

from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment
from pytest_istio_sidecar.errors import EnvironmentProblem


@pytest.fixture
def no_pod(monkeypatch):
    def refuse(**_):
        raise EnvironmentProblem("this machine can have no pod")

    monkeypatch.setattr(EmbeddedEnvironment, "start", refuse)


def test_a_machine_without_pods_is_no_score(no_pod, capsys):
    assert main(["selftest"]) == 3
    out, err = capsys.readouterr()
    assert (out, err) == ("", "istio-sidecar: this machine can have no pod\n")


def test_a_version_that_is_none_is_refused_before_a_pod_is_made(no_pod, capsys):
    assert main(["selftest", "--istio-version", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_no_mutants_are_refused(no_pod, capsys, count):
    with pytest.raises(SystemExit) as ended:
        main(["selftest", f"--mutants={count}"])
    assert ended.value.code == 2
    assert f"--mutants: '{count}': expected a number, at least 1" in capsys.readouterr().err
