"""Packets a second through Istio 1.8.3's table, on one core."""

from __future__ import annotations

import time

from pytest_istio_sidecar.istio.rules import expected_ruleset
from pytest_istio_sidecar.netfilter.packet import Packet, inbound, outbound
from pytest_istio_sidecar.netfilter.trace.trace import trace

TARGET = 20_000
ROUNDS = 5


def main() -> None:
    ruleset = expected_ruleset("1.8.3")
    everything = {
        "inbound": [inbound(port) for port in range(1, 5001)],
        "outbound, uid 1000": [outbound("192.0.2.20", port) for port in range(1, 5001)],
        "outbound, uid 1337": [outbound("192.0.2.20", port, uid=1337, gid=1337) for port in range(1, 5001)],
        "to itself, uid 1337": [outbound("192.0.2.10", port, uid=1337, gid=1337) for port in range(1, 5001)],
    }
    print(f"target: {TARGET:,} packets/s")
    for name, packets in everything.items():
        best = min(_seconds(ruleset, packets) for _ in range(ROUNDS))
        print(f"{name:<22}{len(packets) / best:>10,.0f} packets/s")


def _seconds(ruleset: object, packets: list[Packet]) -> float:
    start = time.process_time()
    for packet in packets:
        trace(ruleset, packet)  # type: ignore[arg-type]
    return time.process_time() - start


if __name__ == "__main__":
    main()
