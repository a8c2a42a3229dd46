"""Coverage-guided fuzzing of the parsers with atheris; run by hand, pytest does not collect it.

    pip install atheris
    python tests/fuzz/fuzz_parsers.py CORPUS -max_total_time=300
    python tests/fuzz/fuzz_parsers.py crash-...

A text whose first byte is "t" goes to `parse_rules`, one with "4" or "6" to `parse_iptables`.
Fills an empty CORPUS directory with the recorded listings first. Ends with a traceback and the text
when a parser raises anything but ParseError, or when a ruleset does not survive being written.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(include=["pytest_istio_sidecar"]):
    from pytest_istio_sidecar.errors import ParseError
    from pytest_istio_sidecar.netfilter.text.forms import parse_rules
    from pytest_istio_sidecar.netfilter.text.parse import parse_iptables
    from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save
    from pytest_istio_sidecar.netfilter.text.render import render_save


def one_text(data: bytes) -> None:
    text = data[1:].decode("utf-8", errors="surrogateescape")
    if data[:1] == b"t":
        with contextlib.suppress(ParseError):
            parse_rules(text)
        return
    try:
        ruleset = parse_iptables(text, family=6 if data[:1] == b"6" else 4)
    except ParseError:
        return
    written = render_save(ruleset)
    # A listing of -L may show a name that no iptables-save text can hold.
    if (
        not text.lstrip("\ufeff \t\r\n").startswith(("Chain ", "#"))
        and parse_iptables_save(written) != ruleset
    ):
        raise AssertionError(f"it reads back as another ruleset: {text!r}")


def fill(corpus: Path) -> None:
    if corpus.is_file():
        return  # a text that an earlier run stopped at
    corpus.mkdir(parents=True, exist_ok=True)
    if any(corpus.iterdir()):
        return
    with gzip.open(ROOT / "tests/data/netfilter-vectors.json.gz", "rt") as file:
        vectors = json.load(file)
    texts = [text for forms in vectors["listing_fixtures_istio"].values() for text in forms.values()]
    texts += [
        f"*{entry['table']}\n:S - [0:0]\n:ONE - [0:0]\n:OUTPUT ACCEPT [0:0]\n{save['text']}\nCOMMIT\n"
        for entry in vectors["grammar"]
        for save in entry["forms"]["save"]
    ]
    for number, text in enumerate(texts):
        (corpus / f"{number:04}").write_bytes(b"4" + text.encode())
    for path in (ROOT / "tests/data/reports").iterdir():
        (corpus / path.name).write_bytes(b"t" + path.read_bytes())


if __name__ == "__main__":
    for word in sys.argv[1:]:
        if not word.startswith("-"):
            fill(Path(word))
    atheris.Setup(sys.argv, one_text)
    atheris.Fuzz()
