"""Commands with deadlines: what is kept of them, and that nothing of them goes on."""

from __future__ import annotations

from pytest_istio_sidecar.machine.command import run_command


def test_both_streams_and_the_exit_status_are_kept() -> None:
    result = run_command(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=10)
    assert (result.stdout, result.stderr, result.exit_status) == ("out\n", "err\n", 3)


def test_a_program_that_is_not_there_is_127_as_in_a_shell() -> None:
    result = run_command(["no-such-program-here"], timeout=10)
    assert result.missing
    assert "no-such-program-here" in result.stderr


def test_a_command_that_does_not_read_its_input_is_ended_at_its_deadline() -> None:
    result = run_command(["sleep", "60"], timeout=0.3, text="x" * 2**20)
    assert result.exit_status is None


def test_a_command_is_given_its_whole_input() -> None:
    assert run_command(["wc", "-c"], timeout=10, text="x" * 2**20).stdout.strip() == str(2**20)


def test_every_line_is_told_as_it_comes() -> None:
    lines: list[str] = []
    run_command(["sh", "-c", "echo one; echo; echo two >&2"], timeout=10, on_line=lines.append)
    assert sorted(lines) == ["one", "two"]


def test_text_is_the_standard_input() -> None:
    assert run_command(["cat"], timeout=10, text="hello").stdout == "hello"
