"""Rules in a pod's namespace that are not Istio's: whose they are, and whether they matter.

Knows how other tools name their chains, and what a second istio-init run leaves. Does not know
what Istio's own rules are: they come aligned. Invariant: whether a rule matters is told by what
becomes of packets without it, never by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_istio_sidecar.checks.comparison.alignment import AlignedChain, Change
from pytest_istio_sidecar.checks.comparison.effects import effects_of
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.istio.tables import PREFIX
from pytest_istio_sidecar.netfilter.matches import Protocol
from pytest_istio_sidecar.netfilter.model import (
    TABLES,
    Backend,
    Family,
    PodRules,
    Rule,
    Rules,
    Ruleset,
    rulesets_of,
)
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.netfilter.targets import Goto, Jump

_TOOLS = {
    "KUBE-": "kube-proxy or the kubelet",
    "CILIUM_": "Cilium",
    "cali-": "Calico",
    "ANTREA-": "Antrea",
    "WEAVE": "Weave Net",
    "FLANNEL-": "flannel",
    "CNI-": "a CNI plugin (portmap, bridge, firewall)",
    "DOCKER": "Docker",
    "PROXY_INIT_": "Linkerd (linkerd-init)",
    "KUMA_": "Kuma",
    "MESH_": "Kuma",
    "CONSUL_": "Consul service mesh",
    "OSM_": "Open Service Mesh",
    "TEL_": "Telepresence",
    "ISTIO_PRERT": "Istio's ambient mode",
    "MIRRORD_": "mirrord",
    "KUBEVIRT_": "KubeVirt",
    "LIBVIRT_": "libvirt",
    "ufw": "ufw",
    "f2b-": "fail2ban",
}
"""How tools' chains begin."""

_Place = tuple[Backend | None, str, str, int]
"""Back end, table, chain and number of a rule."""

_PROBE = 255
"""Protocol of the rule with which istio-iptables tries a back end out, and which it removes again
(1.25.4; left over in istio/istio#56587)."""

_MATTERS = {
    True: "packets are affected",
    False: "no packet is affected",
    None: "whether packets are affected cannot be told",
}

REPEATED = "Istio's that stand there already, as after istio-init ran again"
LEFTOVER = "chains of Istio's that this release and these options do not make"
PROBE = "istio-iptables' trial of the back end, left over"
UNKNOWN = "nobody who is known here"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignRules:
    """Rules of one owner.

    Attributes:
        owner: whose they are, or what they are.
        places: table and chain of them, each once; of IPv6, with that in front.
        count: how many.
        matters: whether some packet would have another fate without them; None: it cannot be told.
    """

    owner: str
    places: tuple[str, ...]
    count: int
    matters: bool | None

    @property
    def text(self) -> str:
        where = ", ".join(self.places)
        what = f"{self.count} rule{'s' if self.count != 1 else ''} of {self.owner} ({where})"
        return f"{what}: {_MATTERS[self.matters]}"


def foreign_rules(
    observed: Rules, chains: Sequence[AlignedChain], *, family: Family, host: Host
) -> tuple[ForeignRules, ...]:
    """The rules that are on the observed side only, by owner."""
    expected = {
        (chain.table, line.expected) for chain in chains for line in chain.lines if line.expected is not None
    }
    owned: dict[str, list[tuple[AlignedChain, Rule]]] = {}
    for chain in chains:
        for line in chain.lines:
            if line.change is not Change.EXTRA or line.observed is None:
                continue
            owner = _owner(chain, line.observed, expected)
            if owner:
                owned.setdefault(owner, []).append((chain, line.observed))
    return tuple(
        ForeignRules(
            owner=owner,
            places=tuple(dict.fromkeys(chain.place for chain, _ in rules)),
            count=len(rules),
            matters=_matters(
                observed,
                {(chain.backend, chain.table, chain.name, rule.number) for chain, rule in rules},
                family,
                host,
            ),
        )
        for owner, rules in owned.items()
    )


def _owner(chain: AlignedChain, rule: Rule, expected: set[tuple[str, Rule]]) -> str:
    """Whose an additional rule is; "" for one in or to a chain of Istio's, which a hand may have put."""
    if any(isinstance(match, Protocol) and match.number == _PROBE for match in rule.matches):
        return PROBE
    if (chain.table, rule) in expected:
        return REPEATED
    own = chain.name if chain.name not in TABLES.get(chain.table, ()) else ""
    target = rule.target.chain if isinstance(rule.target, Jump | Goto) else ""
    for name in filter(None, (own, target)):
        for prefix, tool in _TOOLS.items():
            if name.startswith(prefix):
                return tool
        if not name.startswith(PREFIX):
            return UNKNOWN
        if not any(table == chain.table and expected_rule.chain == name for table, expected_rule in expected):
            return LEFTOVER
    return "" if own or target else UNKNOWN


def _matters(observed: Rules, left_out: set[_Place], family: Family, host: Host) -> bool | None:
    without = PodRules(
        rulesets=tuple(_without(ruleset, left_out) for ruleset in rulesets_of(observed, family)),
        order_known=isinstance(observed, PodRules) and observed.order_known,
    )
    try:
        return bool(effects_of(observed, without, family=family, host=host))
    except Undecided:
        return None


def _without(ruleset: Ruleset, left_out: set[_Place]) -> Ruleset:
    return ruleset.map_rules(
        lambda table, rule: None if (ruleset.backend, table, rule.chain, rule.number) in left_out else rule
    )
