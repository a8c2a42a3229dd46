"""The reader of blocks refuses what it cannot classify, and output is compared line by line."""

import pytest
from markdown_blocks import Kind, _blocks, commands_of, matches


def block(text: str):
    (held,) = _blocks("page.md", text)
    return held


def test_a_block_without_fences_is_refused():
    with pytest.raises(ValueError, match=r"page\.md:3: a block without fences"):
        block("text\n\n    $ a command\n")


def test_a_block_without_a_known_language_is_refused():
    with pytest.raises(ValueError, match="unknown language ''"):
        block("```\nmake test\n```\n")


def test_a_reason_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'it is slow' is not among the reasons"):
        block("<!-- not run: it is slow -->\n```sh\nmake test\n```\n")


def test_a_misspelt_directive_is_refused():
    with pytest.raises(ValueError, match="no directive is called nto run"):
        block("<!-- nto run: a package registry -->\n```sh\nmake test\n```\n")


def test_a_directive_holds_for_the_block_right_below_it_only():
    held = list(_blocks("page.md", "<!-- exit status: 1 -->\nText.\n\n```sh\nfalse\n```\n"))
    assert held[0].status == 0


def test_a_block_with_a_test_in_it_is_run_by_pytest_and_any_other_as_a_script():
    assert block("```python\ndef test_it(iptables_nat): pass\n```\n").kind is Kind.TESTS
    assert block("```python\nprint()\n```\n").kind is Kind.SCRIPT


def test_a_session_is_commands_each_with_its_output():
    session = block("```console\n$ one \\\n  --more\nfirst\nsecond\n$ two\n```\n")
    assert commands_of(session) == [("one    --more", "first\nsecond\n"), ("two", "")]


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("one\ntwo\n", "one\ntwo\n", True),
        ("one\ntwo\n", "one\n", False),
        ("one\ntwo\nthree\n", "...\nthree\n", True),
        ("one\ntwo\nthree\n", "one\n...\n", True),
        ("passed in 2.5s\n", "passed in ...s\n", True),
        ("failed in 2.5s\n", "passed in ...s\n", False),
        ("one   \n", "one\n", True),
        ("", "one\n", False),
    ],
)
def test_output_is_compared_line_by_line(printed, shown, same):
    assert matches(printed, shown) is same
