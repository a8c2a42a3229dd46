"""Every message that users can get is in one list, by a code that stays and with what helps."""

import ast
import re
from pathlib import Path

import pytest
from catalogue import BY_NAME, CATALOGUE, NAMED, PACKAGE

from pytest_istio_sidecar import errors
from pytest_istio_sidecar.failure import WIDTH

TREES = {path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
NODES = [(path, node) for path, tree in TREES.items() for node in ast.walk(tree)]
CODES = Path(__file__).parents[2] / "data" / "messages" / "codes.txt"
"""Code and name of every message. A code is never given to another one: docs and users name it by that."""

SAMPLES = {
    "count": 70,
    "highest": 65535,
    "length": 40_000_000,
    "limit": 33_554_432,
    "mark": 1337,
    "seconds": 30.0,
}
"""Values of the fields that are numbers; every other is given its own name."""


def sample(field):
    return SAMPLES.get(field, field)


def laid_out(message):
    return str(message(**{field: sample(field) for field in message.fields}))


def test_each_message_has_a_code_and_a_sentence_of_its_own():
    assert len(CATALOGUE) > 200
    assert len({message.code for message in CATALOGUE}) == len(CATALOGUE)
    assert len({message.summary for message in CATALOGUE}) == len(CATALOGUE)
    assert all(re.fullmatch(r"IS\d{3}", message.code) for message in CATALOGUE)


def test_codes_stay_with_their_messages():
    names = {message.code: name for name, message in BY_NAME.items()}
    assert CODES.read_text().splitlines() == [f"{code} {names[code]}" for code in sorted(names)]


def test_no_two_rooms_give_one_name_to_different_messages():
    assert len(BY_NAME) == len(NAMED)


@pytest.mark.parametrize("message", CATALOGUE, ids=lambda message: message.code)
def test_a_message_says_what_helps(message):
    assert message.fix or message.help


@pytest.mark.parametrize("message", CATALOGUE, ids=lambda message: message.code)
def test_a_message_is_one_sentence_and_lines_that_a_terminal_holds(message):
    first, *others = laid_out(message).splitlines()
    assert len(first) <= 2 * WIDTH
    assert "  " not in first
    assert not first.endswith(".")
    assert all(len(line) <= WIDTH for line in others)


def test_every_message_is_said_somewhere():
    said = {node.attr for _, node in NODES if isinstance(node, ast.Attribute)}
    said |= {node.id for path, node in NODES if isinstance(node, ast.Name) and path.name != "messages.py"}
    assert BY_NAME.keys() - said == set()


def name_of(call):
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def is_message(node):
    """Whether an expression is a message of the catalogue with its values."""
    return isinstance(node, ast.Call) and name_of(node) in BY_NAME


@pytest.mark.parametrize(
    ("path", "call"),
    [(path, node) for path, node in NODES if is_message(node)],
    ids=lambda value: f"{value.lineno}-{name_of(value)}" if isinstance(value, ast.Call) else str(value),
)
def test_a_message_is_given_all_its_values_and_no_other(path, call):
    given = {keyword.arg for keyword in call.keywords} - {"facts"}
    assert given == BY_NAME[name_of(call)].fields


def classes_of_errors():
    known = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.IstioSidecarError)
    }
    definitions = [node for _, node in NODES if isinstance(node, ast.ClassDef)]
    while (
        more := {
            node.name for node in definitions if {getattr(base, "id", "") for base in node.bases} & known
        }
        - known
    ):
        known |= more
    return known


ERRORS = classes_of_errors() | {"UsageError", "ArgumentTypeError"}
MAKERS = {
    node.name
    for _, node in NODES
    if isinstance(node, ast.FunctionDef) and ast.unparse(node.returns or ast.Constant("")) == "Failure"
}
"""Functions that make a message: what they are made of is looked at where they stand."""


def is_from_the_catalogue(node):
    match node:
        case ast.Call(func=ast.Name(id="str"), args=[inner]):
            return is_from_the_catalogue(inner)
        case ast.Call(func=ast.Attribute(value=inner, attr="advised" | "and_facts" | "with_evidence_of")):
            return is_from_the_catalogue(inner)
        case ast.IfExp(body=one, orelse=other):
            return is_from_the_catalogue(one) and is_from_the_catalogue(other)
        case ast.Call():
            return is_message(node) or name_of(node) in MAKERS
        case ast.Attribute(attr="failure" | "_undecided"):
            return True
        case ast.Name(id=name):
            return name == "failure"
    return False


RAISED = [
    (path, node)
    for path, node in NODES
    if isinstance(node, ast.Call) and name_of(node) in ERRORS and path.name != "errors.py"
]


@pytest.mark.parametrize(
    ("path", "call"),
    RAISED,
    ids=lambda value: f"{value.lineno}-{name_of(value)}" if isinstance(value, ast.Call) else str(value),
)
def test_an_error_takes_its_words_from_the_catalogue(path, call):
    assert is_from_the_catalogue(call.args[0])


def test_a_finding_takes_its_words_from_the_catalogue():
    findings = [node for _, node in NODES if isinstance(node, ast.Call) and name_of(node) == "Finding"]
    assert len(findings) > 15
    for call in findings:
        (failure,) = (keyword.value for keyword in call.keywords if keyword.arg == "failure")
        assert is_from_the_catalogue(failure), ast.unparse(call)


def test_no_message_is_laid_out_by_hand():
    label = re.compile(r"^ {2}(cause|fix|note|because) {2,}", re.MULTILINE)
    constants = [
        (path, node.lineno, node.value)
        for path, node in NODES
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [place for *place, text in constants if label.search(text)] == []
