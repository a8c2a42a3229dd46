"""Rules of the TPROXY mode: inbound packets keep both addresses, and find Envoy by a mark.

Knows mangle's part of it. Does not know the routing rule that the mark asks for (`ip rule fwmark
1337 lookup 133`), which is no rule of iptables.
"""

from __future__ import annotations

from pytest_istio_sidecar.istio.release import Installation

CONNTRACK_SINCE = (1, 5, 2)
"""Packets of open connections are found by conntrack, no longer by their socket (istio/istio#22532)."""
LOCAL_SINCE = (1, 6, 0)
"""What leaves from 127.0.0.1 to elsewhere is marked, so that it is routed to lo."""
CONNMARK_SINCE = (1, 9, 0)
"""The mark is kept with the connection instead, and TPROXY goes to 15006 (istio/istio#28457)."""
OUTBOUND_MARK_SINCE = (1, 11, 0)
"""Envoy's own requests to its pod bear another mark, so that only they are captured on lo."""
_OUTBOUND_MARK = "0x53a"


def chains(told: Installation) -> None:
    """ISTIO_DIVERT, for packets of open connections, and ISTIO_TPROXY, for new ones."""
    mark = _mark(told)
    told.append("mangle", "ISTIO_DIVERT", f"-j MARK --set-xmark {mark}/0xffffffff")
    told.append("mangle", "ISTIO_DIVERT", "-j ACCEPT")
    own = told.number >= CONNMARK_SINCE
    port = told.options.inbound_capture_port if own else told.options.proxy_port
    to = "0.0.0.0" if told.family == 4 else "::"  # noqa: S104 (what TPROXY is told, not an address to bind)
    told.append(
        "mangle",
        "ISTIO_TPROXY",
        f"! -d {told.loopback} -p tcp -j TPROXY --on-port {port} --on-ip {to} "
        f"--tproxy-mark {mark}/0xffffffff",
    )


def capture(told: Installation, packets: str) -> None:
    """Divert and capture these packets in ISTIO_INBOUND."""
    if told.number >= CONNTRACK_SINCE:
        open_connections = [f"{packets} -m conntrack --ctstate RELATED,ESTABLISHED"]
    else:
        # A list of ports has the rule twice.
        open_connections = [f"{packets} -m socket"] * (1 if packets == "-p tcp" else 2)
    for matched in open_connections:
        told.append("mangle", "ISTIO_INBOUND", f"{matched} -j ISTIO_DIVERT")
    told.append("mangle", "ISTIO_INBOUND", f"{packets} -j ISTIO_TPROXY")


def marks(told: Installation) -> None:
    """What keeps a marked connection's packets together, and ends loops."""
    mark = _mark(told)
    if told.number < LOCAL_SINCE:
        return
    if told.number < CONNMARK_SINCE:
        told.append(
            "mangle",
            "OUTPUT",
            f"-s 127.0.0.1/32 ! -d 127.0.0.1/32 -p tcp -j MARK --set-xmark {mark}/0xffffffff",
        )
        return
    masks = "--nfmask 0xffffffff --ctmask 0xffffffff"
    told.append("mangle", "PREROUTING", f"-p tcp -m mark --mark {mark} -j CONNMARK --save-mark {masks}")
    if told.number >= OUTBOUND_MARK_SINCE:
        told.append("mangle", "OUTPUT", f"-o lo -p tcp -m mark --mark {mark} -j RETURN")
        for owner in _owners(told):
            told.append(
                "mangle",
                "OUTPUT",
                f"! -d {told.loopback} -o lo -p tcp -m owner {owner} "
                f"-j MARK --set-xmark {_OUTBOUND_MARK}/0xffffffff",
            )
    told.append("mangle", "OUTPUT", f"-p tcp -m connmark --mark {mark} -j CONNMARK --restore-mark {masks}")
    first = [f"-p tcp -m mark --mark {mark} -j RETURN"]
    if told.number >= OUTBOUND_MARK_SINCE:
        first.append(f"-s {told.passthrough} -i lo -p tcp -j RETURN")
        first.append(f"-i lo -p tcp -m mark ! --mark {_OUTBOUND_MARK} -j RETURN")
    for position, rule in enumerate(first, 1):
        told.builder.insert("mangle", "ISTIO_INBOUND", rule, position=position)


def _mark(told: Installation) -> str:
    return hex(int(told.options.inbound_tproxy_mark, 0))


def _owners(told: Installation) -> list[str]:
    users = [f"--uid-owner {uid}" for uid in told.options.proxy_uid.split(",") if uid]
    return users + [f"--gid-owner {gid}" for gid in told.options.proxy_gid.split(",") if gid]
