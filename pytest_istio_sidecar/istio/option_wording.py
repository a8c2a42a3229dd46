"""How options are asked for in a pod: the words of annotations and variables.

Knows which annotation or variable stands for which option. Does not know how they are read
(`pod_options`), nor what they do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from pytest_istio_sidecar.istio.options import ALL, IstioOptions, split

_WORDS = {
    "inbound_interception_mode": "interceptionMode",
    "inbound_ports_include": "includeInboundPorts",
    "inbound_ports_exclude": "excludeInboundPorts",
    "outbound_ip_ranges_include": "includeOutboundIPRanges",
    "outbound_ip_ranges_exclude": "excludeOutboundIPRanges",
    "outbound_ports_include": "includeOutboundPorts",
    "outbound_ports_exclude": "excludeOutboundPorts",
    "kube_virt_interfaces": "kubevirtInterfaces",
    "exclude_interfaces": "excludeInterfaces",
    "redirect_dns": "ISTIO_META_DNS_CAPTURE",
    "dns_by_envoy": "ISTIO_META_DNS_CAPTURE without DNS_AGENT",
    "drop_invalid": "INVALID_DROP",
    "owner_groups_include": "ISTIO_OUTBOUND_OWNER_GROUPS",
    "owner_groups_exclude": "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE",
    "host_ipv4_loopback_cidr": "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR",
}
"""Annotations without `sidecar.istio.io/` and `traffic.sidecar.istio.io/`, and variables of istio-init."""
_NEVER_TOLD = {"mode", "enable_ipv6"}


def as_a_pod_asks(before: IstioOptions, after: IstioOptions) -> tuple[str, ...]:
    """Every option that differs, in a pod's words: "excludeInboundPorts: 8443"."""
    return tuple(_told(before, after))


def _told(before: IstioOptions, after: IstioOptions) -> Iterator[str]:
    for held in fields(IstioOptions):
        old, new = getattr(before, held.name), getattr(after, held.name)
        if old == new or held.name in _NEVER_TOLD:
            continue
        if held.name == "capture_all_dns" and not after.redirect_dns:
            continue
        word = _WORDS.get(held.name, held.name)
        if isinstance(new, bool):
            yield f"{word}: {str(new).lower()}"
            continue
        added = [member for member in split(new or "") if member not in split(old or "")]
        gone = [member for member in split(old or "") if member not in split(new or "")]
        if old != ALL and added and not gone:
            yield f"{word}: {','.join(added)}"
        elif new and gone and not added:
            yield f"{word} without {','.join(gone)}"
        else:
            yield f"{word}: {new or chr(34) * 2}"
