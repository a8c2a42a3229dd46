"""What a pod asks istio-init for: the options of istio-iptables, as they are written where they come from.

Knows that of a pod more may have to be added. Does not know what an option
may hold (`option_table`), nor where a pod keeps them (`pod_options`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio.command_line import read_command_line
from pytest_istio_sidecar.istio.option_kinds import Argument, is_malformed
from pytest_istio_sidecar.istio.option_names import fields_named, no_such_option
from pytest_istio_sidecar.istio.option_table import OPTIONS, OptionValues
from pytest_istio_sidecar.istio.pod_options import fields_of_pod
from pytest_istio_sidecar.istio.versions import number_of

_DEFAULTS = {option.name: option.default for option in OPTIONS}


class IstioOptions(OptionValues):
    """What istio-iptables is given; unset, what the injection template passes.

    Each long flag is a variable as well: `--proxy-uid` is PROXY_UID. Every list is kept as Istio writes it,
    whatever it was given as.

    Raises:
        UsageProblem: a value that istio-iptables or iptables-restore would refuse.

    Source: istio/istio tools/istio-iptables/pkg/cmd/root.go, tools/common/config, cni/pkg/plugin.
    """

    __slots__ = ()

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Options by name.

        Raises:
            UsageProblem: a name that no option has; the message has the nearest.
        """
        for name in given:
            if name not in _DEFAULTS:
                raise UsageProblem(no_such_option(name))
        return cls(**given)

    @classmethod
    def from_pairs(cls, pairs: Iterable[str]) -> Self:
        """Options as they are written on a command line: "inbound_ports_exclude=15090,8443".

        A name may be any that Istio has (`option_names`), and NAME=VALUE also be `NAME: VALUE`, as messages
        say what a pod asks for. By an annotation's name the value is the annotation's: the inbound ports that
        it leaves alone are left beside those of the template.

        Raises:
            UsageProblem: no NAME=VALUE, no option of that name or value, or one with two values.
        """
        return cls(**fields_named(pairs))

    @classmethod
    def from_pod(cls, pod: Mapping[str, Any]) -> Self:
        """The options that a pod was injected with.

        The servers of its resolv.conf are not in it, unless its `dnsConfig` names them: where
        `lacks_servers` tells that they count, give them with `with_servers`.

        Args:
            pod: as the API server returns it in JSON. What its init container was told counts;
                where istio-cni did the work, its annotations and the sidecar's variables.

        Raises:
            UsageProblem: this is no pod, it has no sidecar, or Istio would refuse a value.
        """
        return cls(**fields_of_pod(pod))

    @classmethod
    def from_init_arguments(
        cls,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        version: str | None = None,
    ) -> Self:
        """The options on a command line of istio-iptables, read as the program reads it.

        Args:
            arguments: with or without the program's name.
            environment: its variables.
            version: whose program it is: which variables count depends on it. None: those of any release do.

        Raises:
            UsageProblem: istio-iptables ends on it: a flag that it does not have, one without its value.
        """
        release = None if version is None else number_of(version)
        return cls(**read_command_line(arguments, environment or {}, release).fields)

    @property
    def lacks_servers(self) -> bool:
        """Whether DNS is captured for the servers of resolv.conf only, and none is known."""
        named = self.dns_servers_v4 or self.dns_servers_v6
        return self.redirect_dns and self.mode == "init" and not self.capture_all_dns and not named

    def with_servers(self, servers: Iterable[str]) -> Self:
        """The same, with the servers of resolv.conf.

        Raises:
            UsageProblem: one is no IP address.
        """
        v4: list[str] = []
        v6: list[str] = []
        for server in servers:
            (v6 if ":" in server else v4).append(server)
        return replace(self, dns_servers_v4=v4, dns_servers_v6=v6)  # type: ignore[arg-type]

    def beside(self, pods: IstioOptions) -> Self:
        """The same beside those of its pod, whose addresses tell of IPv6 where nothing else was said."""
        return self if self.enable_ipv6 is not None else replace(self, enable_ipv6=pods.enable_ipv6)

    def pairs(self) -> tuple[str, ...]:
        """What `from_pairs` makes the same options of, or ones of which every release makes the same rules.

        What a command line has among its ranges and is none is left out.
        """
        return tuple(f"{name}={_written(value)}" for name, value in self.changed().items())

    def changed(self) -> dict[str, str | bool]:
        """What differs from the options unset, by name."""
        return {
            name: value
            for name, default in _DEFAULTS.items()
            if (value := getattr(self, name)) is not None and value != default
        }


def _written(value: str | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Argument):
        return ",".join(part for part in value.split(",") if not is_malformed(part))
    return value
