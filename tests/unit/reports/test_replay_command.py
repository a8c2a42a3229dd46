"""The replay line of a trace: whatever packet and host are, the command decides alike, or there is none."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pytest_istio_sidecar import (
    Host,
    Packet,
    PodRules,
    Ruleset,
    complete,
    expected_ruleset,
    inbound,
    outbound,
    parse_iptables_list,
    parse_iptables_save,
    trace,
)
from pytest_istio_sidecar.checks.comparison.expectation import completed, expected_of
from pytest_istio_sidecar.cli import main
from pytest_istio_sidecar.environments.file import read_given
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.netfilter.model import joined
from pytest_istio_sidecar.netfilter.trace.trace import Trace
from pytest_istio_sidecar.reports.replay import replay_command

LAB = Path(__file__).parents[2] / "data" / "lab-listing-1.8.3.txt"
PEER, FAR, OWN = "192.0.2.20", "203.0.113.9", "192.0.2.10"
ASKED = """*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -i net1 -p tcp -j REDIRECT --to-ports 11
-A PREROUTING -s {far} -p tcp -j REDIRECT --to-ports 12
-A PREROUTING -d {second} -p tcp -j REDIRECT --to-ports 13
-A PREROUTING -p tcp -m tcp --sport 1 -j REDIRECT --to-ports 14
-A PREROUTING -p tcp -m mark --mark 0x7 -j REDIRECT --to-ports 15
-A PREROUTING -p udp -j REDIRECT --to-ports 16
-A OUTPUT -o net1 -p tcp -j REDIRECT --to-ports 21
-A OUTPUT -s {own} -p tcp -j REDIRECT --to-ports 22
-A OUTPUT -p tcp -m owner --uid-owner 0 -j REDIRECT --to-ports 23
-A OUTPUT -p tcp -m owner --gid-owner 1337 -j REDIRECT --to-ports 24
-A OUTPUT -p tcp -m mark --mark 0x7 -j REDIRECT --to-ports 25
-A OUTPUT -p tcp -m tcp --sport 1 -j REDIRECT --to-ports 26
-A OUTPUT -o lo -p tcp -j REDIRECT --to-ports 27
-A OUTPUT -p udp -j REDIRECT --to-ports 28
COMMIT
"""
"""Rules that ask for all that a packet can be described by."""

ADDRESSES = {
    4: {"own": OWN, "second": "10.99.0.3", "far": FAR, "loopback": "127.0.0.6", "peer": PEER},
    6: {"own": "2001:db8::10", "second": "fd00:99::3", "far": "2001:db8:ffff::9", "loopback": "::1",
        "peer": "2001:db8::20"},
}  # fmt: skip
HOSTS = (
    Host(),
    Host(interfaces={"eth0": ["10.244.0.7/24", "fd00::7/64"], "net1": ["10.99.0.3/16", "fd00:99::3/64"]}),
    Host(interfaces={"net1": ["10.99.0.3/16"], "eth0": ["192.0.2.10/24", "2001:db8::10/64"]}),
    Host(interfaces={"lo": ["127.0.0.1/8"], "eth0": ["192.0.2.10/32"]}),
    Host(interfaces={"lo": ["127.0.0.1/8", "10.99.0.3/32"]}),
    Host(interfaces={"net1": [], "eth0": ["192.0.2.10/24"]}),
)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> PodRules:
    """The rules of both families, in files."""
    folder = tmp_path_factory.mktemp("asked")
    rulesets = []
    for family in (4, 6):
        path = folder / f"{family}.rules"
        path.write_text(ASKED.format(**ADDRESSES[family]))
        rulesets.append(parse_iptables_save(path.read_text(), family=family, source=str(path)))
    return PodRules(rulesets=tuple(rulesets))


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    """Ordinary packets, most of them with something about them that is not."""
    family = draw(st.sampled_from((4, 6)))
    address = st.sampled_from([*ADDRESSES[family].values(), "10.244.0.7" if family == 4 else "fd00::7"])
    interface = st.sampled_from(("lo", "eth0", "net1"))
    identity = st.sampled_from((None, 0, 1000, 1337))
    arriving = draw(st.booleans())
    odd = {
        "protocol": st.sampled_from(("tcp", "udp", "icmp", 200)),
        "source": address,
        "source_port": st.sampled_from((1, None)),
        "destination_port": st.sampled_from((443, None)),
        "in_interface": interface,
        "out_interface": interface,
        "uid": identity,
        "gid": identity,
        "mark": st.just(7),
        "state": st.just("ESTABLISHED"),
    }
    fields = {name: draw(odd[name]) for name in draw(st.lists(st.sampled_from(sorted(odd)), max_size=2))}
    if arriving:
        ends = {"destination": draw(address), "source": ADDRESSES[family]["peer"]}
        return inbound(fields.pop("destination_port", 80), **{**ends, **fields})
    who = {"uid": draw(identity), "gid": draw(identity)}
    return outbound(draw(address), fields.pop("destination_port", 80), **{**who, **fields})


def decided_by(line: str) -> dict[str, object]:
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        status = main([*shlex.split(line)[1:], "--json"])
    assert status in (0, 3), f"{line}\n{said.getvalue()}"
    told = json.loads(printed.getvalue())
    return {name: told[name] for name in ("fate", "destination", "mark", "reasons")}


def decided(way: Trace) -> dict[str, object]:
    return {
        "fate": str(way.fate),
        "destination": str(way.destination),
        "mark": way.mark,
        "reasons": list(way.reasons),
    }


@settings(max_examples=400)
@given(packet=packets(), host=st.sampled_from(HOSTS))
def test_the_command_decides_as_the_trace_or_there_is_none(
    asked: PodRules, packet: Packet, host: Host
) -> None:
    way = trace(asked, packet, host=host)
    line = replay_command(way)
    event("a command" if line else "none")
    if line:
        assert decided_by(line) == decided(way)


@pytest.mark.parametrize("host", HOSTS[:5])
@pytest.mark.parametrize("family", [4, 6])
def test_packets_that_the_options_can_describe_have_a_command(
    asked: PodRules, host: Host, family: int
) -> None:
    own = host.primary(host.external(), family)
    if own is not None:
        packet = inbound(80, destination=own, source=ADDRESSES[own.version]["far"])
        assert replay_command(trace(asked, packet, host=host))
    for uid, gid in ((1000, 1000), (0, 1337), (None, None)):
        packet = outbound(ADDRESSES[family]["far"], 443, uid=uid, gid=gid)
        assert replay_command(trace(asked, packet, host=host))


def test_rules_that_are_in_no_file_have_no_command(asked: PodRules) -> None:
    nowhere = parse_iptables_save(ASKED.format(**ADDRESSES[4]))
    assert replay_command(trace(asked.rulesets[0], inbound(80)))
    assert replay_command(trace(nowhere, inbound(80))) == ""
    assert replay_command(trace(expected_ruleset("1.8.3"), inbound(80))) == ""
    assert replay_command(trace(PodRules(rulesets=(asked.rulesets[0], nowhere)), inbound(80))) == ""


def test_a_completion_that_no_release_tells_has_no_command() -> None:
    listing = parse_iptables_list(LAB.read_text(), source=str(LAB))
    expected = expected_ruleset("1.8.3")
    of_a_release, of_mine = (complete(listing, told) for told in (expected, replace(expected, origin=())))
    assert of_a_release.assumptions == of_mine.assumptions != ()
    assert decided_by(replay_command(trace(of_a_release, inbound(80))))["fate"] == "redirected"
    assert replay_command(trace(of_mine, inbound(80))) == ""


def test_listings_of_single_tables_are_named_each() -> None:
    parts = [Ruleset(tables=(expected_ruleset("1.8.3").nat,), source="nat.txt"), Ruleset(source="raw.txt")]
    whole = joined(parts)
    assert [table.name for table in whole.tables] == ["nat"]
    assert (whole.source, whole.parts) == ("nat.txt", ("nat.txt", "raw.txt"))


@pytest.mark.parametrize(
    "names",
    [
        ["lab-listing-1.8.3.txt"],
        ["reports/24-iptables-L-without-t-nat.txt"],
        ["reports/20c-trimmed-L-n-v.txt"],
        ["reports/20c-trimmed-L-n-v.txt", "reports/24b-iptables-S-without-t-nat.txt"],
        ["reports/40-nft-with-legacy-warning.txt"],
        ["reports/40-nft-with-legacy-warning.txt", "observed-1.8.3/iptables-legacy-save-c.txt"],
    ],
)
@pytest.mark.parametrize("version", ["", "1.8.3"])
def test_what_was_not_read_is_not_read_either_where_the_command_is_run(
    names: list[str], version: str
) -> None:
    rules = read_given([str(LAB.parent / name) for name in names]).rules
    if version:
        rules = completed(rules, expected_of(rules, version, IstioOptions()))
    for packet in (inbound(80), inbound(15008), outbound(FAR, 443), outbound(FAR, 443, uid=1337, gid=1337)):
        way = trace(rules, packet)
        line = replay_command(way)
        assert line
        assert decided_by(line) == decided(way)
