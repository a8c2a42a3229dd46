"""What every environment can be asked for.

Knows the questions. Does not know how any environment answers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.listeners import Listener
from pytest_istio_sidecar.istio.observation import Observation, RequestKind
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.policy_route import Routings
from pytest_istio_sidecar.netfilter.model import Family, PodRules
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.netfilter.sockets import Socket


class NotServed(EnvironmentProblem):
    """This environment has none of what was asked for; another may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarPod:
    """The pod under test.

    Attributes:
        name: how messages name it: `namespace/name`, or what stands for it.
        host: its interfaces and addresses.
        options: what its rules were installed with.
    """

    name: str
    host: Host
    options: IstioOptions = field(default_factory=IstioOptions)


class Environment(Protocol):
    """Where the rules under test are."""

    @property
    def name(self) -> str:
        """As `--istio-environment` has it."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Facts for people: the environment, the versions in it, the pod, how it is read."""
        ...

    def pod(self) -> SidecarPod:
        """The pod under test."""
        ...

    def read_rules(self, folder: Path | None = None) -> PodRules:
        """Read every table of both families and back ends.

        Args:
            folder: where `evidence` is kept, as the places of rules are to name it; None: nowhere.

        Raises:
            EnvironmentProblem: one of them could not be read.
        """
        ...

    def read_replicas(self, folder: Path | None = None) -> Mapping[str, PodRules]:
        """The rules of the other pods of the workload, by pod; none where there is one pod.

        Args:
            folder: as of `read_rules`; each pod's listings are in one of their own in there.

        Raises:
            EnvironmentProblem: one of them could not be read.
        """
        ...

    def read_listeners(self) -> tuple[Listener, ...]:
        """Read Envoy's listeners.

        Raises:
            NotServed: there is no Envoy here.
        """
        ...

    def read_sockets(self) -> tuple[Socket, ...]:
        """Read which sockets listen.

        Raises:
            EnvironmentProblem: they could not be read.
            NotServed: there is no network here.
        """
        ...

    def read_policy_routes(self) -> Routings:
        """Read the policy routes, by family.

        Raises:
            EnvironmentProblem: they could not be read.
            NotServed: there is no network here.
        """
        ...

    def send_request(
        self,
        kind: RequestKind,
        *,
        port: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        family: Family = 4,
    ) -> Observation:
        """Send one real request and observe it.

        Args:
            kind: from a neighbour to the pod, from the pod to a neighbour, or from the pod to 127.0.0.1.
            port: its destination; the usual one of the kind when None.
            uid, gid: of the sending process; an ordinary user's when None.
            family: IPv4 or IPv6.

        Raises:
            NotServed: there is no traffic here, or none of this family.
        """
        ...

    def evidence(self) -> Mapping[str, str]:
        """What was read so far, raw, by file name; of a replica, in a folder of its own."""
        ...

    def stop(self) -> None:
        """Take down what was brought up; a second time does nothing."""
        ...
