"""The forms that a report can take."""

from __future__ import annotations

import json

from pytest_istio_sidecar.reports.document import Report
from pytest_istio_sidecar.reports.form import ReportForm
from pytest_istio_sidecar.reports.formats.html import render_page
from pytest_istio_sidecar.reports.formats.markdown import render_markdown
from pytest_istio_sidecar.reports.formats.sarif import render_sarif
from pytest_istio_sidecar.reports.formats.svg import render_way_svg, render_words_svg
from pytest_istio_sidecar.reports.way import Way


def render(report: Report, form: ReportForm) -> str:
    """A report as the text of a file."""
    match form:
        case ReportForm.JSON:
            return json.dumps(report, indent=2) + "\n"
        case ReportForm.SARIF:
            return render_sarif(report)
        case ReportForm.MARKDOWN:
            return render_markdown(report)
        case ReportForm.HTML:
            return render_page(report)
        case ReportForm.SVG:
            return _picture(report)


def _picture(report: Report) -> str:
    """The way of the packet that shows the first problem, else of an ordinary inbound one, else words."""
    shown = [problem["way"] for test in report["tests"] for problem in test["problems"]]
    ways: list[Way] = [way for way in shown if way is not None]
    capture = report["capture"]
    if capture is not None:
        ways += capture["ways"]
    if not ways:
        return f"{render_words_svg(report['answer']['text'])}\n"
    beside = [(section["heading"], section["entries"]) for section in (capture["beside"] if capture else [])]
    return f"{render_way_svg(ways[0], beside=beside)}\n"
