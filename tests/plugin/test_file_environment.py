"""The shipped suite on a listing: the lab's own passes, and what it leaves out is said."""

import shutil
from pathlib import Path

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save

DATA = Path(__file__).parents[1] / "data"
LAB, REPORTS = DATA / "lab-listing-1.8.3.txt", DATA / "reports"


@pytest.fixture
def run_suite(pytester, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")

    def run(listing: str, *arguments: str):
        path = pytester.path / "listing.txt"
        path.write_text(listing)
        return pytester.runpytest_subprocess(
            "-p",
            "no:cacheprovider",
            "--pyargs",
            "pytest_istio_sidecar.suite",
            "--istio-environment=file",
            f"--istio-table={path}",
            *arguments,
        )

    return run


def test_the_printed_listing_of_the_lab_passes(run_suite):
    result = run_suite(LAB.read_text())
    outcomes = result.parseoutcomes()
    assert outcomes.keys() == {"passed", "skipped"}
    result.stdout.fnmatch_lines(["*Istio 1.8.3*the listing does not show it*"])
    result.stdout.fnmatch_lines(
        ["*mangle, filter and security: not read, taken to have no rule, as in Istio*"]
    )


def test_what_needs_traffic_or_listeners_is_skipped_with_the_reason(run_suite):
    result = run_suite(LAB.read_text(), "-rs")
    result.stdout.fnmatch_lines(
        [
            "SKIPPED *reads Envoy's listeners; the file environment has listings only",
            "SKIPPED *sends requests; the file environment has listings only",
        ]
    )


@pytest.mark.parametrize(
    ("listing", "told"),
    [
        ("24-iptables-L-without-t-nat.txt", "*this is table filter; nat was not read and could capture it*"),
        ("40-nft-with-legacy-warning.txt", "*iptables-legacy has tables, too, which were not read*"),
    ],
)
def test_what_the_listing_does_not_show_is_undecided_and_never_a_verdict(run_suite, listing, told):
    result = run_suite((REPORTS / listing).read_text(), "--istio-version=1.20.8")
    outcomes = result.parseoutcomes()
    assert "failed" not in outcomes
    assert outcomes["errors"] > 10
    assert result.ret == 1
    result.stdout.fnmatch_lines([told])


def test_two_listings_of_one_back_end_are_judged_as_one(run_suite, pytester):
    (pytester.path / "filter.txt").write_text((REPORTS / "24-iptables-L-without-t-nat.txt").read_text())
    result = run_suite(LAB.read_text(), "--istio-table=filter.txt")
    assert result.parseoutcomes().keys() == {"passed", "skipped"}
    result.stdout.fnmatch_lines(["*tables raw, mangle and security: not read, taken to have no rule*"])


LISTING_OF_OTHERS = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING -j ACCEPT\nCOMMIT\n"


def test_rules_without_istios_fail_where_the_release_can_write_no_others(run_suite):
    assert run_suite(LISTING_OF_OTHERS).parseoutcomes()["failed"] > 5


def test_rules_without_istios_are_undecided_where_the_release_can_write_native_tables(run_suite):
    result = run_suite(LISTING_OF_OTHERS, "--istio-version=1.28.0")
    outcomes = result.parseoutcomes()
    assert (outcomes["errors"], outcomes.get("failed", 0)) == (1, 0)
    result.stdout.fnmatch_lines(["*nf_tables' own tables were not read*"])


def test_the_listing_of_a_back_end_without_a_rule_is_undecided_and_names_the_other(run_suite):
    result = run_suite((DATA / "observed-1.27.3" / "iptables-legacy-save_-c.txt").read_text())
    outcomes = result.parseoutcomes()
    assert (outcomes["errors"], outcomes.get("failed", 0)) == (1, 0)
    result.stdout.fnmatch_lines(["*give both: add iptables-nft-save (nft:FILE)*"])


def test_packets_of_the_application_are_those_of_an_ordinary_user(run_suite, pytester):
    (pytester.path / "nft").write_text("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
    nothing = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
    (pytester.path / "legacy").write_text(nothing)
    result = run_suite(nothing, "--istio-table=nft:nft", "-k", "rule_9")
    result.stdout.fnmatch_lines(["*outbound tcp 80 to 198.51.100.7 from uid 1000 leaves *"])


def test_where_nothing_tells_the_release_the_one_that_was_taken_is_said(run_suite):
    taken = "release *taken to be Istio 1.8.3, as nothing tells it*"
    run_suite(LAB.read_text()).stdout.fnmatch_lines([taken])
    run_suite(LAB.read_text(), "--istio-version=1.8.3").stdout.no_fnmatch_line(taken)


def test_of_a_folder_the_release_is_the_pods_unless_another_is_named(pytester):
    shutil.copytree(DATA / "observed-1.20.8", pytester.path / "read")
    pytester.makepyfile("def test_release(istio_version, pod_rules):\n    print(istio_version)")
    arguments = ("-s", "--istio-environment=file", "--istio-table=read")
    pytester.runpytest_subprocess(*arguments).stdout.fnmatch_lines(["*1.20.8*"])
    pytester.runpytest_subprocess(*arguments, "--istio-version=1.19.0").stdout.fnmatch_lines(["*1.19.0*"])


def test_a_chain_of_istios_that_is_missing_is_a_verdict_that_names_it(run_suite):
    lines = render_save(expected_ruleset("1.8.3")).splitlines(keepends=True)
    result = run_suite("".join(line for line in lines if "ISTIO_OUTPUT" not in line))
    outcomes = result.parseoutcomes()
    assert "errors" not in outcomes
    named = [
        line for line in result.outlines if line.startswith("E ") and "has no chain ISTIO_OUTPUT" in line
    ]
    assert len(named) == 4


EMPTY = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"


@pytest.mark.parametrize(
    ("arguments", "ended", "told"),
    [
        ([], {"errors": 1}, "*whether IPv6 is to go through Envoy cannot be told*"),
        (["--istio-option=enable_ipv6=false"], {}, "*all IPv6 gets by without Envoy*(enable_ipv6: false)*"),
        (["--istio-option=enable_ipv6=true"], {"failed": 1}, "*traffic of * gets past Envoy: inbound IPv6*"),
        (["--istio-interface=eth0=192.0.2.10/24"], {}, "*traffic of * goes through Envoy*"),
    ],
    ids=["nobody said", "said not to", "said to", "no address"],
)
def test_ipv6_without_a_rule_is_judged_by_whether_it_should_have_some(
    run_suite, pytester, arguments, ended, told
):
    (pytester.path / "empty.txt").write_text(EMPTY)
    result = run_suite(render_save(expected_ruleset("1.8.3")), "--istio-table=ip6:empty.txt", *arguments)
    outcomes = result.parseoutcomes()
    assert {name: count for name, count in outcomes.items() if name in ("failed", "errors")} == ended
    assert result.ret == bool(ended)
    result.stdout.fnmatch_lines([told])


ACCEPTED = "inbound_ports_exclude=15090,15021,8443,15020"


def test_what_is_accepted_or_moved_is_told_apart_from_what_is_by_design_beside_a_fault(run_suite):
    rules = render_save(
        expected_ruleset("1.8.3", inbound_ports_exclude=ACCEPTED.partition("=")[2], proxy_gid="2000")
    )
    result = run_suite(
        rules.replace("--to-ports 15006", "--to-ports 15066"),
        f"--istio-option={ACCEPTED}",
        "--istio-option=proxy_gid=2000",
        "--istio-accept-options=excludeInboundPorts",
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "  inbound *NOT BY DESIGN: tcp not 22,*: sent to 192.0.2.10:15066",
            " *accepted: tcp 8443 (excludeInboundPorts: 8443)",
            " *by design: not tcp; tcp 22,15008,15020-15021,15090",
            "  outbound *NOT BY DESIGN: tcp *",
            " *taken for Envoy's: tcp from uid not 1337 gid 2000 by eth0 (proxy_gid: 2000)",
            " *by design: not tcp; *",
        ]
    )
