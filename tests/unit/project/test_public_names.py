"""The names that users import: each stands once, in imports that type checkers read too."""

import inspect
import pickle
import subprocess
import sys

import pytest

import pytest_istio_sidecar
from pytest_istio_sidecar import assertions

NAMES = pytest_istio_sidecar.__all__
ASSERTIONS = [name for name in NAMES if name.startswith("assert_") and name != "assert_bypasses"]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_comes_from_the_module_that_the_imports_say(name):
    value = getattr(pytest_istio_sidecar, name)
    assert pickle.loads(pickle.dumps(value)) is value


def test_every_public_name_is_listed_once_and_nothing_else_is():
    assert dir(pytest_istio_sidecar) == sorted(set(NAMES))
    star = {}
    exec("from pytest_istio_sidecar import *", star)
    assert set(star) - {"__builtins__"} == set(NAMES)


def test_an_unknown_name_is_refused_as_any_module_does():
    with pytest.raises(AttributeError, match="module 'pytest_istio_sidecar' has no attribute 'nothing'"):
        pytest_istio_sidecar.nothing  # noqa: B018


def test_a_light_name_does_not_import_the_checks():
    typed = "import sys; from pytest_istio_sidecar import Packet; print(*sys.modules)"
    argv = [sys.executable, "-c", typed]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert "pytest_istio_sidecar.netfilter.packet" in run.stdout.split()
    assert "pytest_istio_sidecar.checks" not in run.stdout.split()


@pytest.mark.parametrize("name", ASSERTIONS)
def test_an_assertion_shows_its_own_name_and_text_and_the_parameters_of_its_check(name):
    assertion = getattr(assertions, name)
    assert assertion.__name__ == assertion.__qualname__ == name
    assert assertion.__doc__.startswith("Assert that ")
    check = getattr(assertion, "__wrapped__", None)
    if name != "assert_reviewed_bypasses":
        own = inspect.signature(assertion)
        assert own.parameters == inspect.signature(check).parameters
        assert own.return_annotation is None


@pytest.mark.parametrize("kind", ["assert", "check"])
def test_the_old_name_of_not_redirected_is_the_same_until_1_0(kind):
    assert getattr(pytest_istio_sidecar, f"{kind}_bypasses") is getattr(
        pytest_istio_sidecar, f"{kind}_not_redirected"
    )
