"""Are the sockets on the ports that capture traffic Envoy's, all of them and no others?

Knows how the kernel picks one of several sockets: the most specific address first, then any that share it by
SO_REUSEPORT (socket(7); net/ipv4/inet_hashtables.c, __inet_lookup_listener). Does not know how sockets were
read. Invariant: what was not seen of a socket is no finding against it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.finding import Finding, Kind, Severity
from pytest_istio_sidecar.istio.listeners import Listener
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.netfilter.namespace.sockets import Socket
from pytest_istio_sidecar.netfilter.packet import Endpoint


def check_capture_sockets(
    sockets: Collection[Socket],
    listeners: Sequence[Listener],
    *,
    options: IstioOptions | None = None,
    pod: str = "",
) -> list[Finding]:
    """Whether every socket on the ports of Envoy's capturing listeners is Envoy's.

    Such a socket belongs to the proxy's user, is held by the process that holds the others, and is bound
    where Envoy says that it listens. Envoy has one for each of its workers (SO_REUSEPORT).

    Args:
        sockets: as the fixture `listening_sockets` has them.
        listeners: as the fixture `envoy_listeners` has them.
        options: what istio-init was told; None: what the template passes.
        pod: how messages name it.

    Returns:
        Violations; and a notice for each address that several sockets share whose processes were not seen.
    """
    options = options or IstioOptions()
    ports = (int(options.inbound_capture_port), int(options.proxy_port))
    ours = [socket for socket in sockets if socket.protocol == "tcp" and socket.port in ports]
    where = {endpoint for listener in listeners for endpoint in listener.endpoints}
    envoy = _holding_most(ours)
    of_pod = f" ({pod})" if pod else ""
    findings = []
    for socket in sorted(ours, key=lambda socket: (socket.port, str(socket.address), socket.inode or 0)):
        why = _foreign(socket, options, where, envoy)
        if why:
            findings.append(
                Finding(
                    kind=Kind.LISTENER,
                    failure=messages.NOT_ENVOYS(port=socket.port, socket=_described(socket), pod=of_pod),
                    wanted=f"sockets of Envoy's only on :{socket.port}",
                    got=why,
                    facts=(("sockets", "\n".join(map(_described, sorted(ours, key=str)))),),
                    cause="the kernel gives connections to the socket with the most specific address, and "
                    "shares them among sockets of one address",
                )
            )
    return [*findings, *_shared(ours, of_pod)]


def _holding_most(sockets: Sequence[Socket]) -> int | None:
    """The process that holds the most of them: Envoy, unless all are somebody else's."""
    pids = [process.pid for socket in sockets for process in socket.processes or ()]
    named = [
        process.pid for socket in sockets for process in socket.processes or () if process.name == "envoy"
    ]
    return max(named or pids, key=(named or pids).count, default=None)


def _foreign(socket: Socket, options: IstioOptions, where: Collection[Endpoint], envoy: int | None) -> str:
    """Why a socket is not Envoy's, or ""."""
    users = {int(uid) for uid in options.proxy_uid.split(",") if uid.isdecimal()}
    if options.inbound_interception_mode == "TPROXY":
        users.add(0)  # IP_TRANSPARENT took root before the template gave a capability for it
    if socket.uid is not None and users and socket.uid not in users:
        return f"one of user {socket.uid}; the proxy's is {options.proxy_uid}"
    if socket.processes is not None and envoy not in [process.pid for process in socket.processes]:
        held = ", ".join(map(str, socket.processes)) or "no process that can be seen where Envoy is"
        return f"one that {held} holds; Envoy is process {envoy}"
    if where and Endpoint(socket.address, socket.port) not in where and socket.processes is None:
        return f"one at {socket.address}, where Envoy says that it does not listen"
    return ""


def _shared(sockets: Sequence[Socket], of_pod: str) -> Iterator[Finding]:
    places: dict[Endpoint, list[Socket]] = {}
    for socket in sockets:
        places.setdefault(Endpoint(socket.address, socket.port), []).append(socket)
    for place, sharing in places.items():
        if len(sharing) > 1 and any(socket.processes is None for socket in sharing):
            yield Finding(
                severity=Severity.NOTICE,
                kind=Kind.LISTENER,
                failure=messages.MAY_BE_SHARED(count=len(sharing), address=place, pod=of_pod),
            )


def _described(socket: Socket) -> str:
    user = "" if socket.uid is None else f", user {socket.uid}"
    held = "" if not socket.processes else f", {', '.join(map(str, socket.processes))}"
    return f"{Endpoint(socket.address, socket.port)}{user}{held}"
