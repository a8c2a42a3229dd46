"""The tracer agrees with every recorded experiment that is one first packet, and says which ones are not."""

from __future__ import annotations

import gzip
import ipaddress
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from pytest_istio_sidecar.netfilter.model import PodRules, Ruleset, Table
from pytest_istio_sidecar.netfilter.packet import Endpoint, Fate, Host, Packet
from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save
from pytest_istio_sidecar.netfilter.trace.trace import Trace, trace

LINK_LOCAL = "fe80::1490:53ff:fe8d:cdc6"
HOST = Host(
    interfaces={
        "lo": ["127.0.0.1/8", "::1/128", "::6/128"],
        "eth0": ["192.0.2.10/24", "192.0.2.11/24", "fd00:5e:1::10/64", f"{LINK_LOCAL}/64"],
    }
)
"""meta.topology of the data."""
CORPUS_HOST = Host(interfaces={"eth0": ["192.0.2.10/24", "192.0.2.11/24"], "eth1": ["203.0.113.10/24"]})
"""meta.corpus_topology of the data."""


@dataclass(frozen=True)
class Case:
    """One packet of an experiment and where it was seen to arrive."""

    packet: Packet
    arrives: str | None
    """ "address:port"; "dropped"; None: it was not dropped, and nobody there accepted it."""
    listener: int = 0
    """Port of the socket that accepted it, where that is not the port it arrives at (TPROXY)."""
    host: Host = HOST


NOT_ONE_FIRST_PACKET = {
    "B01": "a connection from before the rules",
    "B02": "a connection from before the rules",
    "B03": "a connection from before the rules",
    "C01": "a connection that outlives its rules",
    "C02": "a connection that outlives its rules",
    "E01": "VXLAN: three packets of kernel sockets, some with and some without a socket",
    "E02": "VXLAN: an outer packet that keeps the inner packet's socket",
    "F01": "two connections whose source ports collide",
    "G02": "TPROXY without a listener that may take the packet; a trace takes the listener to exist",
    "G03": "TPROXY without a listener that may take the packet; a trace takes the listener to exist",
    "H01": "a conversation of several UDP flows in conntrack zones",
    "I02": "replies of the kernel, of connections that exist",
    "I03": "an ICMP error of the kernel, related to a connection",
    "L01": "what rules the kernel takes, not what they do",
    "P01": "what getsockopt says on a dual-stack listener",
    "R02": "AF_PACKET: the packet never meets OUTPUT",
    "T12b": "route_localnet is on; a Host has no sysctls",
    "T41b": "supplementary groups, which a Packet does not have: unknown",
    "T70": "connect() fails for want of a route, there is no packet",
    "U01": "several packets of one flow",
    "U02": "two packets of one flow",
    "U03": "two packets of one flow",
    "U04": "two connections of one 5-tuple",
    "Z05": "lo is down; a Host's interfaces are up",
}

POD, OTHER = "192.0.2.10", "192.0.2.20"


def _out(destination: str, port: int, uid: int | None = 1000, gid: int | None = 1000, **more) -> Packet:
    fields = {
        "hook": "OUTPUT",
        "protocol": "tcp",
        "source": POD,
        "source_port": 40000,
        "uid": uid,
        "gid": gid,
    }
    return Packet(**{**fields, "destination": destination, "destination_port": port, **more})


def _in(destination: str, port: int, source: str = OTHER, **more) -> Packet:
    fields = {"hook": "PREROUTING", "protocol": "tcp", "source": source, "source_port": 40000}
    return Packet(**{**fields, "destination": destination, "destination_port": port, **more})


NO_ADDRESS_ON_ETH0 = Host(interfaces={"lo": ["127.0.0.1/8", "::1/128", "192.0.2.10/32"], "eth0": []})
ROUTER = Host(interfaces={"eth0": ["192.0.2.10/24"], "eth1": ["203.0.113.1/24"]})

DESCRIBED = {
    "G04": [Case(_in(POD, 80), f"{POD}:80", 15001)],
    "I01": [Case(_out(OTHER, 0, 0, 0, protocol="icmp", source_port=None, destination_port=None), OTHER)],
    "K01": [Case(_out(POD, 80), f"{POD}:80")],
    "K02": [Case(_in(POD, 80), f"{POD}:15006")],
    "M01": [
        Case(_out(OTHER, 80), "127.0.0.1:15001"),
        Case(_out(OTHER, 80, 1337, 1337), f"{OTHER}:80"),
        Case(_out(OTHER, 80, 1000, 1337), f"{OTHER}:80"),
    ],
    "N01": [Case(_in(LINK_LOCAL, 80, "fd00:5e:1::20"), f"[{LINK_LOCAL}]:15006")],
    "O01": [
        Case(_in(OTHER, 80, "203.0.113.2"), f"{OTHER}:80", host=ROUTER),
        Case(_in(OTHER, 81, "203.0.113.2"), "203.0.113.1:15006", host=ROUTER),
    ],
    "R01": [
        Case(_out(OTHER, 80), "127.0.0.1:15001"),
        Case(_out(OTHER, 80, state="INVALID"), f"{OTHER}:80"),
    ],
    "R03": [Case(_out(OTHER, 80), None)],
    "Z01": [Case(_out(OTHER, 80), "dropped"), Case(_out(OTHER, 81), "127.0.0.1:15001")],
    "Z02": [Case(_out(OTHER, 80), "dropped")],
    "Z03": [Case(_in(POD, 80), None)],
    "Z04": [Case(_out(OTHER, 80), None)],
    "Z06": [Case(_in(POD, 80), "dropped", host=NO_ADDRESS_ON_ETH0)],
}
"""Experiments whose packet the data describes in words."""

COUNTERS_OF_MORE = {
    "A01": "nothing needs conntrack, so the kernel does not ask nat at all; the trace is as if it did",
    "R01": "rules are counted over all its packets, thirteen of them",
    "T33": "as A01",
    "T44": "as A01",
    "I01": "whether it is an echo request is not part of a Packet",
    "Z06": "counted with the packet that left the pod before",
}
"""Experiments whose outcome is compared, but not their counters."""


@cache
def data() -> dict:
    path = Path(__file__).parents[3] / "data" / "netfilter-vectors.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))


def _arrival(experiment: dict) -> tuple[str | None, int]:
    server = experiment["observed"]["server"]
    if server is None:
        error = (experiment["observed"].get("client") or {}).get("err") or experiment["observed"].get(
            "client_err"
        )
        dropped = error == "TimeoutError" or "-j REJECT" in experiment["ruleset"]
        return ("dropped" if dropped else None), 0
    if "pktinfo_dst" in server:
        return f"{server['pktinfo_dst']}:{server['listener']}", 0
    return server["local"], server["listener"]


def cases_of(experiment: dict) -> list[Case]:
    """The packets of an experiment; none where it is not about first packets."""
    if experiment["id"] in NOT_ONE_FIRST_PACKET:
        return []
    told = experiment["packet"]
    if not isinstance(told, dict):
        return DESCRIBED.get(experiment["id"], [])
    destination = ipaddress.ip_address(told["dst"].removeprefix("::ffff:"))
    inbound = experiment["sent_from"] == "peer" or "peer->" in experiment["title"]
    own, other = (POD, OTHER) if destination.version == 4 else ("fd00:5e:1::10", "fd00:5e:1::20")
    source = told.get("src") or (other if inbound else "127.0.0.1" if destination.is_loopback else own)
    known = {key: told[key] for key in ("uid", "gid", "mark") if key in told}
    if not inbound:
        known = {"uid": 0, "gid": 0, **known}
    packet = (_in if inbound else _out)(
        str(destination), told["dport"], source=source, protocol=told.get("proto", "tcp"), **known
    )
    return [Case(packet, *_arrival(experiment))]


def rules_of(experiment: dict, variant: str) -> Ruleset | PodRules:
    text = experiment["ruleset"]
    family = experiment.get("family") or 4
    if experiment["id"].startswith("D"):
        texts = text if isinstance(text, list) else _swapped(experiment, text)
        # The back end registered last is asked first.
        return PodRules(rulesets=tuple(map(parse_iptables_save, reversed(texts))), order_known=True)
    if experiment["id"].startswith("K"):
        # The only command given, for both.
        text = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -j REDIRECT --to-ports 15006\nCOMMIT\n"
    return parse_iptables_save(text, family=family, source=variant)


def _swapped(experiment: dict, text: str) -> list[str]:
    """D02 and D03 print one ruleset; its counters tell the rules of both."""
    observed = experiment["observed"]
    return [
        text.replace("-A OUTPUT -p tcp -j REDIRECT --to-ports 1111", rule.removeprefix("nat: "))
        for hits in (observed["first_hits"], observed["second_hits"])
        for rule in hits
    ]


def everything() -> list:
    return [
        pytest.param(experiment, id=f"{experiment['id']}-{number}")
        for number, experiment in enumerate(data()["experiments"])
    ]


@pytest.mark.parametrize("experiment", everything())
def test_an_experiment_is_traced_or_says_why_it_is_not_one_first_packet(experiment: dict) -> None:
    if experiment["id"] == "J":
        assert experiment["title"] in J_PACKETS
    else:
        assert bool(cases_of(experiment)) is not (experiment["id"] in NOT_ONE_FIRST_PACKET)


def test_the_tables_name_no_experiment_that_is_not_there() -> None:
    known = {experiment["id"] for experiment in data()["experiments"]} - {"J"}
    assert set(NOT_ONE_FIRST_PACKET) | set(DESCRIBED) | set(COUNTERS_OF_MORE) <= known


@pytest.mark.parametrize("experiment", [p for p in everything() if cases_of(p.values[0])])
def test_an_experiment_ends_as_the_kernel_ended_it(experiment: dict) -> None:
    for variant in experiment["variants"]:
        rules = rules_of(experiment, variant)
        for case in cases_of(experiment):
            traced = trace(rules, case.packet, host=case.host)
            assert _agrees(case, traced), f"{experiment['title']}: {case.arrives}, traced {traced}"


def _agrees(case: Case, traced: Trace) -> bool:
    if case.arrives is None or case.arrives == "dropped":
        return (traced.fate is Fate.DROPPED) is (
            case.arrives == "dropped"
        ) and traced.fate is not Fate.UNKNOWN
    if case.listener and not case.arrives.endswith(f":{case.listener}"):
        address = ipaddress.ip_address(case.arrives.rpartition(":")[0])
        local = Endpoint(HOST_OF_TPROXY.get(traced.packet.hook, address), case.listener)
        return (traced.fate, traced.destination) == (Fate.TPROXIED, local)
    return str(traced.destination) == case.arrives and traced.fate is not Fate.DROPPED


HOST_OF_TPROXY = {"OUTPUT": ipaddress.ip_address("127.0.0.1")}
"""Without --on-ip TPROXY looks for a listener on the incoming interface's address."""


@pytest.mark.parametrize(
    "experiment",
    [
        p
        for p in everything()
        if cases_of(p.values[0])
        and p.values[0]["id"] not in COUNTERS_OF_MORE
        and "rule_packets" in p.values[0]["observed"]
    ],
)
def test_an_experiment_meets_the_rules_that_counted_it(experiment: dict) -> None:
    rules = rules_of(experiment, "")
    hits: dict[str, int] = {}
    # The counters of O01 were read after its first packet.
    for case in cases_of(experiment)[: 1 if experiment["id"] == "O01" else None]:
        for step in trace(rules, case.packet, host=case.host).steps:
            if step.rule is not None and step.matched:
                key = f"{step.table}: {step.rule.text}"
                hits[key] = hits.get(key, 0) + 1
    counted = experiment["observed"]["rule_packets"]
    for rule, packets in counted.items():
        if rule.startswith("nat: "):
            assert hits.get(rule, 0) == packets, rule
        else:
            # Other tables count the connection's later packets too.
            assert packets >= hits.get(rule, 0), rule
    assert hits.keys() <= counted.keys() | {key for key in hits if not key.startswith("nat: ")}


def _numbered(values: list) -> list:
    return [pytest.param(value, id=value.get("label") or value["id"]) for value in values]


@pytest.mark.parametrize("outcome", _numbered(data()["istio_1_8_3"]["outcomes"]))
def test_a_class_of_istio_1_8_3s_traffic_ends_as_the_kernel_ended_it(outcome: dict) -> None:
    observed = outcome["observed"]
    if observed["error"] == "EINVAL":
        assert outcome["packet"]["src"] == "127.0.0.6"
        return  # connect() found no route: there was no packet
    experiment = {
        "id": "",
        "title": outcome["label"],
        "sent_from": outcome["sent_from"],
        "packet": outcome["packet"],
        "observed": {"server": {"local": None, "listener": 0}},
    }
    (case,) = cases_of(experiment)
    ruleset = parse_iptables_save(data()["istio_1_8_3"]["ruleset"])
    traced = trace(ruleset, case.packet, host=HOST)
    place = "pod" if HOST.is_local(traced.destination.address) else "peer"
    assert f"{place}:{traced.destination.port}" == observed["captured_by"]
    if observed.get("accepted_local") and place == "pod":
        # Of a datagram only the address was recorded.
        assert str(traced.destination).startswith(observed["accepted_local"])
    hit = [step.rule.text for step in traced.steps if step.rule is not None and step.matched]
    if case.packet.family == 4:
        assert sorted(hit) == sorted(observed["rules_hit"])


@pytest.mark.parametrize("entry", _numbered(data()["differential_corpus"]))
def test_a_ruleset_of_the_corpus_does_to_packets_what_the_kernel_did(entry: dict) -> None:
    ruleset = parse_iptables_save(entry["ruleset"])
    for told in entry["packets"]:
        packet = Packet(
            hook=told["hook"],
            protocol="tcp",
            source=told["src"],
            destination=told["dst"],
            source_port=told["sport"],
            destination_port=told["dport"],
            mark=told["mark"],
            uid=told.get("uid"),
            gid=told.get("gid"),
            in_interface=told.get("iif"),
        )
        traced = trace(ruleset, packet, host=CORPUS_HOST)
        assert (str(traced.destination), traced.mark) == (told["to"], told["mark_after"]), (
            told,
            traced.steps,
        )


@pytest.mark.parametrize("sport", [40000, 40001])
@pytest.mark.parametrize("dport", [80, 81])
def test_two_inverted_ports_are_unknown_where_iptables_nft_may_have_stored_them_wrong(
    sport: int, dport: int
) -> None:
    bug = data()["inverted_port_bug"]
    place = [(p["sport"], p["dport"]) for p in bug["packets"]].index((sport, dport))
    readings = {bug["documented"][place], bug["observed"]["nft 1.8.9"][place]}
    for writer in ("1.8.8", "1.8.9", "1.8.10"):
        banner = f"# Generated by iptables-nft-save v{writer} (nf_tables) on Mon Nov 23 12:00:00 2026\n"
        traced = trace(
            parse_iptables_save(banner + bug["ruleset"]), _out(OTHER, dport, source_port=sport), host=HOST
        )
        if len(readings) == 2:
            assert traced.fate is Fate.UNKNOWN
            assert "1.8.8 to 1.8.10" in traced.reasons[0]
        else:
            assert traced.fate is (Fate.REDIRECTED if readings == {"REDIRECT"} else Fate.UNCHANGED)


@pytest.mark.parametrize(
    "banner",
    [
        "",
        "# Generated by iptables-nft-save v1.8.11 (nf_tables) on Mon Nov 23 12:00:00 2026\n",
        "# Generated by iptables-save v1.8.9 on Mon Nov 23 12:00:00 2026\n",
    ],
)
def test_two_inverted_ports_mean_what_they_say_to_every_other_writer(banner: str) -> None:
    bug = data()["inverted_port_bug"]
    ruleset = parse_iptables_save(banner + bug["ruleset"])
    fates = [
        trace(ruleset, _out(OTHER, p["dport"], source_port=p["sport"]), host=HOST).fate
        for p in bug["packets"]
    ]
    assert [fate is Fate.REDIRECTED for fate in fates] == [said == "REDIRECT" for said in bug["documented"]]


def _counting(text: str) -> Ruleset:
    """The ruleset with a rule at the end of every built-in chain that counts and lets go on."""
    lines = []
    for line in text.splitlines():
        lines.append(line)
        if line == "COMMIT":
            table = lines[max(i for i, known in enumerate(lines) if known.startswith("*")) :]
            lines[-1:] = [
                *(f"-A {chain[1:].split()[0]}" for chain in table if chain.startswith(":")),
                "COMMIT",
            ]
    return parse_iptables_save("\n".join(lines) + "\n")


J_PACKETS = {
    "local -> peer, no NAT": _out(OTHER, 8080),
    "local uid 1000 -> peer:80, OUTPUT REDIRECT 15001": _out(OTHER, 80),
    "local -> own IP via lo, no NAT": _out(POD, 8080),
    "peer -> pod:81, PREROUTING REDIRECT 15006": _in(POD, 81),
    "peer -> pod:80, no NAT": _in(POD, 80),
}


@pytest.mark.parametrize("experiment", [p for p in everything() if p.values[0]["id"] == "J"])
def test_tables_are_asked_in_the_order_of_the_kernels_own_trace(experiment: dict) -> None:
    packet = J_PACKETS[experiment["title"]]
    said = [entry.partition("[")[0] for entry in experiment["observed"]["trace_first_packet"] if "[" in entry]
    comes_back = experiment["title"].startswith("local") and "-> peer, no NAT" not in experiment["title"]
    if comes_back:
        said += [entry.partition("[")[0] for entry in experiment["observed"]["trace_second"] if "[" in entry]
    steps = trace(_counting(experiment["ruleset"]), packet, host=HOST).steps
    assert list(dict.fromkeys(f"{step.table}:{step.chain}" for step in steps)) == list(dict.fromkeys(said))


def test_the_whole_of_the_data_is_here() -> None:
    assert len(data()["experiments"]) == 123
    assert len(data()["istio_1_8_3"]["outcomes"]) == 80
    assert sum(len(entry["packets"]) for entry in data()["differential_corpus"]) == 953
    assert isinstance(parse_iptables_save(data()["istio_1_8_3"]["ruleset"]).nat, Table)
