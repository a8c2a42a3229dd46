"""Pods in which somebody wrote rules with nft: each attack is shown by a real request, then told.

A request that was answered without a line in Envoy's log got by; one that nobody answered was led astray.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_istio_sidecar import check_matches_istio
from pytest_istio_sidecar.environments.embedded.environment import EmbeddedEnvironment
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.reports.message import render_findings

SUITE = ("--pyargs", "pytest_istio_sidecar.suite", "--istio-environment=embedded")
IN_NFT = """
for table in nat mangle; do
    iptables-legacy-save -t $table | iptables-nft-restore
    iptables-legacy -t $table -F
    iptables-legacy -t $table -X
done
"""
"""Istio's rules in the other back end."""
NAT_EARLY = "type nat hook prerouting priority -150"


def chain(table: str, hook: str, *rules: str, name: str = "evil") -> str:
    """A base chain of somebody else's, in a table that is there or not."""
    added = "".join(f"nft add rule {table} {name} '{rule}'\n" for rule in rules)
    return f"nft add table {table}\nnft add chain {table} {name} '{{ {hook}; }}'\n{added}"


def first(*rules: str) -> str:
    """Rules that nft puts in front of iptables' own, in Istio's chain of nf_tables."""
    return IN_NFT + "".join(f"nft insert rule ip nat PREROUTING '{rule}'\n" for rule in reversed(rules))


PAST_ENVOY = {
    # A1: a base chain of somebody else's in one of iptables' own tables.
    "a nat chain in iptables' nat": (
        IN_NFT + chain("ip nat", NAT_EARLY, "tcp dport 80 redirect to :80"),
        ["nat evil (nf_tables, nat hook prerouting priority -150)", "tcp dport 80 redirect to :80"],
    ),
    "the same by dnat": (
        IN_NFT + chain("ip nat", NAT_EARLY, "tcp dport 80 dnat to 192.0.2.10:80"),
        ["tcp dport 80 dnat to 192.0.2.10:80"],
    ),
    "a chain of notrack in iptables' raw": (
        IN_NFT
        + chain("ip raw", "type filter hook prerouting priority -300", "tcp dport 80 notrack")
        + chain("ip raw", "type filter hook output priority -300", "tcp sport 80 notrack", name="evil2"),
        ["tcp dport 80 notrack"],
    ),
    "a nat chain of another priority name in iptables' nat": (
        IN_NFT
        + chain("ip nat", "type nat hook prerouting priority dstnat - 1", "tcp dport 80 redirect to :80"),
        ["tcp dport 80 redirect to :80"],
    ),
    # A2: rules that iptables-nft misprints.
    "a verdict map": (first("tcp dport vmap { 80 : accept }"), ["tcp dport vmap { 80 : accept }"]),
    "a map of two fields": (
        first("ip daddr . tcp dport vmap { 192.0.2.10 . 80 : accept }"),
        ["ip daddr . tcp dport vmap { 192.0.2.10 . 80 : accept }"],
    ),
    "a range of addresses": (first("ip daddr 192.0.2.5-192.0.2.10 return"), ["192.0.2.5-192.0.2.10 return"]),
    "a set of ports": (first("tcp dport { 80, 9001 } accept"), ["tcp dport { 80, 9001 } accept"]),
    "bits of a port": (first("tcp dport & 16 == 16 accept"), ["accept"]),
    "a named set": (
        IN_NFT
        + "nft add set ip nat ports '{ type inet_service; elements = { 80 }; }'\n"
        + "nft insert rule ip nat PREROUTING tcp dport @ports accept\n",
        ["tcp dport @ports accept"],
    ),
    # A3: a dormant table, beside one whose name nft 1.0.6 prints for its flags.
    "a dormant table": (
        f"{IN_NFT}nft add table ip nat '{{ flags dormant; }}'\n",
        ["nat PREROUTING (nf_tables, in a dormant table)"],
    ),
    "a dormant table beside one named owner": (
        IN_NFT
        + "nft add table ip nat '{ flags dormant; }'\nnft add table inet owner\n"
        + "nft add table inet owner2 '{ flags dormant; }'\n",
        ["in a dormant table"],
    ),
    "a dormant table loaded as a file": (
        f"{IN_NFT}nft -f - <<'EOF'\ntable ip nat {{ flags dormant; }}\nEOF\n",
        ["in a dormant table"],
    ),
    # A4: tables of nf_tables' own.
    "a nat table of its own": (
        chain("inet other", NAT_EARLY, "tcp dport 80 redirect to :80"),
        ["inet other evil (nf_tables, nat hook prerouting priority -150)", "tcp dport 80 redirect to :80"],
    ),
    "notrack in a table of its own": (
        chain("inet other", "type filter hook prerouting priority -350", "tcp dport 80 notrack")
        + chain("inet other", "type filter hook output priority -350", "tcp sport 80 notrack", name="evil2"),
        ["tcp dport 80 notrack"],
    ),
    "a map of destinations": (
        chain("ip other", NAT_EARLY, "dnat to tcp dport map { 80 : 192.0.2.10 }"),
        ["dnat to tcp dport map { 80 : 192.0.2.10 }"],
    ),
    "by way of a chain of its own": (
        "nft add table inet other\nnft add chain inet other inner\n"
        "nft add rule inet other inner tcp dport 80 redirect to :80\n"
        + chain("inet other", NAT_EARLY, "tcp dport { 80 } jump inner"),
        ["redirect to :80"],
    ),
}


@pytest.fixture
def broken(start_pod, tmp_path):
    """A function: a pod that a script has changed."""

    def start(script: str) -> EmbeddedEnvironment:
        file = tmp_path / "setup.sh"
        file.write_text(f"set -e\n{script}")
        return start_pod(setup=file)

    return start


def findings(pod: EmbeddedEnvironment) -> list[object]:
    found = check_matches_istio(pod.read_rules(), "1.8.3", host=pod.pod().host)
    return [finding for finding in found if finding.severity == "violation"]


def assert_told(pod: EmbeddedEnvironment, named: list[str]) -> None:
    said = " ".join(render_findings(findings(pod)).split())
    assert all(text in said for text in named), said


@pytest.mark.parametrize(("script", "named"), PAST_ENVOY.values(), ids=PAST_ENVOY)
def test_a_way_past_envoy_by_nft_is_told_with_its_rule(broken, script, named):
    pod = broken(script)
    seen = pod.send_request("inbound")
    assert (seen.decided, seen.captured_by, seen.answered_by) == (True, None, "httpbin")
    assert_told(pod, named)


OUTBOUND = {
    "a nat chain before Istio's": (
        chain("ip other", "type nat hook output priority -150", "tcp dport 8080 dnat to 192.0.2.20:8080"),
        ["tcp dport 8080 dnat to 192.0.2.20:8080"],
    ),
    "a mark that iptables-nft misprints": (
        IN_NFT + "nft insert rule ip nat OUTPUT tcp dport vmap { 8080 : accept }\n",
        ["tcp dport vmap { 8080 : accept }"],
    ),
    "a nat chain in iptables' nat": (
        IN_NFT
        + chain("ip nat", "type nat hook output priority -150", "tcp dport 8080 dnat to 192.0.2.20:8080"),
        ["nat evil (nf_tables, nat hook output priority -150)"],
    ),
    "a dormant table": (f"{IN_NFT}nft add table ip nat '{{ flags dormant; }}'\n", ["in a dormant table"]),
    "a named verdict map": (
        IN_NFT
        + "nft add map ip nat way '{ type inet_service : verdict; elements = { 8080 : accept }; }'\n"
        + "nft insert rule ip nat OUTPUT tcp dport vmap @way\n",
        ["tcp dport vmap @way"],
    ),
    "a chain by a table of both families": (
        chain(
            "inet other",
            "type nat hook output priority -101",
            "meta nfproto ipv4 tcp dport 8080 dnat ip to 192.0.2.20:8080",
        ),
        ["dnat ip to 192.0.2.20:8080"],
    ),
    "notrack": (
        chain("inet other", "type filter hook output priority raw", "tcp dport 8080 notrack")
        + chain("inet other", "type filter hook prerouting priority raw", "tcp sport 8080 notrack", name="b"),
        ["tcp dport 8080 notrack"],
    ),
}


@pytest.mark.parametrize(("script", "named"), OUTBOUND.values(), ids=OUTBOUND)
def test_a_way_out_past_envoy_by_nft_is_told_with_its_rule(broken, script, named):
    pod = broken(script)
    seen = pod.send_request("outbound")
    assert (seen.decided, seen.captured_by, seen.answered_by) == (True, None, "echo")
    assert_told(pod, named)


DROPPED = {
    "in iptables' filter": chain("ip filter", "type filter hook input priority -10", "tcp dport 15006 drop"),
    "in a table of its own": chain(
        "inet other", "type filter hook input priority 0", "tcp dport 15006 reject"
    ),
    "by its policy": chain("inet other", "type filter hook input priority 5; policy drop"),
    "at the device": chain(
        "netdev other", "type filter hook ingress device eth0 priority 0", "tcp dport 80 drop"
    ),
}


@pytest.mark.parametrize("script", DROPPED.values(), ids=DROPPED)
def test_what_nft_drops_before_envoy_is_told(broken, script):
    pod = broken(script)
    seen = pod.send_request("inbound")
    assert (seen.captured_by, seen.answered_by) == (None, None)
    said = " ".join(render_findings(findings(pod)).split())
    assert "expected redirected to :15006, here dropped" in said


HARMLESS = {
    "counting": chain("inet other", "type filter hook prerouting priority -160", "counter"),
    "accepting": chain("inet other", "type filter hook input priority 0", "tcp dport 15006 accept"),
    "forwarded packets": chain("inet other", "type filter hook forward priority 0; policy drop"),
    "a nat chain that matches nothing": chain(
        "ip nat", NAT_EARLY, "ip daddr 203.0.113.9 tcp dport 80 redirect"
    ),
    "accepted in a nat chain before Istio's": chain("inet other", NAT_EARLY, "tcp dport 80 accept"),
    "behind Istio's": chain(
        "inet other", "type nat hook prerouting priority -50", "tcp dport 80 redirect to :80"
    ),
    "a priority between Istio's": chain(
        "inet other", "type filter hook prerouting priority -120", "meta mark set 0x99"
    ),
    "masquerading": chain(
        "ip other", "type nat hook postrouting priority 100", "ip daddr 203.0.113.0/24 masquerade"
    ),
    "a dormant table of its own": (
        "nft add table inet other '{ flags dormant; }'\n"
        "nft add chain inet other evil '{ type nat hook prerouting priority -150; }'\n"
        "nft add rule inet other evil tcp dport 80 redirect to :80\n"
    ),
    "a set that nobody asks": "nft add table ip nat\nnft add set ip nat ports '{ type inet_service; }'\n",
    "Istio's rules in nf_tables": IN_NFT,
    "and a base chain among them": IN_NFT + chain("ip nat", "type filter hook input priority 10", "counter"),
    "a rate that is only counted": chain(
        "inet other", "type filter hook input priority 0", "limit rate over 1000/second counter"
    ),
    "a map that nobody asks": (
        "nft add table ip nat\n"
        "nft add map ip nat way '{ type inet_service : verdict; elements = { 80 : drop }; }'\n"
    ),
    "a counter with a name": (
        "nft add table inet other\nnft add counter inet other seen\n"
        + chain("inet other", "type filter hook output priority 5", "counter name seen")
    ),
    "udp alone": chain("inet other", NAT_EARLY, "udp dport 80 counter accept"),
    "another interface": chain("inet other", NAT_EARLY, 'iifname "eth9" tcp dport 80 redirect to :81'),
    "a quota that is only noted": chain(
        "inet other", "type filter hook input priority 1", "quota over 100 mbytes counter"
    ),
    "a verdict map that accepts": chain(
        "inet other", "type filter hook input priority 2", "tcp dport vmap { 15006 : accept }"
    ),
    "a log": chain("inet other", "type filter hook output priority -10", 'tcp dport 8080 log prefix "out"'),
}


@pytest.mark.parametrize("script", HARMLESS.values(), ids=HARMLESS)
def test_what_nft_does_without_harm_is_no_finding(broken, script):
    pod = broken(script)
    assert pod.send_request("outbound").captured_by == "outbound"
    assert pod.send_request("inbound").captured_by == "inbound"
    assert findings(pod) == []
    assert pod.read_rules().native_read


@pytest.mark.parametrize(
    ("script", "named"),
    [
        PAST_ENVOY["a nat chain in iptables' nat"],
        PAST_ENVOY["a verdict map"],
        PAST_ENVOY["a dormant table"],
        PAST_ENVOY["a nat table of its own"],
    ],
    ids=["A1", "A2", "A3", "A4"],
)
def test_the_shipped_suite_fails_and_names_it(pytester, script, named):
    Path("break.sh").write_text(f"set -e\n{script}")
    result = pytester.runpytest_subprocess(*SUITE, "--istio-embedded-setup=break.sh")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    said = " ".join(result.stdout.str().split())
    assert all(text in said for text in named), said


def test_options_of_the_pod_that_open_all_of_it_are_against_in_the_status_too(pytester):
    opened = ("--istio-option=inbound_ports_include=", "--istio-option=outbound_ip_ranges_include=")
    result = pytester.runpytest_subprocess(*SUITE, *opened)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert 'includeInboundPorts: ""' in result.stdout.str()


def test_without_nft_a_table_that_iptables_cannot_show_leaves_the_pod_undecided(broken, monkeypatch):
    pod = broken(PAST_ENVOY["a nat chain in iptables' nat"][0])
    runner = pod.runner("tables")

    class WithoutNft:
        def run(self, argv, *, timeout):
            return runner.run(["no-such-nft"] if argv[0] == "nft" else argv, timeout=timeout)

    monkeypatch.setattr(pod, "runner", lambda thing: WithoutNft())
    with pytest.raises(EnvironmentProblem, match="chains or rules that iptables did not write"):
        pod.read_rules()
