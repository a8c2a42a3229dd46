"""`istio-sidecar trace`: what becomes of packets in listings.

Knows how packets and hosts are written on the command line. Does not know how a trace is
made or worded. Invariant: with `--packets` one line of JSON a packet, in their order.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import re
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pytest_istio_sidecar.cli import messages
from pytest_istio_sidecar.cli.command import (
    Commands,
    Status,
    add_interface_argument,
    add_option_argument,
    add_rules_argument,
    columns_of,
    given,
    host_of,
    print_assumptions,
    print_notes,
    release_of,
    with_notes,
)
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.failure import fitted, wrapped

if TYPE_CHECKING:
    from pytest_istio_sidecar.istio.options import IstioOptions
    from pytest_istio_sidecar.netfilter.diagram.intervals import Interval
    from pytest_istio_sidecar.netfilter.model import PodRules, Rules
    from pytest_istio_sidecar.netfilter.packet import Host, IPAddress, Packet
    from pytest_istio_sidecar.netfilter.trace.trace import Trace


_NOBODY = "none"
"""No socket: the kernel itself sends the packet."""
_TARGET = re.compile(r"(?:\[([^]]*)\]|([^:]*))(?::(.*))?")
"""An address, one of IPv6 in brackets, and a port."""
_STATED_ENDS: Mapping[str, Collection[str]] = {"PREROUTING": ("source",), "OUTPUT": ("destination",)}
"""The ends of a packet that are not the pod: whichever pod it is, they stay elsewhere."""
_MANY = "one packet is traced; for many ask istio-sidecar bypasses"


def add(commands: Commands) -> None:
    """Register the command."""
    trace = commands.add_parser(
        "trace",
        help="follow a packet through listings",
        usage="%(prog)s [options] RULES [RULES ...]\n       with one of --inbound, --outbound and --packets",
        description="Follow the first packet of a connection through iptables listings, as the kernel would.",
    )
    trace.set_defaults(command=run)
    add_rules_argument(trace)
    packets = trace.add_argument_group("the packet")
    packet = packets.add_mutually_exclusive_group(required=True)
    packet.add_argument(
        "--inbound",
        metavar="[PROTOCOL/]PORT",
        help="from a neighbour to the pod: 80, https, udp/53; a protocol alone: icmp, proto/47",
    )
    packet.add_argument(
        "--outbound",
        metavar="[PROTOCOL/]ADDRESS:PORT",
        help="from the pod: 10.1.2.3:443, udp/[2001:db8::1]:53; without a port: icmp/10.1.2.3",
    )
    packet.add_argument(
        "--packets", metavar="FILE", help="one JSON object a line with Packet's fields; - is stdin"
    )
    packets.add_argument(
        "--source", metavar="ADDRESS", help="who sends it (default: a neighbour, or the pod)"
    )
    packets.add_argument(
        "--uid", type=_identity, help="user of the sending process (default 1000); none: no process sends it"
    )
    packets.add_argument("--gid", type=_identity, help="group of the sending process (default: as --uid)")
    packets.add_argument(
        "--family",
        type=int,
        choices=(4, 6),
        help="of an inbound packet (default 4; 6 where all RULES are ip6:)",
    )
    add_interface_argument(trace)
    trace.add_argument(
        "--istio-version", metavar="VERSION", help="complete what a listing hides from this release's rules"
    )
    add_option_argument(trace)
    trace.add_argument("--explain", action="store_true", help="tell the way in words as well")
    trace.add_argument("--svg", type=Path, metavar="FILE", help="draw the way into a file as well")
    trace.add_argument("--json", action="store_true", help="one JSON document on standard output")


def run(options: argparse.Namespace) -> Status:
    from pytest_istio_sidecar.netfilter.packet import Fate
    from pytest_istio_sidecar.netfilter.trace.trace import trace
    from pytest_istio_sidecar.reports.colour import painter
    from pytest_istio_sidecar.reports.message import render_trace
    from pytest_istio_sidecar.reports.sentences import explain

    _refuse_what_differs(options)
    read = given(options)
    version, asked = release_of(options, read)
    rules, expected = _completed(read.rules, version, asked)
    host = host_of(options.interface)
    options.family = options.family or (4 if rules.of_family(4) else 6)
    undecided = False
    notes: dict[str, None] = {}
    for packet in _packets(options, host):
        if not options.packets:
            _require_family(rules, packet)
        traced, remarks = _with_what_nobody_stated(trace(rules, packet, host=host), options, expected)
        undecided |= traced.fate is Fate.UNKNOWN
        if options.svg:
            _draw(traced, options.svg)
        if options.packets or options.json:
            print(json.dumps(_as_json(traced)))
            notes |= dict.fromkeys((*rules.notes, *traced.notes, *remarks))
            continue
        columns = columns_of(sys.stdout)
        text = render_trace(traced, painter(sys.stdout), remarks=remarks, width=columns)
        first, newline, rest = with_notes(text, rules).partition("\n")
        print("\n".join([first] if columns is None else fitted(first, columns)) + newline + rest)
        if options.explain or traced.fate is not Fate.UNKNOWN:
            sentences = explain(traced)
            print("", *map(_wrapped, sentences if options.explain else sentences[-1:]), sep="\n")
    print_notes(notes)
    print_assumptions(rules)
    return Status.UNDECIDED if undecided else Status.HOLDS


def _wrapped(sentence: str) -> str:
    indent = " " * (len(sentence) - len(sentence.lstrip()))
    return "\n".join(wrapped(sentence, shutil.get_terminal_size().columns, indent=f"{indent}  "))


def _refuse_what_differs(options: argparse.Namespace) -> None:
    if options.packets == "-" and "-" in [spec.rpartition(":")[2] for spec in options.rules]:
        raise UsageProblem(messages.INPUT_FOR_TWO())
    if options.packets and (options.svg or options.source):
        raise UsageProblem(messages.ONE_PACKET())


def _completed(rules: PodRules, version: str | None, asked: IstioOptions) -> tuple[PodRules, Rules | None]:
    """What lossy listings hide, taken from the rules of a release with options, where one is given; these."""
    from pytest_istio_sidecar.checks.comparison.expectation import completed, expected_of

    if version is None:
        return rules, None
    expected = expected_of(rules, version, asked)
    return cast("PodRules", completed(rules, expected)), expected


def _with_what_nobody_stated(
    traced: Trace, options: argparse.Namespace, expected: Rules | None
) -> tuple[Trace, list[str]]:
    """The answer as far as it holds for any pod and neighbour that rules single out, and remarks."""
    from pytest_istio_sidecar.checks.other_hosts import by_other_hosts, by_other_senders
    from pytest_istio_sidecar.netfilter.packet import Fate
    from pytest_istio_sidecar.reports.unstated import of_senders, with_pods

    if traced.fate is Fate.UNKNOWN:
        return traced, []

    def asked(host: Host) -> Packet | None:
        packet = traced.packet if options.packets else next(_packets(options, host))
        ends = {"source", "destination"} if options.packets else _STATED_ENDS[packet.hook]
        same = all(host.is_local(end := getattr(packet, name)) is traced.host.is_local(end) for name in ends)
        return packet if same else None

    senders = (
        of_senders(by_other_senders(traced, lambda each: replace(traced.packet, source=each), expected))
        if options.inbound is not None and options.source is None
        else []
    )
    if options.interface:
        return traced, senders
    pods, all_tried = by_other_hosts(traced, asked, expected)
    answer, remarks = with_pods(traced, pods, all_tried=all_tried)
    return answer, [*remarks, *senders]


def _draw(trace: Trace, path: Path) -> None:
    from pytest_istio_sidecar.reports.formats.svg import render_way_svg
    from pytest_istio_sidecar.reports.summary import let_by
    from pytest_istio_sidecar.reports.way import way_of

    picture = render_way_svg(way_of(trace), beside=let_by(trace.rules, trace.host))
    try:
        path.write_text(f"{picture}\n", encoding="utf-8")
    except OSError as problem:
        raise UsageProblem(messages.NOT_DRAWN(path=path, problem=problem.strerror)) from None


def _require_family(rules: PodRules, packet: Packet) -> None:
    if not rules.of_family(packet.family):
        raise UsageProblem(
            messages.NO_LISTING_OF_FAMILY(
                family=packet.family, form="ip6:FILE" if packet.family == 6 else "FILE without ip6: in front"
            )
        )


def _packets(options: argparse.Namespace, host: Host) -> Iterator[Packet]:
    if options.packets is not None:
        yield from _packets_from(options.packets)
    elif options.inbound is not None:
        yield _inbound(options, host)
    else:
        yield _outbound(options, host)


def _inbound(options: argparse.Namespace, host: Host) -> Packet:
    from pytest_istio_sidecar.netfilter.packet import inbound

    if options.uid is not None or options.gid is not None:
        raise UsageProblem(messages.NO_SOCKET_OF_OTHERS())
    protocol, port = _protocol_and_port(options.inbound)
    interface = host.external()
    own = host.primary(interface, options.family)
    if own is None:
        raise UsageProblem(messages.INTERFACE_WITHOUT_ADDRESS(interface=interface, family=options.family))
    return inbound(
        port,  # type: ignore[arg-type]
        protocol=protocol,
        family=options.family,
        destination=own,
        in_interface=interface,
        **_source(options),
    )


def _source(options: argparse.Namespace) -> dict[str, object]:
    return {} if options.source is None else {"source": options.source}


def _outbound(options: argparse.Namespace, host: Host) -> Packet:
    from pytest_istio_sidecar.netfilter.packet import outbound

    protocol, destination, port = _destination(options.outbound)
    uid = 1000 if options.uid is None else options.uid
    gid = uid if options.gid is None else options.gid
    if _NOBODY in (uid, gid):
        uid = gid = None
    source = options.source or (
        destination if destination.is_loopback else host.primary(host.external(), destination.version)
    )
    if source is None:
        raise UsageProblem(messages.POD_WITHOUT_ADDRESS(family=destination.version))
    return outbound(
        destination,
        port,  # type: ignore[arg-type]
        uid=uid,
        gid=gid,
        protocol=protocol,
        source=source,
    )


def _identity(text: str) -> int | str:
    if text != _NOBODY and not text.isdecimal():
        raise argparse.ArgumentTypeError(str(messages.NO_IDENTITY(text=text, nobody=_NOBODY)))
    return text if text == _NOBODY else int(text)


def _protocol_and_port(text: str) -> tuple[int, int | None]:
    """What `--inbound` names; the port is None where a protocol stands alone."""
    from pytest_istio_sidecar.netfilter.text.parse_port import parse_flow

    try:
        protocols, ports = parse_flow(_single(text))
        return _one(protocols), None if ports is None else _one(ports)
    except ValueError as problem:
        raise UsageProblem(messages.NO_INBOUND(text=text, problem=problem)) from None


def _destination(text: str) -> tuple[int, IPAddress, int | None]:
    """What `--outbound` names; the port is None where the protocol has none."""
    from pytest_istio_sidecar.netfilter.text.parse_port import parse_ports, parse_protocols, split_protocol
    from pytest_istio_sidecar.netfilter.trace.nat import WITH_PORTS

    try:
        named, target = split_protocol(_single(text))
        protocol = _one(parse_protocols(named or "tcp"))
        address, port = _address_and_port(target or "", port_needed=protocol in WITH_PORTS)
        return protocol, address, None if port is None else _one(parse_ports(port))
    except ValueError as problem:
        raise UsageProblem(messages.NO_OUTBOUND(text=text, problem=problem)) from None


def _address_and_port(target: str, *, port_needed: bool) -> tuple[IPAddress, str | None]:
    match = _TARGET.fullmatch(target)
    if match is None or (match[1] is None and ":" in (match[3] or "")):
        raise ValueError("an IPv6 address stands in brackets")
    address = ipaddress.ip_address(match[2] if match[1] is None else match[1])
    if port_needed and match[3] is None:
        raise ValueError("the port is missing")
    return address, match[3]


def _single(text: str) -> str:
    if "," in text:
        raise ValueError(_MANY)
    return text


def _one(values: Interval) -> int:
    if values[0] != values[1]:
        raise ValueError(_MANY)
    return values[0]


def _packets_from(name: str) -> Iterator[Packet]:
    if not name:
        raise UsageProblem(messages.PACKETS_NOT_NAMED())
    number = 0
    try:
        with nullcontext(sys.stdin) if name == "-" else Path(name).open(encoding="utf-8") as lines:
            for place, line in enumerate(lines, 1):
                if line.strip():
                    number = place
                    yield _packet(line)
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise UsageProblem(messages.PACKETS_NOT_READ(name=name, problem=reason)) from None
    except UsageProblem as problem:
        raise UsageProblem(messages.NO_PACKET(name=name, number=number, problem=problem)) from None
    if not number:
        raise UsageProblem(messages.NO_PACKETS(name=name))


def _packet(line: str) -> Packet:
    from pytest_istio_sidecar.netfilter.packet import Packet

    try:
        given = json.loads(line)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise UsageProblem(messages.NOT_AN_OBJECT())
    known = {field.name: field.default is MISSING for field in fields(Packet)}
    unknown = [name for name in given if name not in known]
    lacking = [name for name, required in known.items() if required and name not in given]
    if unknown or lacking:
        raise UsageProblem(
            messages.NOT_ITS_FIELDS(
                problem=f"there is no {', '.join(unknown)}"
                if unknown
                else f"{', '.join(lacking)} is missing",
                known=", ".join(known),
            )
        )
    return Packet(**given)


def _as_json(trace: Trace) -> dict[str, object]:
    return {
        "fate": str(trace.fate),
        "destination": str(trace.destination),
        "mark": trace.mark,
        "deciding_rule": trace.deciding_rule.text if trace.deciding_rule else None,
        "steps": [
            {
                "table": step.table,
                "chain": step.chain,
                "rule": step.rule.text if step.rule else None,
                "outcome": step.outcome,
            }
            for step in trace.steps
        ],
        "reasons": list(trace.reasons),
    }
