"""The ports an Istio sidecar uses, and what for.

Source: istio.io "Application Requirements", section "Ports used by Istio".
"""

from __future__ import annotations

OUTBOUND = 15001
"""Envoy's listener for captured outbound connections (virtualOutbound)."""
INBOUND = 15006
"""Envoy's listener for captured inbound connections (virtualInbound)."""
TUNNEL = 15008
"""HBONE tunnel, reserved since 1.7."""
ADMIN = 15000
"""Envoy's admin interface, on localhost only."""
AGENT = 15020
"""The agent's merged metrics and health checks."""
READINESS = 15021
"""Envoy's readiness endpoint, since 1.6."""
TELEMETRY = 15090
"""Envoy's own Prometheus metrics."""
DOMAIN = 53
"""Where DNS questions go (RFC 1035 4.2)."""
DNS = (15013, 15053)
"""Envoy's and the agent's DNS proxies, where DNS is captured."""
SSH = 22
"""Excluded by a fixed rule up to 1.12, so that a virtual machine stays reachable."""
LEFT_BY_CNI = (AGENT, READINESS, TELEMETRY)
"""Inbound ports that istio-cni excludes, in its order (cni/pkg/plugin, NewRedirect)."""

PURPOSE = {
    OUTBOUND: "Envoy outbound listener",
    INBOUND: "Envoy inbound listener",
    TUNNEL: "HBONE tunnel",
    ADMIN: "Envoy admin",
    AGENT: "agent: merged metrics, health",
    READINESS: "Envoy readiness",
    TELEMETRY: "Envoy metrics",
    SSH: "ssh",
}
"""A few words on each port, for messages."""

PROXY_ID = 1337
"""User and group of the sidecar in every release (docker/Dockerfile.base: `useradd --uid 1337`)."""


def is_dns(asked: int | None, sent_to: int | None) -> bool:
    """Whether a packet to one port, sent to another, is a DNS question for the proxy of DNS."""
    return asked == DOMAIN and sent_to in DNS
