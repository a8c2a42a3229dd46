"""How options are asked for in a pod: the words of annotations and variables.

Knows which annotation or variable stands for which option. Does not know how they are read (`pod_options`,
`option_names`), nor what they do. Invariant: given as an option, the words are what they say.
"""

from __future__ import annotations

from pytest_istio_sidecar.istio.command_line import DNS_CAPTURE_SINCE
from pytest_istio_sidecar.istio.dns_capture import AGENT_SINCE
from pytest_istio_sidecar.istio.option_kinds import BESIDE, split
from pytest_istio_sidecar.istio.option_table import OPTIONS, Option, OptionValues
from pytest_istio_sidecar.istio.release import left_inbound
from pytest_istio_sidecar.istio.versions import Number


def as_a_pod_asks(number: Number, before: OptionValues, after: OptionValues) -> tuple[str, ...]:
    """Every option that differs, in the words of a pod of a release: "excludeInboundPorts: 8443"."""
    return tuple(
        in_words(option, number, after)
        for option in OPTIONS
        if getattr(before, option.name) != getattr(after, option.name)
        and option.asked_by
        and (option.name != "capture_all_dns" or after.redirect_dns)
    )


def in_words(option: Option, number: Number, values: OptionValues) -> str:
    """How a pod of a release asks for the value that an option has.

    Of inbound ports that are left alone an annotation has those beside Istio's own. Where one of these is
    gone, no annotation can ask for it, and the option itself is named.
    """
    value = getattr(values, option.name)
    word = option.asked_by or option.name
    if option.name == "redirect_dns" and number < DNS_CAPTURE_SINCE:
        word = ("DNS_AGENT" if number >= AGENT_SINCE else "DNS_CAPTURE") if value else option.name
    if isinstance(value, bool):
        return f"{word}: {str(value).lower()}"
    if isinstance(value, str) and value.startswith(BESIDE):
        value = value.removeprefix(BESIDE)
    elif option.name == "inbound_ports_exclude":
        own, members = left_inbound(number, by_cni=values.mode == "cni"), split(value or "")
        if set(own) <= set(members):
            value = ",".join(member for member in members if member not in own)
        else:
            word = option.name
    return f"{word}: {value or chr(34) * 2}"
