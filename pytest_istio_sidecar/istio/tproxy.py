"""Rules of the TPROXY mode: inbound packets keep both addresses, and find Envoy by a mark.

Knows mangle's part of it. Does not know the routing rule that the mark asks for (`ip rule fwmark
1337 lookup 133`), which is no rule of iptables.
"""

from __future__ import annotations

from pytest_istio_sidecar.istio.option_table import OptionValues
from pytest_istio_sidecar.istio.release import Installation
from pytest_istio_sidecar.istio.versions import Number

CONNTRACK_SINCE = (1, 5, 2)
"""Packets of open connections are found by conntrack, no longer by their socket (istio/istio#22532)."""
LOCAL_SINCE = (1, 6, 0)
"""What leaves from 127.0.0.1 to elsewhere is marked, so that it is routed to lo."""
CONNMARK_SINCE = (1, 9, 0)
"""The mark is kept with the connection instead, and TPROXY goes to 15006 (istio/istio#28457)."""
OUTBOUND_MARK_SINCE = (1, 11, 0)
"""Envoy's own requests to its pod bear another mark, so that only they are captured on lo."""
_OUTBOUND_MARK = "0x53a"


def chains(installation: Installation) -> None:
    """ISTIO_DIVERT, for packets of open connections, and ISTIO_TPROXY, for new ones."""
    mark = _mark(installation)
    installation.append("mangle", "ISTIO_DIVERT", f"-j MARK --set-xmark {mark}/0xffffffff")
    installation.append("mangle", "ISTIO_DIVERT", "-j ACCEPT")
    to = "0.0.0.0" if installation.family == 4 else "::"  # noqa: S104 (what TPROXY is given, not an address to bind)
    installation.append(
        "mangle",
        "ISTIO_TPROXY",
        f"! -d {installation.loopback} -p tcp -j TPROXY "
        f"--on-port {port(installation.number, installation.options)} --on-ip {to} "
        f"--tproxy-mark {mark}/0xffffffff",
    )


def port(number: Number, options: OptionValues) -> str:
    """Where TPROXY hands packets over."""
    return options.inbound_capture_port if number >= CONNMARK_SINCE else options.proxy_port


def capture(installation: Installation, packets: str) -> None:
    """Divert and capture these packets in ISTIO_INBOUND."""
    if installation.number >= CONNTRACK_SINCE:
        open_connections = [f"{packets} -m conntrack --ctstate RELATED,ESTABLISHED"]
    else:
        # A list of ports has the rule twice.
        open_connections = [f"{packets} -m socket"] * (1 if packets == "-p tcp" else 2)
    for matched in open_connections:
        installation.append("mangle", "ISTIO_INBOUND", f"{matched} -j ISTIO_DIVERT")
    installation.append("mangle", "ISTIO_INBOUND", f"{packets} -j ISTIO_TPROXY")


def marks(installation: Installation) -> None:
    """What keeps a marked connection's packets together, and ends loops."""
    mark = _mark(installation)
    if installation.number < LOCAL_SINCE:
        return
    if installation.number < CONNMARK_SINCE:
        installation.append(
            "mangle",
            "OUTPUT",
            f"-s 127.0.0.1/32 ! -d 127.0.0.1/32 -p tcp -j MARK --set-xmark {mark}/0xffffffff",
        )
        return
    masks = "--nfmask 0xffffffff --ctmask 0xffffffff"
    installation.append(
        "mangle", "PREROUTING", f"-p tcp -m mark --mark {mark} -j CONNMARK --save-mark {masks}"
    )
    if installation.number >= OUTBOUND_MARK_SINCE:
        installation.append("mangle", "OUTPUT", f"-o lo -p tcp -m mark --mark {mark} -j RETURN")
        for owner in _owners(installation):
            installation.append(
                "mangle",
                "OUTPUT",
                f"! -d {installation.loopback} -o lo -p tcp -m owner {owner} "
                f"-j MARK --set-xmark {_OUTBOUND_MARK}/0xffffffff",
            )
    installation.append(
        "mangle", "OUTPUT", f"-p tcp -m connmark --mark {mark} -j CONNMARK --restore-mark {masks}"
    )
    first = [f"-p tcp -m mark --mark {mark} -j RETURN"]
    if installation.number >= OUTBOUND_MARK_SINCE:
        first.append(f"-s {installation.passthrough} -i lo -p tcp -j RETURN")
        first.append(f"-i lo -p tcp -m mark ! --mark {_OUTBOUND_MARK} -j RETURN")
    for position, rule in enumerate(first, 1):
        installation.builder.insert("mangle", "ISTIO_INBOUND", rule, position=position)


def _mark(installation: Installation) -> str:
    return hex(int(installation.options.inbound_tproxy_mark, 0))


def _owners(installation: Installation) -> list[str]:
    users = [f"--uid-owner {uid}" for uid in installation.options.proxy_uid.split(",") if uid]
    return users + [f"--gid-owner {gid}" for gid in installation.options.proxy_gid.split(",") if gid]
