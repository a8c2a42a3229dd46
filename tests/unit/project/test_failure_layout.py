"""How every message is laid out, whoever raises it."""

import pickle

from pytest_istio_sidecar import EnvironmentProblem, IstioSidecarError, ParseError, UsageProblem
from pytest_istio_sidecar.failure import WIDTH, Advice, Failure, Message, advise, fitted

REFUSED = Message(
    "IS000",
    "{pod} cannot be read",
    cause="its user is {user}",
    fix="read from the node:\n  --istio-reader=node",
    note="no rule of this pod was checked",
)


def test_a_message_is_a_sentence_then_facts_then_cause_fix_and_note():
    assert str(REFUSED(pod="demo/a", user=1337, facts=[("ran", "id -u"), ("stderr", "one\ntwo")])) == (
        "demo/a cannot be read\n"
        "\n"
        "  ran      id -u\n"
        "  stderr   one\n"
        "           two\n"
        "\n"
        "  cause    its user is 1337\n"
        "  fix      read from the node:\n"
        "             --istio-reader=node\n"
        "  note     no rule of this pod was checked"
    )


def test_what_a_message_does_not_have_takes_no_line():
    assert str(Failure("it is so")) == "it is so"
    assert str(Failure("it is so", fix="do it")) == "it is so\n\n  fix      do it"
    assert str(Failure("it is so", facts=(("got", ""), ("asked", "x")))) == "it is so\n\n  asked    x"


def test_a_label_that_is_longer_than_others_makes_room_for_itself():
    assert str(Failure("it is so", facts=(("port-forward", "x"),), cause="y")) == (
        "it is so\n\n  port-forward x\n\n  cause        y"
    )


def test_sentences_are_wrapped_between_words_and_output_is_not():
    path = "/a/path-of-many-words" * 8
    lines = str(Failure("it is so", facts=(("got", "x " * 80),), cause=f"{'word ' * 30}{path}")).splitlines()
    assert lines[2] == "  got      " + ("x " * 80).rstrip()
    assert lines[4] == "  cause    " + " ".join(["word"] * 17)
    assert lines[5].startswith("           word")
    assert max(map(len, lines[4:6])) <= WIDTH
    assert lines[6] == f"           {path}"


def test_an_exception_has_its_message_in_parts_and_laid_out():
    failure = REFUSED(pod="demo/a", user=1337)
    error = EnvironmentProblem(failure)
    assert (error.failure.code, error.failure.summary) == ("IS000", "demo/a cannot be read")
    assert str(error) == str(failure)


def test_an_exception_of_somebody_elses_words_is_as_they_wrote_it():
    assert str(EnvironmentProblem("no pod today\n\n  why      none")) == "no pod today\n\n  why      none"


def test_a_parse_error_says_where_and_shows_the_line():
    error = ParseError(Failure("no rule", cause="c", fix="f"), source="pod.rules", line=3, text="-Z")
    assert str(error) == "pod.rules:3: no rule\n\n  text     '-Z'\n\n  cause    c\n  fix      f"
    assert (error.reason, error.diagnosis) == ("no rule", "c; f")


def test_an_exception_that_another_process_raised_reads_the_same():
    error = ParseError(REFUSED(pod="demo/a", user=1), source="pod.rules", line=3, text="-Z")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.failure, copy.line) == (str(error), error.failure, 3)


def test_the_first_advice_whose_text_is_seen_holds():
    known = (Advice("lock", "locked", "wait"), Advice("^a", "begins with a", "do not"))
    assert advise("a lock", known) is known[0]
    assert advise("x\nabc", known) is known[1]
    assert advise("bcd", known) is None


def test_advice_is_found_at_either_end_of_a_long_text():
    known = (Advice("lock", "locked", "wait"),)
    assert advise("lock" + "x" * 1_000_000, known) is known[0]
    assert advise("x" * 1_000_000 + "lock", known) is known[0]


def test_a_message_is_fitted_into_a_terminal_between_words_with_prose_wrapped_anew() -> None:
    failure = Failure(
        summary="a summary that stands on a line of its own, and is longer than a terminal is wide",
        facts=(
            ("path", "nat PREROUTING  1  -p tcp -j ISTIO_INBOUND  match"),
            ("because", "of what was seen"),
        ),
        cause="word " * 40,
        fix="do this",
    )
    lines = fitted(str(failure), 60)
    assert max(map(len, lines)) <= 60
    assert " ".join(lines).split() == str(failure).split()
    assert "  path     nat PREROUTING  1  -p tcp -j ISTIO_INBOUND  match" in lines
    causes = lines[lines.index("") :]
    words = [line for line in causes if "word" in line]
    assert all(len(line) > 50 for line in words[:-1])
    assert {len(line) - len(line.lstrip()) for line in words[1:]} == {11}
    assert lines.count("") == 2


def test_rows_of_a_table_are_never_joined() -> None:
    row = "           nat ISTIO_INBOUND     6  -p tcp -j ISTIO_IN_REDIRECT  " + "match".rjust(40)
    lines = fitted(f"  path{row[6:]}\n{row}", 100)
    assert len(lines) == 4


def test_what_fits_stays_as_it_is() -> None:
    text = "one\n\n  cause    two\n           three\n"
    assert fitted(text, 80) == text.splitlines()


def test_an_error_is_raised_with_whatever_an_exception_takes():
    assert str(UsageProblem()) == ""
    assert str(IstioSidecarError("a", "b")) == "a, b"
    assert str(EnvironmentProblem(ParseError("no listing"))) == "<text>: no listing"
    assert repr(IstioSidecarError(3)) == "IstioSidecarError('3')"
