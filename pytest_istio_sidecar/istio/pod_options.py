"""Where a pod keeps the options of istio-iptables: its init container, or its annotations.

Knows which container was told what and runs as whom, and what istio-cni reads instead. Does not know how a
command line is read (`command_line`), nor what the options do. Invariant: what istio-init was told counts,
not what an annotation asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import messages, ports
from pytest_istio_sidecar.istio.command_line import PROGRAM, read_command_line, read_variables
from pytest_istio_sidecar.istio.option_kinds import is_true
from pytest_istio_sidecar.istio.option_table import OPTIONS
from pytest_istio_sidecar.istio.versions import Number, number_of

_READ_BY_CNI = ("ISTIO_META_DNS_CAPTURE", "INVALID_DROP", "ISTIO_DUAL_STACK")
"""Variables of the sidecar that istio-cni heeds; others are its own (cni/pkg/plugin, NewRedirect)."""
_RELEASE = re.compile(r":v?(\d+\.\d+(?:\.\d+)?(?:[-+][\w.-]+)?)(?:@|$)")
"""Of an image, by its tag."""


def fields_of_pod(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `IstioOptions` from a pod.

    Raises:
        UsageProblem: no pod, or one without a sidecar.
    """
    spec = pod.get("spec")
    if pod.get("kind", "Pod") != "Pod" or not isinstance(spec, Mapping) or "containers" not in spec:
        raise UsageProblem(messages.NO_POD(kind=pod.get("kind")))
    starting = spec.get("initContainers") or []
    for container in starting:
        words = [*(container.get("command") or ()), *map(str, container.get("args") or ())]
        if PROGRAM not in words:
            continue
        started = read_command_line(words, _environment(container), _release(container))
        if started.makes_rules:
            chosen, dual = started.fields, started.dual_stack
        else:
            chosen, dual = _of_cni(pod, [*starting, *spec["containers"]])
        break
    else:
        sidecar = _sidecar([*starting, *spec["containers"]])
        if sidecar is None:
            raise UsageProblem(messages.NOT_INJECTED(pod=_name(pod)))
        mode = _annotations(pod).get("sidecar.istio.io/interceptionMode") or _environment(sidecar).get(
            "ISTIO_META_INTERCEPTION_MODE"
        )
        if mode == "NONE":
            return {"inbound_interception_mode": "NONE"}
        chosen, dual = _of_cni(pod, [sidecar])
    chosen["enable_ipv6"] = _ipv6(pod, dual)
    servers = (spec.get("dnsConfig") or {}).get("nameservers") or []
    if chosen.get("redirect_dns") and spec.get("dnsPolicy") == "None":
        for version, name in ((4, "dns_servers_v4"), (6, "dns_servers_v6")):
            chosen[name] = ",".join(server for server in servers if ip_address(server).version == version)
    return chosen


def _of_cni(pod: Mapping[str, Any], containers: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], bool]:
    """Fields of a pod whose rules istio-cni made, and whether it is dual stack."""
    sidecar = _sidecar(containers) or {}
    annotations = _annotations(pod)
    environment = {name: value for name, value in _environment(sidecar).items() if name in _READ_BY_CNI}
    chosen: dict[str, Any] = {"mode": "cni", **read_variables(environment, None)}
    for option in OPTIONS:
        for annotation in option.annotations:
            if annotation in annotations:
                chosen[option.name] = annotations[annotation]
    if excluded := chosen.pop("inbound_ports_exclude", "").strip():
        # Blanks come off later: "9000, 15020" has 15020 twice (dedupPorts).
        asked = excluded.removesuffix(",").split(",")
        chosen["inbound_ports_exclude"] = ",".join(dict.fromkeys((*asked, *map(str, ports.LEFT_BY_CNI))))
    context = sidecar.get("securityContext") or {}
    for key, name in (("runAsUser", "proxy_uid"), ("runAsGroup", "proxy_gid")):
        if context.get(key):
            chosen[name] = str(context[key])
    return chosen, is_true(environment.get("ISTIO_DUAL_STACK", ""))


def _sidecar(containers: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((container for container in containers if container.get("name") == "istio-proxy"), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodUsers:
    """As whom the containers of a pod run, as far as the pod says it.

    Attributes:
        sidecar: by the option that names such an id, the sidecar's user and group.
        applications: the same of all other containers that stay.
    """

    sidecar: Mapping[str, frozenset[int]] = field(default_factory=dict)
    applications: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def is_sidecars(self, option: str, text: str) -> bool:
        """Whether the sidecar is known to run so, and no application is."""
        return int(text) in self.sidecar.get(option, ()) and not self.is_applications(option, text)

    def is_applications(self, option: str, text: str) -> bool:
        """Whether an application is known to run so; root and its group are those of any image by default."""
        return int(text) == 0 or int(text) in self.applications.get(option, ())


def users_of(pod: Mapping[str, Any]) -> PodUsers:
    """As whom the containers of a pod run."""
    spec = pod.get("spec") or {}
    staying = [each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"]
    containers = [*spec.get("containers", ()), *staying]
    return PodUsers(
        sidecar=_ids(spec, [each for each in containers if each.get("name") == "istio-proxy"]),
        applications=_ids(spec, [each for each in containers if each.get("name") != "istio-proxy"]),
    )


def _ids(spec: Mapping[str, Any], containers: Iterable[Mapping[str, Any]]) -> dict[str, frozenset[int]]:
    contexts = [_context(spec, container) for container in containers]
    return {
        option: frozenset(context[key] for context in contexts if isinstance(context.get(key), int))
        for option, key in (("proxy_uid", "runAsUser"), ("proxy_gid", "runAsGroup"))
    }


def _context(spec: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, Any]:
    """What counts of a container's security context and its pod's."""
    return {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}


def unlike_user(pod: Mapping[str, Any], users: str, groups: str) -> str:
    """What follows where the sidecar runs as a user whom its rules do not name, in a sentence; "" elsewhere.

    Istio's template runs it as root for TPROXY, and where an annotation sets IPTABLES_TRACE_LOGGING (since
    1.12, manifests/charts/istio-control/istio-discovery/files/injection-template.yaml).

    Args:
        users, groups: whose packets the rules let by, as istio-iptables' `-u` and `-g` list them.
    """
    spec = pod.get("spec") or {}
    sidecar = _sidecar([*spec.get("containers", []), *(spec.get("initContainers") or [])]) or {}
    context = _context(spec, sidecar)
    user, group = context.get("runAsUser"), context.get("runAsGroup")
    if user is None or str(user) in users.split(","):
        return ""
    first = f"istio-proxy runs as user {user}, and the rules name {users}"
    if str(group) in groups.split(","):
        return f"{first}: what they let by of Envoy's own they let by for its group {group} alone"
    return f"{first}: Envoy's own connections are captured again"


def _release(container: Mapping[str, Any]) -> Number | None:
    """The release of a container's image, where its tag tells."""
    tag = _RELEASE.search(str(container.get("image")))
    return number_of(tag[1]) if tag else None


def _environment(container: Mapping[str, Any]) -> dict[str, str]:
    """The variables that a container sets itself; the API server leaves the value out that is empty."""
    variables = container.get("env") or ()
    return {
        variable["name"]: str(variable.get("value") or "")
        for variable in variables
        if "valueFrom" not in variable
    }


def _annotations(pod: Mapping[str, Any]) -> Mapping[str, str]:
    return (pod.get("metadata") or {}).get("annotations") or {}


def _name(pod: Mapping[str, Any]) -> str:
    metadata = pod.get("metadata") or {}
    return f"{metadata.get('namespace', 'default')}/{metadata.get('name', '?')}"


def _ipv6(pod: Mapping[str, Any], dual: bool) -> bool | None:
    """Whether istio-iptables programs ip6tables: its first address is an IPv6 one, or, dual stack, any is."""
    status = pod.get("status") or {}
    addresses = [address.get("ip", "") for address in status.get("podIPs") or ()]
    if not addresses and status.get("podIP"):
        addresses = [status["podIP"]]
    versions = [ip_address(text).version for text in addresses if text]
    if not versions:
        return None
    return 6 in versions if dual else versions[0] == 6
