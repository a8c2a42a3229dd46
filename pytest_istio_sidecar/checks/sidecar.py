"""Has a pod the sidecar, and the sidecar the rules, without which nothing else can be asked?

Knows when that is a verdict, and when there is nothing to prove. Does not know how pod and rules were read.
Invariant: a pod that was named and does not itself opt out should have a sidecar; that there are no rules is
said only where rules that iptables does not show would have been seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.finding import Finding, Kind
from pytest_istio_sidecar.errors import Undecided
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.istio.injection import Unproxied, injection_of, is_ambient, why_missing
from pytest_istio_sidecar.istio.tables import has_istio_rules, other_mode, writes_native_tables
from pytest_istio_sidecar.netfilter.kernel.unread import is_unread, what_to_add
from pytest_istio_sidecar.netfilter.model import PodRules
from pytest_istio_sidecar.netfilter.packet import Host, inbound
from pytest_istio_sidecar.netfilter.trace.trace import trace


def check_sidecars(pods: Sequence[Unproxied]) -> list[Finding]:
    """Whether pods without a sidecar should have one: a violation for each that should.

    Raises:
        Undecided: none of them should, so that there is nothing to prove.
    """
    should = [each for each in pods if not _excused(each)]
    if pods and not should:
        raise Undecided(_why_not(pods[0]))
    return [_missing(each) for each in should]


def check_istio_rules(
    rules: PodRules, version: str | None, *, host: Host | None = None, gateway: bool = False
) -> list[Finding]:
    """Whether any rule of a pod is Istio's, in iptables or in tables of nf_tables' own.

    Args:
        version: the release of its sidecar; None: not known.
        gateway: whether the pod is a gateway's, which has none.

    Raises:
        Undecided: none was seen, and a back end was not read, or nobody looked where that release can have
            written them; or a gateway.
    """
    if has_istio_rules(rules) or other_mode(rules):
        return []
    if gateway:
        raise Undecided(messages.IS_GATEWAY(pod=rules.pod))
    if unread := [each for each in rules.rulesets if is_unread(each)]:
        raise Undecided(messages.BACK_END_NOT_READ(pod=rules.pod or "the pod", reason=what_to_add(unread[0])))
    if not rules.native_read and writes_native_tables(version):
        raise Undecided(
            messages.NATIVE_NOT_READ(
                pod=rules.pod or "the pod",
                release=f"Istio {version}" if version else "a release that the pod does not tell",
            )
        )
    host = host or Host()
    own = next((host.primary(host.external(), family) for family in (4, 6)), None)
    packet = inbound(80) if own is None else inbound(80, destination=own, in_interface=host.external())
    seen = any(rules.of_family(packet.family))
    looked = [str(each.backend) for each in rules.rulesets if each.backend]
    looked += ["nf_tables' own tables"] if rules.native_read else []
    return [
        Finding(
            kind=Kind.BYPASS,
            failure=messages.NO_RULE_OF_ISTIO(pod=rules.pod or "the pod"),
            wanted="Istio's chains in iptables, or its tables in nf_tables",
            got=f"none, having read {', '.join(dict.fromkeys(looked)) or 'what was given'}",
            trace=trace(rules, packet, host=host) if seen else None,
            cause="istio-init failed, or istio-cni missed the pod, or the rules were flushed since",
        )
    ]


def _excused(each: Unproxied) -> bool:
    return injection_of(each.pod, each.namespace).opts_out or is_ambient(each.pod, each.namespace)


def _why_not(each: Unproxied) -> Failure:
    injection = injection_of(each.pod, each.namespace)
    if injection.opts_out:
        return messages.OPTED_OUT(pod=each.name, why=injection.why)
    return messages.IS_AMBIENT(pod=each.name)


def _missing(each: Unproxied) -> Finding:
    injection = injection_of(each.pod, each.namespace)
    cause, fix = why_missing(each.pod, each.namespace, each.workload)
    why = injection.why if injection.wanted else each.named
    unread = [("not read", f"the labels of the namespace: {each.unread}")] if each.unread else []
    containers = (*(each.pod["spec"].get("initContainers") or ()), *each.pod["spec"]["containers"])
    return Finding(
        kind=Kind.BYPASS,
        failure=messages.SIDECAR_MISSING(pod=each.name, why=why, fix=fix),
        wanted="a container istio-proxy",
        got=", ".join(container["name"] for container in containers),
        facts=tuple(unread),
        cause=cause,
    )
