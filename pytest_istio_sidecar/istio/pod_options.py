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
from pytest_istio_sidecar.istio import messages, ports
from pytest_istio_sidecar.istio import option_kinds as kinds
from pytest_istio_sidecar.istio.option_table import OPTIONS

_PROGRAM = "istio-iptables"
_FLAGS = {flag: option for option in OPTIONS for flag in option.flags}
_OTHER_TEXT = frozenset((
    "--iptables-probe-port", "--probe-timeout", "--network-namespace", "--output-paths",
    "--host-nsenter-exec", "--force-iptables-binary", "--log_output_level", "--log_caller",
    "--log_rotate", "--log_rotate_max_age", "--log_rotate_max_backups", "--log_rotate_max_size",
    "--log_stacktrace_level", "--log_target", "--vklog",
))  # fmt: skip
_OTHER_TRUTH = frozenset((
    "-n", "--dry-run", "-f", "--restore-format", "--skip-rule-apply", "--run-validation", "--cni-mode",
    "--force-apply", "--reconcile", "--cleanup-only", "--native-nftables", "--iptables-trace-logging",
    "--log_as_json", "--dual-stack",
))  # fmt: skip
_DUAL_STACK = ("DUAL_STACK", "ISTIO_DUAL_STACK")
"""Variables of `--dual-stack`, which has part in `enable_ipv6` as the pod's addresses have."""
_SET_VARIABLES = ("DNS_CAPTURE", "DNS_AGENT")
"""Of 1.6 and 1.7, for `redirect_dns`: that they are set to anything is enough."""
_DNS_VARIABLE = "ISTIO_META_DNS_CAPTURE"
"""Since 1.8 true or false; in 1.7 set to anything, and DNS goes to Envoy where DNS_AGENT is not set too."""
_READ_BY_CNI = (_DNS_VARIABLE, "INVALID_DROP", "ISTIO_DUAL_STACK")
"""Variables of the sidecar that istio-cni heeds; others are its own (cni/pkg/plugin, NewRedirect)."""
_IMAGE_1_7 = re.compile(r":1\.7(?![0-9])")
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


def fields_of_arguments(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Fields of `IstioOptions` from a command line of istio-iptables.

    Raises:
        UsageProblem: an unknown flag, one without its value, or a truth that is none.
    """
    chosen: dict[str, Any] = {
        option.name: option.program_default for option in OPTIONS if option.program_default is not None
    }
    chosen |= _of_environment(environment)
    _is_dual(environment)  # istio-iptables reads it, and ends where it is neither true nor false
    rest = list(arguments)
    if _PROGRAM in rest:
        rest = rest[rest.index(_PROGRAM) + 1 :]
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if len(flag) > 2 and flag[:2] in _FLAGS:
            flag, equals, value = word[:2], "=", word[2:]
        option = _FLAGS.get(flag)
        if flag in _OTHER_TRUTH or (option is not None and option.kind is kinds.truth):
            answer: str | bool = _truth(flag, value) if equals else True
        elif flag in _OTHER_TEXT or option is not None:
            if not equals:
                if not rest:
                    raise UsageProblem(messages.FLAG_WITHOUT_VALUE(program=_PROGRAM, flag=flag))
                value = rest.pop(0)
            answer = value
        else:
            raise UsageProblem(messages.NO_FLAG(program=_PROGRAM, flag=flag))
        if option is not None:
            chosen[option.name] = answer
    if "proxy_uid" in chosen:
        chosen.setdefault("proxy_gid", chosen["proxy_uid"])
    return chosen


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
            chosen = fields_of_arguments(words, environment)
            if _IMAGE_1_7.search(str(container.get("image"))):
                chosen |= _as_1_7_has_it(environment)
            dual = _is_dual(environment) or "--dual-stack" in words
            break
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
    chosen: dict[str, Any] = {"mode": "cni", **_of_environment(environment)}
    for option in OPTIONS:
        for annotation in option.annotations:
            if annotation in annotations:
                chosen[option.name] = annotations[annotation]
    if excluded := chosen.pop("inbound_ports_exclude", ""):
        asked = (part.strip() for part in excluded.split(",") if part.strip())
        chosen["inbound_ports_exclude"] = ",".join(dict.fromkeys((*asked, *map(str, ports.LEFT_BY_CNI))))
    context = sidecar.get("securityContext") or {}
    for key, name in (("runAsUser", "proxy_uid"), ("runAsGroup", "proxy_gid")):
        if context.get(key):
            chosen[name] = str(context[key])
    return chosen, _is_dual(environment)


def _sidecar(containers: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((container for container in containers if container.get("name") == "istio-proxy"), None)


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
    chosen: dict[str, Any] = {}
    for option in OPTIONS:
        for variable in option.variables:
            if option.kind is not kinds.truth and variable in environment:
                chosen[option.name] = environment[variable]
            elif environment.get(variable):
                chosen[option.name] = _truth(variable, environment[variable])
    asked = environment.get(_DNS_VARIABLE)
    if asked in (*_TRUE, *_FALSE):
        chosen["redirect_dns"] = asked in _TRUE
    elif asked:
        chosen["dns_by_envoy"] = True
    if any(environment.get(variable) for variable in _SET_VARIABLES):
        chosen["redirect_dns"] = True
    return chosen


def _is_dual(environment: Mapping[str, str]) -> bool:
    answers = [
        _truth(variable, environment[variable]) for variable in _DUAL_STACK if environment.get(variable)
    ]
    return bool(answers) and answers[-1]


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
    variables = container.get("env") or ()
    return {variable["name"]: str(variable["value"]) for variable in variables if variable.get("value")}


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
