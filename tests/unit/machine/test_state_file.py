"""Facts in a file: whole or not there, and never taken for something that was not written."""

import json

import pytest

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine import state_file
from pytest_istio_sidecar.machine.state_file import read_state, write_state

SHAPE = {"name": str, "context": str | None, "owner": {"pid": int}}
FACTS = {"name": "lab", "context": None, "owner": {"pid": 7}}


def test_facts_are_read_back_as_they_were_written(tmp_path):
    file = tmp_path / "state.json"
    write_state(file, {**FACTS, "more": [1]})
    assert read_state(file, SHAPE) == {**FACTS, "more": [1]}


def test_a_writing_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    file = tmp_path / "state.json"
    write_state(file, FACTS)

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(state_file.Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        write_state(file, {"name": "other"})
    assert read_state(file, SHAPE) == FACTS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no JSON"),
        ("\udcff", "is no JSON"),
        ("[7]", r"state.json is \[7\], and should be an object"),
        ("{}", "state.json has no 'name'"),
        (json.dumps({**FACTS, "name": 7}), "'name' of .*state.json is 7, and should be of type str"),
        (
            json.dumps({**FACTS, "context": [1]}),
            r"'context' of .* is \[1\], and should be of type str \| None",
        ),
        (json.dumps({**FACTS, "owner": "me"}), "'owner' of .* is \"me\", and should be an object"),
        (
            json.dumps({**FACTS, "owner": {"pid": "7"}}),
            "'pid' of 'owner' of .* is \"7\", and should be of type int",
        ),
        (json.dumps({**FACTS, "name": ["x" * 500]}), "'name' of .* is .{40}…, and"),
    ],
)
def test_what_was_not_written_so_is_refused_in_words(tmp_path, text, said):
    file = tmp_path / "state.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(EnvironmentProblem, match=said):
        read_state(file, SHAPE)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(EnvironmentProblem, match=r"state\.json cannot be read: No such file"):
        read_state(tmp_path / "state.json", SHAPE)
