"""A packet through Istio 1.8.3's table, beside parsing that table: four classes of packets, of many ports."""

from __future__ import annotations

from collections.abc import Iterator

from measure import Row, paired

from pytest_istio_sidecar import expected_ruleset, inbound, outbound, parse_iptables_save, render_save
from pytest_istio_sidecar import trace as trace_packet

OF_A_PARSE = 0.2
PORTS = range(1, 1001)


def rows() -> Iterator[Row]:
    text = render_save(expected_ruleset("1.8.3"))
    ruleset = parse_iptables_save(text)
    packets = {
        "inbound": [inbound(port) for port in PORTS],
        "outbound of uid 1000": [outbound("192.0.2.20", port) for port in PORTS],
        "outbound of uid 1337": [outbound("192.0.2.20", port, uid=1337, gid=1337) for port in PORTS],
        "to itself of uid 1337": [outbound("192.0.2.10", port, uid=1337, gid=1337) for port in PORTS],
    }
    for name, of_class in packets.items():
        pair = paired(
            lambda sent=of_class: [trace_packet(ruleset, packet) for packet in sent],
            lambda: [parse_iptables_save(text) for _ in PORTS],
        )
        yield Row(
            work=f"trace a packet through Istio 1.8.3's table, {name}",
            measured=f"{pair.ours / len(PORTS) * 1e6:.0f} µs",
            against=f"parsing the table: {pair.theirs / len(PORTS) * 1e6:.0f} µs",
            ratio=pair.times_theirs,
            target=f"≤ {OF_A_PARSE} × the time",
            holds=pair.times_theirs <= OF_A_PARSE,
        )


if __name__ == "__main__":
    for row in rows():
        print(f"{row.work}: {row.measured}; {row.against}; ratio {row.ratio:.3f} (target {row.target})")
