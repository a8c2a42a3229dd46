"""The report of a run for every verdict: its schema, its answer, and the exit status, which agree."""

from __future__ import annotations

import json
from importlib.resources import files

import jsonschema
import pytest

from pytest_istio_sidecar import IstioOptions, expected_ruleset, render_save

SCHEMA = json.loads((files("pytest_istio_sidecar.reports") / "report.schema.json").read_text())
EXCLUDED = "inbound_ports_exclude=15090,15021,8443,15020"
EMPTY = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
REVIEW = """
[[bypass]]
what = "{}"
why = "scraped in clear text"
until = {}
"""
TPROXY = "inbound_interception_mode=TPROXY"


@pytest.fixture
def run(pytester):
    def reported(pairs: tuple[str, ...], *arguments: str, broken: str = "", review: str = "", six: str = ""):
        text = render_save(expected_ruleset("1.8.3", options=IstioOptions.from_pairs(pairs)))
        (pytester.path / "pod.rules").write_text(text.replace(*broken.split("=")) if broken else text)
        (pytester.path / "reviewed.toml").write_text(review)
        (pytester.path / "six.rules").write_text(six)
        result = pytester.runpytest_subprocess(
            "-p", "no:cacheprovider", "--pyargs", "pytest_istio_sidecar.suite",
            "--istio-environment=file", "--istio-table=pod.rules", "--istio-report=r.json",
            "--istio-report=r.md", "--istio-report=r.html", "--istio-reviewed-bypasses=reviewed.toml",
            *(["--istio-table=ip6:six.rules"] if six else []),
            *(f"--istio-option={pair}" for pair in pairs), *arguments,
        )  # fmt: skip
        return result, json.loads((pytester.path / "r.json").read_text())

    return reported


@pytest.mark.parametrize(
    ("pairs", "more", "verdict", "opened", "unexpected"),
    [
        ((), {}, "holds", [], []),
        ((EXCLUDED,), {}, "against", ["inbound tcp 8443"], ["inbound tcp 8443"]),
        ((EXCLUDED,), {"accept": "excludeInboundPorts"}, "holds", ["inbound tcp 8443"], []),
        (
            (EXCLUDED,),
            {"review": REVIEW.format("inbound tcp 8443", "2999-01-01")},
            "holds",
            ["inbound tcp 8443"],
            [],
        ),
        (
            (EXCLUDED,),
            {"review": REVIEW.format("inbound tcp 8443", "2001-01-01")},
            "against",
            ["inbound tcp 8443"],
            ["inbound tcp 8443"],
        ),
        (
            (EXCLUDED,),
            {"accept": "excludeInboundPorts", "broken": "15001=15007"},
            "against",
            ["inbound tcp 8443"],
            ["outbound tcp from uid not 1337 gid not 1337 by eth0: sent to 127.0.0.1:15007"],
        ),
        (
            ("proxy_gid=2000",),
            {},
            "holds",
            ["outbound tcp from uid not 1337 gid 2000 by eth0"],
            [],
        ),
        (
            ("proxy_gid=0",),
            {},
            "against",
            ["outbound tcp from uid not 1337 gid 0 by eth0"],
            ["outbound tcp from uid not 1337 gid 0 by eth0"],
        ),
        (
            ("kube_virt_interfaces=eth0",),
            {},
            "against",
            ["inbound tcp: sent to 192.0.2.10:15001"],
            ["inbound tcp: sent to 192.0.2.10:15001"],
        ),
        ((TPROXY, EXCLUDED), {}, "against", ["inbound tcp 8443"], ["inbound tcp 8443"]),
        ((TPROXY, EXCLUDED), {"accept": "excludeInboundPorts"}, "holds", ["inbound tcp 8443"], []),
        ((), {"six": EMPTY}, "undecided", [], []),
        (("enable_ipv6=false",), {"six": EMPTY}, "holds", [], []),
    ],
    ids=[
        "healthy",
        "opened",
        "accepted",
        "reviewed",
        "review ended",
        "accepted beside a fault",
        "another group",
        "the group of root",
        "virtual machine",
        "TPROXY opened",
        "TPROXY accepted",
        "IPv6 untold",
        "no IPv6",
    ],
)
def test_schema_answer_and_exit_status_agree(run, pytester, pairs, more, verdict, opened, unexpected):
    accept = [f"--istio-accept-options={more.pop('accept')}"] if "accept" in more else []
    result, report = run(pairs, *accept, **more)
    jsonschema.validate(report, SCHEMA)
    answer = report["answer"]
    assert (result.ret, answer["verdict"]) == (int(verdict != "holds"), verdict)
    assert [text.partition(" (")[0] for text in answer["opened"]] == opened
    assert [text.partition(" (")[0] for text in answer["unexpected"]] == unexpected
    for text in opened:
        assert text in (pytester.path / "r.md").read_text()
        assert text.replace(">", "&gt;") in (pytester.path / "r.html").read_text()


def test_what_nobody_said_of_ipv6_is_told_as_untold_in_every_form(run, pytester):
    _, report = run((), six=EMPTY)
    conditional = report["capture"]["bypasses"]["conditional"]
    assert [each["text"] for each in conditional] == [
        "all inbound IPv6: no rules",
        "all outbound IPv6: no rules",
    ]
    assert "cannot be told" in (pytester.path / "r.md").read_text()
    assert "cannot be told" in (pytester.path / "r.html").read_text()
