"""Completion, as a real bash does it with the script that the command prints."""

import shutil
import subprocess

import pytest

from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.cli.completion import SHELLS

BASH = shutil.which("bash")

ASK = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMPREPLY=()
function=$(complete -p istio-sidecar)
function=${function#*-F }
"${function%% *}" istio-sidecar "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def completed(tmp_path, capsys):
    """A function: what bash offers for the last of these words, in a folder with a file `pod.rules`."""
    if BASH is None:
        pytest.skip("there is no bash")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "pod.rules").touch()

    def ask(*words: str) -> set[str]:
        asked = subprocess.run(
            [BASH, "--norc", "-c", ASK, "ask", script, "istio-sidecar", *words],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert asked.stderr == ""
        return set(asked.stdout.split())

    return ask


def test_bash_completes_commands(completed) -> None:
    assert completed("ex") == {"expected"}
    assert completed("c") >= {"check", "clean", "completion"}


def test_bash_completes_the_options_of_a_command(completed) -> None:
    assert completed("trace", "--in") == {"--inbound", "--interface"}


def test_bash_completes_releases(completed) -> None:
    assert completed("expected", "1.8.") == {f"1.8.{patch}" for patch in range(7)}
    assert completed("doctor", "--istio-version", "1.30.") == {f"1.30.{patch}" for patch in range(4)}


def test_bash_completes_listings_as_files(completed) -> None:
    assert completed("trace", "pod") == {"pod.rules"}


def test_bash_completes_the_known_words_of_an_option(completed) -> None:
    assert completed("read", "--reader", "e") == {"exec"}
    assert completed("check", "--environment", "em") == {"embedded"}


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_of_the_list_gets_a_script_with_every_command(capsys, shell) -> None:
    assert main(["completion", shell]) == 0
    printed = capsys.readouterr().out
    assert all(command in printed for command in ("trace", "expected", "completion"))
