"""Texts without what lets anybody in anywhere.

Knows what secrets look like, and those of this process's environment. Does not know where a text comes
from or goes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

REMOVED = "(removed)"

_FORMS = (
    re.compile(r"-----BEGIN [A-Z0-9 ]+-----.*?(-----END [A-Z0-9 ]+-----|\Z)", re.DOTALL),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),  # a JSON Web Token (RFC 7519): {" in base64url
    re.compile(r"\bLS0tLS1CRUdJTi[\w+/=]*"),  # PEM in base64, as kubeconfig files have it
    re.compile(r"(?i)\b(?:bearer|basic|digest|negotiate)\s+[\w.~+/=-]{6,}"),
    re.compile(r"(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"),
)
_NAMED = re.compile(
    r"""(?ix) (
          ["']? \b [\w-]* (?: authorization | cookie | passw(?:or)?d | secret | token | api[-_]?key
                             | client-(?:key|certificate)-data | certificate-authority-data ) ["']?
          \s* [:=] \s* ["']?
        ) ( [^\s"',}][^"'\r\n,}]* )"""
)
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|credential|api_?key|private")
_SHORTEST = 6
"""Letters that a value of the environment has at least, to be looked for in texts."""


def scrub(text: str) -> str:
    """The text without what has the form of a secret, or is one in this process's environment."""
    for value in _own_secrets():
        text = text.replace(value, REMOVED)
    for form in _FORMS:
        text = form.sub(REMOVED, text)
    return _NAMED.sub(lambda match: match[1] + REMOVED, text)


def scrub_values(value: Any) -> Any:
    """The same for every text in a JSON value."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {key: scrub_values(item) for key, item in value.items()}
    return [scrub_values(item) for item in value] if isinstance(value, list) else value


def _own_secrets() -> list[str]:
    """Longest first: one may be part of another."""
    secrets = {
        value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= _SHORTEST
    }
    return sorted((value for value in secrets if not os.path.exists(value)), key=len, reverse=True)  # noqa: PTH110
