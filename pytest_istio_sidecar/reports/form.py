"""The forms of a report.

Knows their suffixes and nothing else, so that a name can be checked before there is a report.
"""

from __future__ import annotations

from enum import StrEnum


class ReportForm(StrEnum):
    """Form of a report, by the suffix of its file."""

    JSON = ".json"
    SARIF = ".sarif"
    MARKDOWN = ".md"
    HTML = ".html"
    SVG = ".svg"
