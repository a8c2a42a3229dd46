"""What each environment has of its own, and what is read over it, which is the same in all of them.

Knows what is read with a `Runner`, and what of it is evidence. Does not know how a command comes into a pod,
or the pod comes about. Invariant: reading changes nothing in the pod.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

from pytest_istio_sidecar.environments.choices import Choices
from pytest_istio_sidecar.environments.excerpts import configuration_as_evidence
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.injection import Unproxied
from pytest_istio_sidecar.istio.listeners import Listener
from pytest_istio_sidecar.istio.observation import Observation, RequestKind
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.pod_options import PodUsers
from pytest_istio_sidecar.istio.policy_route import Routings
from pytest_istio_sidecar.machine.command import kept
from pytest_istio_sidecar.machine.progress import Progress
from pytest_istio_sidecar.netfilter.model import Family, PodRules
from pytest_istio_sidecar.netfilter.namespace.sockets import Socket
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.readers.host import read_host
from pytest_istio_sidecar.readers.listeners import Ask, read_listeners
from pytest_istio_sidecar.readers.namespace import read_namespace
from pytest_istio_sidecar.readers.outside import look_outside
from pytest_istio_sidecar.readers.policy_routes import read_policy_routes
from pytest_istio_sidecar.readers.runner import Runner
from pytest_istio_sidecar.readers.sockets import read_sockets
from pytest_istio_sidecar.readers.tables import read_tables
from pytest_istio_sidecar.readers.traffic import APPLICATION_ID, Traffic, refuse_request


class NotServed(EnvironmentProblem):
    """This environment has none of what was asked for; another may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarPod:
    """The pod under test.

    Attributes:
        name: how messages name it: `namespace/name`, or what stands for it.
        host: its interfaces and addresses.
        options: what its rules were installed with.
        users: as whom its containers run, as far as that is known.
        notes: what of its namespace could not be read, and what of it matters; one sentence each.
    """

    name: str
    host: Host
    options: IstioOptions = field(default_factory=IstioOptions)
    users: PodUsers = field(default_factory=PodUsers)
    notes: tuple[str, ...] = ()


class PodAccess(ABC):
    """One pod: how commands and requests get there, which differs, and what is read, which does not.

    Attributes:
        pod_name: how messages name it.
        seconds: that a command in it may take.
        envoy_admin: how Envoy's admin interface was asked; "" before it was.
    """

    seconds: ClassVar[float]

    def __init__(self, pod_name: str) -> None:
        self.pod_name = pod_name
        self.envoy_admin = ""
        self._evidence: dict[str, str] = {}

    @abstractmethod
    def runner(self, thing: str) -> Runner:
        """What runs commands in the pod's network namespace, as root.

        Args:
            thing: what is read with it, as a refusal names it: "sockets".

        Raises:
            EnvironmentProblem: nothing can be run there.
            NotServed: there is no pod here.
        """

    @abstractmethod
    def admin(self) -> Mapping[str, Ask]:
        """How Envoy's admin interface is asked, the first choice first, by name.

        Raises:
            NotServed: there is no Envoy here.
        """

    @abstractmethod
    def traffic(self, kind: RequestKind, family: Family) -> Traffic:
        """What sends requests of this kind.

        Raises:
            NotServed: there is no traffic here, or none of this family.
        """

    @property
    def is_gateway(self) -> bool:
        """Whether Envoy is there for traffic of others, and captures none of the pod's."""
        return False

    def options(self) -> IstioOptions:
        """What the pod's rules were installed with, where it tells that."""
        return IstioOptions()

    def users(self) -> PodUsers:
        """As whom the pod's containers run, where it tells that."""
        return PodUsers()

    # What is read

    def pod(self) -> SidecarPod:
        """The pod under test, with the addresses it has."""
        runner = self.runner("addresses")
        host = read_host(runner, timeout=self.seconds, pod=self.pod_name)
        read = read_namespace(runner, timeout=self.seconds)
        self._evidence |= kept(read.commands)
        host = replace(host, routes=read.routes, localnet=read.localnet, forwards=read.forwards)
        return SidecarPod(
            name=self.pod_name, host=host, options=self.options(), users=self.users(), notes=read.notes
        )

    def read_rules(self, folder: Path | None = None) -> PodRules:
        """Read every table of both families and back ends.

        Args:
            folder: where `evidence` is kept, as the places of rules are to name it; None: nowhere.

        Raises:
            EnvironmentProblem: one of them could not be read.
        """
        runner = self.runner("tables")
        reading = read_tables(runner, timeout=self.seconds, pod=self.pod_name, folder=folder)
        beside = read_namespace(runner, timeout=self.seconds)
        outside, commands = look_outside(runner, timeout=self.seconds)
        self._evidence |= kept((*reading.commands, *beside.commands, *commands))
        return replace(reading.rules, notes=(*reading.rules.notes, *beside.notes, *outside))

    def read_listeners(self) -> tuple[Listener, ...]:
        """Read what Envoy listens on, from its admin port.

        Raises:
            EnvironmentProblem: it did not answer.
            NotServed: there is no Envoy here.
        """
        reading = read_listeners(self.admin(), pod=self.pod_name)
        listeners, configuration = reading.commands
        self._evidence["listeners.json"] = listeners.stdout
        self._evidence["config_dump.json"] = configuration_as_evidence(configuration.stdout)
        self.envoy_admin = f"{reading.how} ({listeners.argv[0]})"
        return reading.listeners

    def read_sockets(self) -> tuple[Socket, ...]:
        """Read which sockets listen.

        Raises:
            EnvironmentProblem: they could not be read.
            NotServed: there is no network here.
        """
        return read_sockets(self.runner("sockets"), timeout=self.seconds, pod=self.pod_name)

    def read_policy_routes(self) -> Routings:
        """Read the policy routes, by family.

        Raises:
            EnvironmentProblem: they could not be read.
            NotServed: there is no network here.
        """
        return read_policy_routes(self.runner("policy routes"), timeout=self.seconds, pod=self.pod_name)

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
            UsageProblem: this is no request; nothing was sent.
        """
        refuse_request(kind, port=port, uid=uid, gid=gid, family=family)
        uid = APPLICATION_ID if uid is None else uid
        return self.traffic(kind, family).send(kind, port, uid, uid if gid is None else gid, family)

    def evidence(self) -> Mapping[str, str]:
        """What was read so far, raw, by file name; of a replica, in a folder of its own."""
        return dict(self._evidence)


class Environment(PodAccess):
    """Where the rules under test are.

    Attributes:
        name: as `--istio-environment` has it.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def bring_up(cls, choices: Choices, *, state: Path, owner: int, progress: Progress) -> Self:
        """Make it, and describe it for the other processes of the run.

        Args:
            state: the file to describe it in.
            owner: process that all that is made must not outlive.

        Raises:
            EnvironmentProblem: it cannot be brought up.
            UsageProblem: something of what was chosen cannot be used.
        """

    @classmethod
    @abstractmethod
    def attach(cls, state: Path) -> Self:
        """Find what another process of the run made.

        Raises:
            EnvironmentProblem: it is gone, or was never finished.
        """

    @classmethod
    @abstractmethod
    def take_down(cls, state: Path, evidence: Path, *, keep_it: bool, progress: Progress) -> str | None:
        """Take down what `state` tells of; by the process that owns the run.

        Args:
            evidence: the run's folder, for what its programs wrote, where that is there.
            keep_it: leave a cluster standing.

        Returns:
            How to get into what was left standing; None: nothing was.

        Raises:
            EnvironmentProblem: some of it could not be.
        """

    def of_workload(self, name: str) -> Environment:  # noqa: ARG002 - most have one
        """The same with another of its workloads under test, as `--istio-workload` names it."""
        return self

    def unproxied(self) -> Sequence[Unproxied]:
        """The pods under test that have no sidecar, of which nothing can be read."""
        return ()

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """Facts for people: the environment, the versions in it, the pod, how it is read."""

    def read_replicas(self, folder: Path | None = None) -> Mapping[str, PodRules]:  # noqa: ARG002 - most have one pod
        """The rules of the other pods of the workload, by pod; none where there is one pod.

        Args:
            folder: as of `read_rules`; each pod's listings are in one of their own in there.

        Raises:
            EnvironmentProblem: one of them could not be read.
        """
        return {}
