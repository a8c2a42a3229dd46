"""Text of any form of listing to a ruleset.

Knows how the forms begin. Does not know their lines (`parse_save`, `parse_list`).
"""

from __future__ import annotations

import re

from pytest_istio_sidecar.netfilter.model import Family, Ruleset
from pytest_istio_sidecar.netfilter.text.parse_list import parse_iptables_list
from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save

# The first line that is neither blank nor a comment decides: both forms may hold lines that look
# like the other's, in comments that run over a line end.
_FIRST = re.compile(r"(?:[ \t\r]*\n|#[^\n]*\n)*+", re.MULTILINE)


def parse_iptables(text: str, *, family: Family = 4, source: str | None = None) -> Ruleset:
    """Parse what iptables-save, `iptables -S` or `iptables -L` prints.

    Raises:
        ParseError: it is none of them, or not a whole one; the empty text too.
    """
    begin = _FIRST.match(text.removeprefix("\ufeff"))
    if begin and begin.string.startswith("Chain ", begin.end()):
        return parse_iptables_list(text, family=family, source=source)
    return parse_iptables_save(text, family=family, source=source)
