"""Which packets the rules send to which port of the pod, in lines for the summary.

Knows whose packets people ask for: a neighbour's, the application's, the proxy's to its own pod. Does not
know what should become of them. Invariant: a line is true of every packet that it names, over all ports.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass

from pytest_istio_sidecar.checks.tracing import CAPTURED, addressed_families
from pytest_istio_sidecar.checks.wording import DIRECTIONS, told_in_few
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.ports import PROXY_ID
from pytest_istio_sidecar.netfilter.matches import PROTOCOLS
from pytest_istio_sidecar.netfilter.model import Family, PodRules
from pytest_istio_sidecar.netfilter.packet import Hook, Host, IPAddress
from pytest_istio_sidecar.netfilter.space.queries import (
    Fates,
    FieldName,
    Outcome,
    Partition,
    Product,
    fates,
)

_APPLICATION_ID = 1000
"""A user and group that Istio's rules do not name: any of the application's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sender:
    """Packets of somebody.

    Attributes:
        whose: what is said behind the packets.
        product: the fields that all of them share.
    """

    hook: Hook
    whose: str
    product: Product


def redirected(rules: PodRules, host: Host, options: IstioOptions) -> list[str]:
    """Lines "inbound tcp not 22 -> :15006", a neighbour's packets first.

    Raises:
        UsageProblem: chains jump in a circle.
    """
    lines = []
    for family, own in addressed_families(rules, host):
        asked: dict[Hook, tuple[Fates, frozenset[int]]] = {}
        for sender in _senders(own, host, options):
            if sender.hook not in asked:
                (outcomes,) = fates([rules], sender.hook, host=host, family=family)
                asked[sender.hook] = outcomes, _ports(outcomes)
            outcomes, ports = asked[sender.hook]
            lines += [
                f"{packets}{sender.whose} -> :{port}"
                for port in sorted(ports)
                for packets in _packets(outcomes, port, sender, family)
            ]
    return lines


def _senders(own: IPAddress, host: Host, options: IstioOptions) -> Iterator[_Sender]:
    tcp = PROTOCOLS["tcp"]
    yield _Sender(hook="PREROUTING", whose="", product={"protocol": ((tcp, tcp),)})
    ids: dict[FieldName, int] = {"uid": _APPLICATION_ID, "gid": _APPLICATION_ID}
    away: Product = {
        "interface": (host.external(),),
        **_only({"protocol": tcp, "source": int(own), "mark": 0, **ids}),
    }
    yield _Sender(hook="OUTPUT", whose=" of the application", product=away)
    ids = {"uid": _first(options.proxy_uid), "gid": _first(options.proxy_gid)}
    to_itself = _only({"protocol": tcp, "source": int(own), "destination": int(own), "mark": 0, **ids})
    yield _Sender(hook="OUTPUT", whose=" of the proxy to its own pod", product=to_itself)


def _only(values: Mapping[FieldName, int]) -> Product:
    """Values as they are in a product, where ids count from 1."""
    shifted = {name: value + (name in ("uid", "gid")) for name, value in values.items()}
    return {name: ((value, value),) for name, value in shifted.items()}


def _first(listed: str) -> int:
    first = listed.partition(",")[0]
    return int(first) if first.isdecimal() else PROXY_ID


def _ports(outcomes: Fates) -> frozenset[int]:
    """The ports that rules name for what they capture."""
    ports: set[int] = set()

    def gather(answers: Collection[Hashable]) -> None:
        captured = (answer for answer in answers if isinstance(answer, Outcome) and answer.fate in CAPTURED)
        ports.update(answer.port for answer in captured if isinstance(answer.port, int))

    outcomes.judged(gather)
    return frozenset(ports)


def _packets(outcomes: Fates, port: int, sender: _Sender, family: Family) -> Iterator[str]:
    """The sender's packets that come to a port of this host, in words; none where none do."""
    labelled = outcomes.labelled(lambda outcome, there: [there and outcome.fate in CAPTURED], ports=[port])
    partition: Partition = labelled.judged(lambda answers: answers == {True}).partition()
    parts = partition.only(sender.product).few_parts().get(True, [])
    if parts:
        yield told_in_few(DIRECTIONS[sender.hook], family, parts, protocol=PROTOCOLS["tcp"])
