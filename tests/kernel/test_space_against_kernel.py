"""A packet of each class of all packets, sent for real, meets its class's fate in this machine's kernel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from kernel_generator import AWAY, Generator, Rules
from kernel_testbed import HOST, TPROXY_PORTS, Kernel, key_of, why_impossible
from test_space_against_trace import told
from test_trace_against_kernel import seed_of_this_run

from pytest_istio_sidecar import expected_ruleset, parse_iptables_save, trace
from pytest_istio_sidecar.netfilter.model import Ruleset
from pytest_istio_sidecar.netfilter.namespace.routing import Routing
from pytest_istio_sidecar.netfilter.packet import Fate, Packet
from pytest_istio_sidecar.netfilter.space.cubes import Cube
from pytest_istio_sidecar.netfilter.space.space import Region, regions

_WHY = why_impossible()
pytestmark = pytest.mark.skipif(bool(_WHY), reason=_WHY)

HOOKS = ("PREROUTING", "OUTPUT")
ERAS = ("1.5.0", "1.6.14", "1.8.3", "1.16.7", "1.20.8", "1.27.3")
OPTIONS = (
    {},
    {"inbound_interception_mode": "TPROXY"},
    {"redirect_dns": True, "dns_servers_v4": "192.0.2.53", "dns_servers_v6": "2001:db8::53"},
)
RULESETS = 12
"""Random ones for each back end and family."""
CUBES = 40
"""Of one region, of which a packet is sent."""
PORTED = (6, 17)
"""What the test bed can send, and conntrack tells apart by ports."""

NETWORKS = [held.network for name in HOST.addresses for held in HOST.addresses[name]]
NO_NEIGHBOUR = [end for net in NETWORKS for end in (net.broadcast_address, net.network_address)]
"""Sockets of the test bed may not send to broadcast addresses; and the test bed forwards, as a pod does not,
so that the kernel takes the first address of an IPv6 network for its own (RFC 4291 2.6.1)."""


@pytest.fixture(params=["legacy", "nft"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def kernel(request: pytest.FixtureRequest, backend: str, tmp_path) -> Iterator[Kernel]:
    with Kernel(backend, request.param, tmp_path) as made:
        yield made


def as_rules(ruleset: Ruleset) -> Rules:
    """In the parts that the test bed loads, with what makes conntrack keep marks."""
    rules = Rules(ruleset.family)
    for table in ruleset.tables:
        for chain in table.chains:
            rules.chains[table.name, chain.name] = [
                rule.text.removeprefix(f"-A {chain.name}").strip() for rule in chain.rules
            ]
    return rules


def sendable(cube: Cube, source_port: int) -> Packet | None:
    """A packet of the cube that the test bed can send just so; None where it has none."""
    out = Routing(HOST).out
    for destination in (None, *AWAY[cube.fields.family]):
        packet = None
        for protocol in PORTED:
            wanted = {"protocol": protocol, "source_port": source_port}
            if destination is not None:
                wanted["destination"] = int(ip_address(destination))
            packet = cube.packet(wanted)
            if packet.protocol in PORTED:
                break
        assert packet is not None
        if packet.protocol not in PORTED or packet.source_port in TPROXY_PORTS or not packet.source_port:
            continue
        if packet.hook == "PREROUTING":
            return packet
        if packet.destination in NO_NEIGHBOUR:
            continue
        if packet.uid is not None and out(packet.destination) == packet.out_interface:
            return packet
    return None


def packets_of(found: tuple[Region, ...]) -> dict[Packet, Region]:
    sent: dict[Packet, Region] = {}
    taken: set[tuple[object, ...]] = set()
    for region in found:
        for cube in region.cubes[:CUBES]:
            packet = sendable(cube, 30_000 + len(sent))
            if packet is None:
                continue
            # Two that NAT would send to one port from one source would be told apart by another port.
            key = (packet.protocol, packet.source, packet.source_port)
            if key not in taken:
                taken.add(key)
                sent[packet] = region
    return sent


def certified(kernel: Kernel, rules: Rules) -> dict[Packet, Region]:
    """Packets of all classes that the kernel took as their class says, each with its class."""
    loaded = kernel.load(rules.text())
    if loaded.returncode != 0:
        return {}
    held = parse_iptables_save(kernel.saved(), family=kernel.family)
    sent: dict[Packet, Region] = {}
    for hook in HOOKS:
        sent |= packets_of(regions(held, hook, host=HOST, family=kernel.family))
    sent = {packet: region for packet, region in sent.items() if region.fate is not Fate.UNKNOWN}
    kernel.forget_connections()
    for packet in sent:
        kernel.send(packet)
    wrong: dict[Packet, str] = {}
    for seconds in (0, 0.05, 0.5):
        # The kernel may still be at it when the last send returns.
        time.sleep(seconds)
        connections = kernel.observe().connections
        wrong = {
            packet: f"{region.outcome}, in the kernel {connections.get(key_of(packet))}"
            for packet, region in sent.items()
            if not _meets(connections.get(key_of(packet)), region, packet, held)
        }
        if not wrong:
            break
    shown = "\n".join(f"{packet}: {text}" for packet, text in wrong.items())
    assert not wrong, f"{kernel.backend}: {len(wrong)} of {len(sent)} packets\n{shown}\n{rules.text()}"
    return sent


def _meets(found: tuple[str, int, int] | None, region: Region, packet: Packet, rules: Ruleset) -> bool:
    """Whether the connection that conntrack has, or has not, is one of the region's fate."""
    way = trace(rules, packet, host=HOST)
    asked = [(step.table, step.chain) for step in way.steps]
    if region.fate is Fate.DROPPED:
        # One that is dropped after the last chain of nat has a connection by then.
        return found is None or ("nat", "POSTROUTING") in asked
    if not any(table == "nat" for table, _ in asked):
        return found is None
    if found is None:
        return False
    address, port, mark = found
    if region.fate is Fate.TPROXIED:
        # conntrack does not show to which socket; the mark that comes with it is known but for `-m socket`.
        return bool(mark) if way.mark is None else mark == way.mark
    _, wanted, wanted_port = told(region.outcome, packet)
    return (address, port) == (str(wanted), wanted_port)


@pytest.mark.parametrize("options", OPTIONS, ids=["default", "TPROXY", "DNS"])
def test_a_packet_of_each_class_of_istios_table_meets_its_fate_in_the_kernel(
    kernel: Kernel, options: dict[str, object]
) -> None:
    for version in ERAS:
        ruleset = expected_ruleset(version, family=kernel.family, **options)  # type: ignore[arg-type]
        if ruleset.tables:
            sent = certified(kernel, as_rules(ruleset))
            assert Fate.UNCHANGED in {region.fate for region in sent.values()}, version


def test_a_packet_of_each_class_of_random_tables_meets_its_fate_in_the_kernel(
    kernel: Kernel, request: pytest.FixtureRequest
) -> None:
    seed = seed_of_this_run()
    request.node.user_properties.append(("seed", seed))
    generator = Generator(
        f"regions {seed} {kernel.backend} {kernel.family}", kernel.family, inverted_pairs=True
    )
    fates: set[Fate] = set()
    pairs = 0
    for _ in range(RULESETS):
        sent = certified(kernel, generator.rules())
        fates |= {region.fate for region in sent.values()}
        pairs += len(sent)
    request.node.user_properties.append(("pairs", pairs))
    assert fates >= {Fate.REDIRECTED, Fate.UNCHANGED}
