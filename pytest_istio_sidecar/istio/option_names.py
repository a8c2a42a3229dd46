"""What an option is called, and what a value means under each of its names.

Knows every name that Istio has for an option: of a flag and of a variable of istio-iptables, of an
annotation, of its log. Does not know what an option may hold (`option_table`). Invariant: what messages print
of an option is read here as what it says.

Sources: as `option_table`; the names in the log: tools/istio-iptables/pkg/config/config.go, Print.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.istio import messages
from pytest_istio_sidecar.istio.option_kinds import BESIDE
from pytest_istio_sidecar.istio.option_table import OPTIONS

BY_CNI = "istio-cni"
"""How messages say `mode=cni`."""
_DNS = ("ISTIO_META_DNS_CAPTURE", "DNS_AGENT", "DNS_CAPTURE")
"""Variables that ask for DNS capture, each in its releases."""
_LOGGED = {
    "PROXY_INBOUND_CAPTURE_PORT": "inbound_capture_port",
    "PROXY_TUNNEL_PORT": "inbound_tunnel_port",
    "KUBEVIRT_INTERFACES": "kube_virt_interfaces",
    "ENABLE_INBOUND_IPV6": "enable_ipv6",
    "ISTIO_META_INTERCEPTION_MODE": "inbound_interception_mode",
}
"""Names in the log of istio-init, and the sidecar's variable, that are made of no other name."""
_ANNOTATIONS = {
    name: option.name
    for option in OPTIONS
    for full in option.annotations
    for name in (full, full.rpartition("/")[2])
}
_FIELDS = {
    **dict.fromkeys(_DNS, "redirect_dns"),
    **_LOGGED,
    **_ANNOTATIONS,
    **{
        name: option.name
        for option in OPTIONS
        for name in (
            *option.flags,
            *option.variables,
            *filter(None, [option.words]),
            option.name.upper(),
            option.name,
        )
        if name not in _DNS
    },
}
"""Every name, and the field that it stands for."""
_NEAREST, _SURE = 3, 0.9
"""How many names are proposed; only the nearest where it is as near as this."""


def option_named(text: str) -> str:
    """The field that a name stands for: its own, or that of an annotation, a flag or a variable of Istio's.

    Raises:
        UsageProblem: a name that no option has; the message has the nearest.
    """
    if text not in _FIELDS:
        raise UsageProblem(no_such_option(text))
    return _FIELDS[text]


def options_named(text: str) -> tuple[str, ...]:
    """The fields that names with commas between them stand for, as `option_named` has each.

    Raises:
        UsageProblem: a name that no option has, or none at all.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageProblem(messages.NO_OPTION_NAMED(text=text))
    return tuple(map(option_named, names))


def named_pair(text: str) -> tuple[str, str]:
    """A name of an option, and the value beside it: NAME=VALUE, or NAME: VALUE as a manifest has it.

    Raises:
        UsageProblem: it is neither, or no option has that name.
    """
    if text.strip() == BY_CNI:
        return "mode", "cni"
    name, equals, value = text.partition("=")
    before, colon, after = text.partition(": ")
    if colon and len(before) < len(name):
        name, equals, value = before, colon, after.strip().strip("\"'")
    if not equals:
        raise UsageProblem(messages.NOT_NAME_VALUE(text=text))
    name = name.strip()
    option_named(name)
    return name, value


def fields_named(pairs: Iterable[str]) -> dict[str, Any]:
    """Fields of `IstioOptions` as they are written on a command line, each by any of its names.

    An annotation's name has an annotation's value: the inbound ports that it leaves alone are left beside
    those of the template. Every other has what istio-iptables is told.

    Raises:
        UsageProblem: no NAME=VALUE, no option of that name, or one with two values.
    """
    given: dict[str, str] = {}
    for name, written in map(named_pair, pairs):
        option, value = _FIELDS[name], written
        if option == "inbound_ports_exclude" and name in _ANNOTATIONS:
            value = f"{BESIDE}{written.removeprefix(BESIDE)}"
        if given.setdefault(option, value) != value:
            raise UsageProblem(messages.GIVEN_TWICE(option=option, first=given[option], second=value))
    return given


def no_such_option(name: str) -> Failure:
    """What is said of a name that no option has, with the nearest that there are."""
    spelt: dict[str, str] = {}
    for known in reversed(_FIELDS):  # of names that differ in the case of letters the field's own
        spelt.setdefault(known.lower(), known)
    one = difflib.get_close_matches(name.lower(), spelt, n=1, cutoff=_SURE)
    near: dict[str, str] = {}
    for each in one or difflib.get_close_matches(name.lower(), spelt, n=3 * _NEAREST):
        near.setdefault(_FIELDS[spelt[each]], spelt[each])
    hint = f"; {' or '.join([*near.values()][:_NEAREST])}?" if near else "."
    return messages.NO_SUCH_OPTION(option=name, hint=hint, known=", ".join(option.name for option in OPTIONS))
