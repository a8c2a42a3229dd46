"""Where a pod keeps the options of istio-iptables: its init container, or its annotations.

Knows the flags and variables of istio-iptables, and what istio-cni reads instead. Does not
know what the options do. Invariant: what istio-init was told counts, not what an annotation asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import messages

_PROGRAM = "istio-iptables"
_TEXT_FLAGS = {
    "-p": "proxy_port",
    "--envoy-port": "proxy_port",
    "-z": "inbound_capture_port",
    "--inbound-capture-port": "inbound_capture_port",
    "-e": "inbound_tunnel_port",
    "--inbound-tunnel-port": "inbound_tunnel_port",
    "-u": "proxy_uid",
    "--proxy-uid": "proxy_uid",
    "-g": "proxy_gid",
    "--proxy-gid": "proxy_gid",
    "-m": "inbound_interception_mode",
    "--istio-inbound-interception-mode": "inbound_interception_mode",
    "-t": "inbound_tproxy_mark",
    "--istio-inbound-tproxy-mark": "inbound_tproxy_mark",
    "-r": "inbound_tproxy_route_table",
    "--istio-inbound-tproxy-route-table": "inbound_tproxy_route_table",
    "-b": "inbound_ports_include",
    "--istio-inbound-ports": "inbound_ports_include",
    "-d": "inbound_ports_exclude",
    "--istio-local-exclude-ports": "inbound_ports_exclude",
    "-i": "outbound_ip_ranges_include",
    "--istio-service-cidr": "outbound_ip_ranges_include",
    "-x": "outbound_ip_ranges_exclude",
    "--istio-service-exclude-cidr": "outbound_ip_ranges_exclude",
    "-q": "outbound_ports_include",
    "--istio-outbound-ports": "outbound_ports_include",
    "-o": "outbound_ports_exclude",
    "--istio-local-outbound-ports-exclude": "outbound_ports_exclude",
    "-k": "kube_virt_interfaces",
    "--kube-virt-interfaces": "kube_virt_interfaces",
    "-c": "exclude_interfaces",
    "--istio-exclude-interfaces": "exclude_interfaces",
}
_TRUTH_FLAGS = {
    "--redirect-dns": "redirect_dns",
    "--capture-all-dns": "capture_all_dns",
    "--drop-invalid": "drop_invalid",
    "--dual-stack": "dual_stack",
}
_OTHER_TEXT = frozenset((
    "--iptables-probe-port", "--probe-timeout", "--network-namespace", "--output-paths",
    "--host-nsenter-exec", "--force-iptables-binary", "--log_output_level", "--log_caller",
    "--log_rotate", "--log_rotate_max_age", "--log_rotate_max_backups", "--log_rotate_max_size",
    "--log_stacktrace_level", "--log_target", "--vklog",
))  # fmt: skip
_OTHER_TRUTH = frozenset((
    "-n", "--dry-run", "-f", "--restore-format", "--skip-rule-apply", "--run-validation", "--cni-mode",
    "--force-apply", "--reconcile", "--cleanup-only", "--native-nftables", "--iptables-trace-logging",
    "--log_as_json",
))  # fmt: skip
_UNSET = {"inbound_ports_include": "", "inbound_ports_exclude": "", "outbound_ip_ranges_include": ""}
"""What istio-iptables takes where neither flag nor variable says anything; templates always say it."""
_VARIABLES = {
    "ISTIO_OUTBOUND_OWNER_GROUPS": "owner_groups_include",
    "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "owner_groups_exclude",
    "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "host_ipv4_loopback_cidr",
}
_TRUTH_VARIABLES = {
    "REDIRECT_DNS": "redirect_dns",
    "CAPTURE_ALL_DNS": "capture_all_dns",
    "DROP_INVALID": "drop_invalid",
    "INVALID_DROP": "drop_invalid",
    "DUAL_STACK": "dual_stack",
    "ISTIO_DUAL_STACK": "dual_stack",
}
_SET_VARIABLES = {"DNS_CAPTURE": "redirect_dns", "DNS_AGENT": "redirect_dns"}
"""Of 1.6 and 1.7: that they are set to anything is enough."""
_DNS_VARIABLE = "ISTIO_META_DNS_CAPTURE"
"""Since 1.8 true or false; in 1.7 set to anything, and DNS goes to Envoy where DNS_AGENT is not set too."""
_IMAGE_1_7 = re.compile(r":1\.7(?![0-9])")
_ANNOTATIONS = {
    "sidecar.istio.io/interceptionMode": "inbound_interception_mode",
    "traffic.sidecar.istio.io/includeOutboundIPRanges": "outbound_ip_ranges_include",
    "traffic.sidecar.istio.io/excludeOutboundIPRanges": "outbound_ip_ranges_exclude",
    "traffic.sidecar.istio.io/includeInboundPorts": "inbound_ports_include",
    "traffic.sidecar.istio.io/includeOutboundPorts": "outbound_ports_include",
    "traffic.sidecar.istio.io/excludeOutboundPorts": "outbound_ports_exclude",
    "traffic.sidecar.istio.io/kubevirtInterfaces": "kube_virt_interfaces",
    "istio.io/reroute-virtual-interfaces": "kube_virt_interfaces",
    "traffic.sidecar.istio.io/excludeInterfaces": "exclude_interfaces",
}
"""What istio-cni reads; a later one counts more (cni/pkg/plugin/sidecar_redirect.go)."""
_CNI_INBOUND = ("15020", "15021", "15090")
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


def fields_of_arguments(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Fields of `IstioOptions` from a command line of istio-iptables.

    Raises:
        UsageProblem: an unknown flag, one without its value, or a truth that is none.
    """
    found: dict[str, Any] = dict(_UNSET)
    found |= _of_environment(environment)
    rest = list(arguments)
    if _PROGRAM in rest:
        rest = rest[rest.index(_PROGRAM) + 1 :]
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if len(flag) > 2 and flag[:2] in _TEXT_FLAGS:
            flag, equals, value = word[:2], "=", word[2:]
        if flag in _TRUTH_FLAGS or flag in _OTHER_TRUTH:
            truth = _truth(flag, value) if equals else True
            if flag in _TRUTH_FLAGS:
                found[_TRUTH_FLAGS[flag]] = truth
        elif flag in _TEXT_FLAGS or flag in _OTHER_TEXT:
            if not equals:
                if not rest:
                    raise UsageProblem(messages.FLAG_WITHOUT_VALUE(program=_PROGRAM, flag=flag))
                value = rest.pop(0)
            if flag in _TEXT_FLAGS:
                found[_TEXT_FLAGS[flag]] = value
        else:
            raise UsageProblem(messages.NO_FLAG(program=_PROGRAM, flag=flag))
    if "proxy_uid" in found:
        found.setdefault("proxy_gid", found["proxy_uid"])
    found.pop("dual_stack", None)
    return found


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
        if _PROGRAM not in words:
            continue
        environment = _environment(container)
        if "--skip-rule-apply" not in words:
            found = fields_of_arguments(words, environment)
            if _IMAGE_1_7.search(str(container.get("image"))):
                found |= _as_1_7_has_it(environment)
            dual = bool(_of_environment(environment).get("dual_stack")) or "--dual-stack" in words
            break
        found, dual = _of_cni(pod, [*starting, *spec["containers"]])
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
        found, dual = _of_cni(pod, [sidecar])
    found["enable_ipv6"] = _ipv6(pod, dual)
    servers = (spec.get("dnsConfig") or {}).get("nameservers") or []
    if found.get("redirect_dns") and spec.get("dnsPolicy") == "None":
        for version, name in ((4, "dns_servers_v4"), (6, "dns_servers_v6")):
            found[name] = ",".join(server for server in servers if ip_address(server).version == version)
    return found


def _of_cni(pod: Mapping[str, Any], containers: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], bool]:
    sidecar = _sidecar(containers) or {}
    annotations = _annotations(pod)
    environment = _of_environment(_environment(sidecar))
    dual = bool(environment.pop("dual_stack", False))
    found: dict[str, Any] = {"mode": "cni", **environment}
    for annotation, name in _ANNOTATIONS.items():
        if annotation in annotations:
            found[name] = annotations[annotation]
    excluded = annotations.get("traffic.sidecar.istio.io/excludeInboundPorts")
    if excluded:
        ports = [*(part.strip() for part in excluded.split(",") if part.strip()), *_CNI_INBOUND]
        found["inbound_ports_exclude"] = ",".join(dict.fromkeys(ports))
    held = sidecar.get("securityContext") or {}
    for key, name in (("runAsUser", "proxy_uid"), ("runAsGroup", "proxy_gid")):
        if held.get(key):
            found[name] = str(held[key])
    return found, dual


def _sidecar(containers: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((held for held in containers if held.get("name") == "istio-proxy"), None)


def unlike_user(pod: Mapping[str, Any], users: str, groups: str) -> str:
    """What follows where the sidecar runs as a user whom its rules do not name, in a sentence; "" elsewhere.

    Istio's template runs it as root for TPROXY, and where an annotation sets IPTABLES_TRACE_LOGGING (since
    1.12, manifests/charts/istio-control/istio-discovery/files/injection-template.yaml).

    Args:
        users, groups: whose packets the rules let by, as istio-iptables' `-u` and `-g` list them.
    """
    spec = pod.get("spec") or {}
    sidecar = _sidecar([*spec.get("containers", []), *(spec.get("initContainers") or [])]) or {}
    context = {**(spec.get("securityContext") or {}), **(sidecar.get("securityContext") or {})}
    user, group = context.get("runAsUser"), context.get("runAsGroup")
    if user is None or str(user) in users.split(","):
        return ""
    first = f"istio-proxy runs as user {user}, and the rules name {users}"
    if str(group) in groups.split(","):
        return f"{first}: what they let by of Envoy's own they let by for its group {group} alone"
    return f"{first}: Envoy's own connections are captured again"


def _of_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable, name in _VARIABLES.items():
        if variable in environment:
            found[name] = environment[variable]
    for variable, name in _TRUTH_VARIABLES.items():
        if environment.get(variable):
            found[name] = _truth(variable, environment[variable])
    asked = environment.get(_DNS_VARIABLE)
    if asked in (*_TRUE, *_FALSE):
        found["redirect_dns"] = asked in _TRUE
    elif asked:
        found["dns_by_envoy"] = True
    for variable, name in _SET_VARIABLES.items():
        if environment.get(variable):
            found[name] = True
    return found


def _as_1_7_has_it(environment: Mapping[str, str]) -> dict[str, Any]:
    by_agent = bool(environment.get("DNS_AGENT"))
    return {"redirect_dns": by_agent, "dns_by_envoy": bool(environment.get(_DNS_VARIABLE)) and not by_agent}


def _truth(name: str, value: str) -> bool:
    """As Go's strconv.ParseBool reads it."""
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise UsageProblem(messages.TRUTH_UNKNOWN(name=name, value=value))


def _environment(container: Mapping[str, Any]) -> dict[str, str]:
    return {held["name"]: str(held["value"]) for held in container.get("env") or () if held.get("value")}


def _annotations(pod: Mapping[str, Any]) -> Mapping[str, str]:
    return (pod.get("metadata") or {}).get("annotations") or {}


def _name(pod: Mapping[str, Any]) -> str:
    metadata = pod.get("metadata") or {}
    return f"{metadata.get('namespace', 'default')}/{metadata.get('name', '?')}"


def _ipv6(pod: Mapping[str, Any], dual: bool) -> bool | None:
    """Whether istio-iptables programs ip6tables: its first address is an IPv6 one, or, dual stack, any is."""
    status = pod.get("status") or {}
    addresses = [held.get("ip", "") for held in status.get("podIPs") or ()]
    if not addresses and status.get("podIP"):
        addresses = [status["podIP"]]
    versions = [ip_address(text).version for text in addresses if text]
    if not versions:
        return None
    return 6 in versions if dual else versions[0] == 6
