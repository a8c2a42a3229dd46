"""Large tables of the two shapes that pods and nodes have, and what a kernel lists of them.

Knows kube-proxy's shape (kubernetes pkg/proxy/iptables/proxier.go, syncProxyRules: a rule of
KUBE-SERVICES for each service's address and port, and a chain for each service) and Istio's, whose
size comes from lists of excluded ports and ranges. Each service's chain ends in a REDIRECT to a port
of its own, so that no two services have one fate.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from kernel_testbed import Kernel

from pytest_istio_sidecar import expected_ruleset, render_save

FIRST_SERVICE = ipaddress.IPv4Address("10.96.0.1")
FIRST_EXCLUDED = ipaddress.IPv4Address("198.18.0.0")


def kube_proxy(rules: int) -> str:
    """A nat table of kube-proxy's shape with so many rules, for iptables-restore."""
    services = [f"KUBE-SVC-{number:016X}" for number in range((rules - 2) // 2)]
    return "\n".join((
        "*nat",
        *(f":{hook} ACCEPT [0:0]" for hook in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")),
        ":KUBE-SERVICES - [0:0]",
        *(f":{name} - [0:0]" for name in services),
        *(
            f'-A {hook} -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
            for hook in ("PREROUTING", "OUTPUT")
        ),
        *(
            f"-A KUBE-SERVICES -d {FIRST_SERVICE + number}/32 -p tcp -m comment --comment "
            f'"default/service-{number}:http cluster IP" -m tcp --dport {80 + number % 10} -j {name}'
            for number, name in enumerate(services)
        ),
        *(
            f'-A {name} -p tcp -m comment --comment "default/service-{number}:http" '
            f"-j REDIRECT --to-ports {20000 + number}"
            for number, name in enumerate(services)
        ),
        "COMMIT",
        "",
    ))  # fmt: skip


def istio(rules: int) -> str:
    """Istio 1.8.3's table with so many rules, most of them exclusions, for iptables-restore."""
    count = (rules - 16) // 2
    return render_save(
        expected_ruleset(
            "1.8.3",
            inbound_ports_exclude=",".join(str(20000 + number) for number in range(count)),
            outbound_ip_ranges_exclude=",".join(f"{FIRST_EXCLUDED + number}/32" for number in range(count)),
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listings:
    """What one kernel prints of one table: `iptables-save -c`, and three forms of `-L`."""

    save: str
    plain: str
    verbose: str
    exact: str


def listed(text: str) -> Listings:
    """The table as this machine's kernel lists it, in a namespace that is gone afterwards."""
    with TemporaryDirectory() as scratch, Kernel("legacy", 4, Path(scratch)) as kernel:
        loaded = kernel.load(text)
        assert loaded.returncode == 0, loaded.stderr
        plain, verbose, exact = (kernel.listed(options) for options in ("-n", "-nv", "-nvx"))
        return Listings(save=kernel.saved(), plain=plain, verbose=verbose, exact=exact)
