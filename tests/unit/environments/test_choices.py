"""What a user can choose, as values that cannot be changed; and every environment is there that can be."""

import pytest

from pytest_istio_sidecar.environments.choices import Choices, EnvironmentName, ExistingChoices, RunChoices
from pytest_istio_sidecar.environments.option import options_of
from pytest_istio_sidecar.environments.shared import environment_of


def test_what_is_not_chosen_has_the_default_of_its_field():
    chosen = ExistingChoices(namespace="demo")
    assert (chosen.namespace, chosen.workloads, chosen.timeout) == ("demo", ("deployment/httpbin",), 300.0)


def test_another_choice_leaves_the_first_as_it_was():
    first = Choices(hub="registry.test")
    other = first.replace(context="lab")
    assert (first.context, other.context, other.hub) == (None, "lab", "registry.test")


def test_a_choice_cannot_be_changed():
    with pytest.raises(AttributeError, match="version of RunChoices cannot be set"):
        RunChoices().version = "1.27.3"


def test_what_there_is_no_choice_of_is_refused():
    with pytest.raises(TypeError, match="RunChoices has no context"):
        RunChoices(context="lab")


def test_a_choice_shows_its_values():
    assert "namespace='demo'" in repr(RunChoices(namespace="demo"))


def test_no_field_is_given_anew_by_another_class():
    fields = [name for choices in Choices.__mro__ for name in options_of(choices)]
    assert len(fields) == len(set(fields)) > 20


@pytest.mark.parametrize("name", EnvironmentName)
def test_every_name_stands_for_an_environment_that_bears_it(name):
    assert environment_of(name).name == name
