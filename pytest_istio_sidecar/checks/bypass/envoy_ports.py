"""Which of Envoy's ports packets have to come to, by their direction.

Knows that Envoy takes each direction on a port of its own, and where Istio hands one direction to the port of
the other. Does not know how packets come there (`space`). Invariant: a packet at the port of the other
direction is not captured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pytest_istio_sidecar.istio import ports, rules
from pytest_istio_sidecar.istio.option_kinds import split
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.netfilter.matches import PROTOCOLS
from pytest_istio_sidecar.netfilter.packet import Fate, Hook, Host
from pytest_istio_sidecar.netfilter.space.queries import Outcome, Product


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyPorts:
    """Where Envoy, or the proxy of DNS, takes packets.

    Attributes:
        inbound: what comes from elsewhere, and what the pod sends to itself.
        handed_over: the same, where TPROXY hands it over; before Istio 1.9 that is the port of what leaves.
        outbound: what leaves.
        dns: by protocol, the port of the proxy of DNS, which answers questions of DNS alone.
        machines: interfaces of virtual machines, as rules name them: what comes by them leaves.
    """

    inbound: frozenset[int]
    handed_over: frozenset[int]
    outbound: frozenset[int]
    dns: Mapping[str, int] = field(default_factory=dict)
    machines: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Collection[int]) -> EnvoyPorts:
        """Ports that somebody named: in order, that of what leaves, that of what comes, others for either.

        A set has no order: each of its ports is for either.
        """
        listed = list(given)
        either = listed if not isinstance(given, Sequence) or len(listed) < 2 else listed[2:]
        outbound, inbound = {*listed[:1], *either}, {*listed[1:2], *either}
        return cls(
            inbound=frozenset(inbound),
            handed_over=frozenset(inbound | outbound),
            outbound=frozenset(outbound),
        )

    @classmethod
    def of_release(cls, version: str, options: IstioOptions) -> EnvoyPorts:
        """Those of a release that was told these options."""
        redirected, handed_over = rules.inbound_ports(version, options)
        return cls(
            inbound=frozenset({redirected}),
            handed_over=frozenset({handed_over}),
            outbound=frozenset({int(options.proxy_port)}),
            dns=rules.dns_ports(version, options),
            machines=split(options.kube_virt_interfaces),
        )

    def at(self, hook: Hook) -> frozenset[int]:
        """The ports for what enters at a hook and has no other by `exceptions`."""
        return self.inbound if hook == "PREROUTING" else self.outbound

    def exceptions(self, hook: Hook, host: Host) -> Iterator[tuple[Product, frozenset[int]]]:
        """Packets that other ports are for, the later counting more.

        Either port is for what comes of a virtual machine, and for what the pod sends to itself; the proxy of
        DNS has its own.

        The interface by which the pod is reached is none of a virtual machine's, whatever an option says:
        what comes by it is for the pod.
        """
        names = ["lo"] if hook == "OUTPUT" else self._of_machines(host)
        if names:
            yield {"interface": tuple(names)}, self.inbound | self.outbound
        for protocol, proxy in self.dns.items() if hook == "OUTPUT" else ():
            number = PROTOCOLS[protocol]
            questions: Product = {
                "protocol": ((number, number),),
                "destination_port": ((ports.DOMAIN, ports.DOMAIN),),
            }
            yield questions, self.outbound | {proxy}
            yield {**questions, "interface": tuple(names)}, self.inbound | self.outbound | {proxy}

    def takes(self, outcome: Outcome, hook: Hook) -> bool:
        """Whether TPROXY hands packets over to the port that is for it."""
        return hook == "PREROUTING" and outcome.fate is Fate.TPROXIED and outcome.port in self.handed_over

    def _of_machines(self, host: Host) -> list[str]:
        others = [name for name in host.interfaces if name not in ("lo", host.external())]
        patterns = [f"{name[:-1]}*" if name.endswith("+") else name for name in self.machines]
        return [name for name in others if any(fnmatchcase(name, pattern) for pattern in patterns)]
