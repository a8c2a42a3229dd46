"""Files that are no text in UTF-8: what they are is said, and UTF-16 with its mark is read."""

import gzip

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save
from pytest_istio_sidecar.cli import main

TEXT = render_save(expected_ruleset("1.8.3"))


@pytest.fixture
def traced(tmp_path, capsys):
    """A function: what trace says of a file with these bytes, and its exit status."""

    def ask(content):
        file = tmp_path / "pod.save"
        file.write_bytes(content)
        return main(["trace", str(file), "--inbound", "80"]), capsys.readouterr()

    return ask


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["utf-16-le", "utf-16-be"])
def test_utf_16_with_its_mark_is_read_and_said_to_be(traced, mark, line_end):
    status, said = traced(f"\ufeff{TEXT}".replace("\n", line_end).encode(mark))
    assert (status, said.out.startswith("inbound tcp 80: redirected")) == (0, True)
    assert "note: it is UTF-16, as PowerShell writes it, and was read as that\n" in said.err


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (TEXT.encode("utf-16-le"), "this is UTF-16 without its mark"),
        (TEXT.encode("utf-16-be"), "this is UTF-16 without its mark"),
        (TEXT.encode("utf-16")[:-1], "this is UTF-16 that breaks off, or was changed"),
        (TEXT.encode("utf-32"), "this is UTF-32"),
        (gzip.compress(TEXT.encode()), "this is compressed with gzip"),
        (b"\x7fELF\x02\x01\x01" + bytes(64), "this is a program"),
        (bytes(64), "this is binary data"),
        (bytes(range(128, 256)), "this is binary data"),
        (b"\x80\x81" + TEXT.encode() + b"\0", "this is binary data"),
    ],
)
def test_what_is_no_text_is_named_and_not_shown(traced, content, what):
    status, said = traced(content)
    assert status == 2
    assert f"{what}, not text in UTF-8\n" in said.err
    assert "Out-File -Encoding utf8" in said.err
    assert not {"\\x", "\0", "  text "} & {part for part in ("\\x", "\0", "  text ") if part in said.err}


def test_a_line_in_another_encoding_is_shown(traced):
    status, said = traced(f"{TEXT}# caf\xe9\n".encode("latin-1"))
    assert status == 2
    line = TEXT.count("\n") + 1
    assert f"pod.save:{line}: this line has a character in another encoding" in said.err
    assert "caf\ufffd" in said.err


def test_utf_16_with_utf_8_behind_it_is_refused_and_not_read_as_signs(traced):
    added = b"*raw\n-A PREROUTING -p tcp -j NOTRACK\nCOMMIT\n"
    content = TEXT.encode("utf-16") + added + b"\n" * (len(added) % 2)
    status, said = traced(content)
    assert (status, said.out) == (2, "")
    assert "this is UTF-16 with text of another encoding in it" in said.err
