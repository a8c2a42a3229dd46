"""A pod of a cluster, read and sent requests: what the kind and existing environments share.

Knows by which way a pod can be read, and which it chose. Does not know how the pod came
about or what becomes of it. Invariant: it only reads, and sends requests where it is given
a client for them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_istio_sidecar.environments.base import NotServed, SidecarPod
from pytest_istio_sidecar.environments.choices import ReaderName
from pytest_istio_sidecar.environments.cluster import messages
from pytest_istio_sidecar.environments.cluster.api import Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.debug_container import add_debug_container
from pytest_istio_sidecar.environments.cluster.port_forward import get_from_pod
from pytest_istio_sidecar.environments.cluster.traffic import APPLICATION_ID, ClusterTraffic
from pytest_istio_sidecar.environments.cluster.workload import (
    SIDECAR,
    container_id,
    container_of,
    has_containers,
    owner_of,
    reread,
)
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.listeners import Direction, Listener
from pytest_istio_sidecar.istio.observation import Observation, RequestKind
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.pod_options import unlike_user
from pytest_istio_sidecar.istio.policy_route import Routings
from pytest_istio_sidecar.machine.command import run_command
from pytest_istio_sidecar.machine.redaction import (
    configuration_as_evidence,
    pod_as_evidence,
    workload_as_evidence,
)
from pytest_istio_sidecar.netfilter.model import Family, PodRules
from pytest_istio_sidecar.netfilter.sockets import Socket
from pytest_istio_sidecar.readers.command import CommandResult, Runner, kept
from pytest_istio_sidecar.readers.exec import CannotBecomeRoot, Exec, become_root
from pytest_istio_sidecar.readers.host import read_host
from pytest_istio_sidecar.readers.listeners import ask_in_sidecar, read_listeners
from pytest_istio_sidecar.readers.name_servers import read_name_servers
from pytest_istio_sidecar.readers.node import enter_pod
from pytest_istio_sidecar.readers.policy_routes import read_policy_routes
from pytest_istio_sidecar.readers.sockets import read_sockets
from pytest_istio_sidecar.readers.tables import read_tables

COMMAND_SECONDS = 30.0
START_SECONDS = 120.0
"""For an image that may have to be pulled."""


class ClusterPod:
    """One pod of a cluster, as an environment."""

    def __init__(
        self,
        api: KubernetesApi,
        pod: Json,
        *,
        name: str,
        reader: ReaderName = ReaderName.AUTO,
        client: Json | None = None,
        facts: Mapping[str, str] | None = None,
        node_containers: bool = False,
    ) -> None:
        """Take a pod.

        Args:
            pod: as the API server has it.
            name: of the environment.
            client: the pod that sends requests; None: none are sent.
            node_containers: whether the nodes are containers of this machine's engine.
        """
        self.name = name
        self._api = api
        self._pod = pod
        self._wanted = reader
        self._client = client
        self._facts = dict(facts or {})
        self._node_containers = node_containers
        self._chosen: tuple[Runner, str] | None = None
        self._evidence: dict[str, str] = {}
        self._listeners: tuple[Listener, ...] | None = None

    @property
    def pod_name(self) -> str:
        """How messages name the pod."""
        metadata = self._pod["metadata"]
        return f"{metadata['namespace']}/{metadata['name']}"

    def describe(self) -> Mapping[str, str]:
        """Environment, versions, pod and reader."""
        _, how = self._reader()
        iptables = self._version("iptables", "-V").removeprefix("iptables v")
        return {**self._facts, "pod": self.pod_name, "reader": how, "iptables": iptables}

    def pod(self) -> SidecarPod:
        """The pod, the addresses it has, and what its istio-init was told."""
        runner, _ = self._reader()
        return SidecarPod(
            name=self.pod_name,
            host=read_host(runner, timeout=COMMAND_SECONDS, pod=self.pod_name),
            options=self._options(),
        )

    def _options(self) -> IstioOptions:
        options = IstioOptions.from_pod(self._pod)
        if not options.lacks_servers:
            return options
        containers = [SIDECAR, *(held["name"] for held in self._pod["spec"]["containers"])]
        servers = read_name_servers(map(self._exec, dict.fromkeys(containers)), timeout=COMMAND_SECONDS)
        return options if servers is None else options.with_servers(servers)

    def read_rules(self, folder: Path | None = None) -> PodRules:
        """Every table of both families and back ends."""
        runner, _ = self._reader()
        reading = read_tables(runner, timeout=COMMAND_SECONDS, pod=self.pod_name, folder=folder)
        self._evidence |= kept(reading.commands)
        # The pod that was read is the pod that was chosen.
        now = reread(self._api, self._pod)
        self._evidence["pod.json"] = pod_as_evidence(now)
        workload = owner_of(self._api, now)
        if workload is not None:
            self._evidence["workload.json"] = workload_as_evidence(workload)
        options = IstioOptions.from_pod(now)
        note = unlike_user(now, options.proxy_uid, options.proxy_gid)
        return replace(reading.rules, notes=(*reading.rules.notes, note)) if note else reading.rules

    def read_replicas(self, folder: Path | None = None) -> Mapping[str, PodRules]:  # noqa: ARG002 - has none
        """None: there is one pod."""
        return {}

    def read_listeners(self) -> tuple[Listener, ...]:
        """What Envoy listens on, asked in the sidecar's container, and by port-forward where that fails."""
        if self._listeners is None:
            ways = {
                "exec": ask_in_sidecar(self._exec(SIDECAR), timeout=COMMAND_SECONDS),
                "port-forward": self._ask_by_port_forward,
            }
            reading = read_listeners(ways, pod=self.pod_name)
            self._facts["envoy admin"] = f"{reading.how} ({reading.commands[0].argv[0]})"
            self._evidence["listeners.json"] = reading.commands[0].stdout
            self._evidence["config_dump.json"] = configuration_as_evidence(reading.commands[1].stdout)
            self._listeners = reading.listeners
        return self._listeners

    def read_sockets(self) -> tuple[Socket, ...]:
        """The sockets that listen in the pod."""
        runner, _ = self._reader()
        return read_sockets(runner, timeout=COMMAND_SECONDS, pod=self.pod_name)

    def read_policy_routes(self) -> Routings:
        """The policy routes of both families."""
        runner, _ = self._reader()
        return read_policy_routes(runner, timeout=COMMAND_SECONDS, pod=self.pod_name)

    def send_request(
        self,
        kind: RequestKind,
        *,
        port: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        family: Family = 4,
    ) -> Observation:
        """Send one request from the client pod to this one, or from this pod to the client or itself."""
        if family != ipaddress.ip_address(self._pod["status"]["podIP"]).version:
            raise NotServed(messages.OTHER_ADDRESS(pod=self.pod_name, family=family))
        if self._client is None:
            raise NotServed(messages.NO_TRAFFIC())
        runner, _ = self._reader()
        directions: dict[int, Direction] = {
            listener.port: listener.direction
            for listener in self.read_listeners()
            if listener.direction is not None
        }
        traffic = ClusterTraffic(
            runner=runner,
            client=self._exec_in(self._client, None),
            pod=self.pod_name,
            address=ipaddress.ip_address(self._pod["status"]["podIP"]),
            client_address=ipaddress.ip_address(self._client["status"]["podIP"]),
            application_port=_application_port(self._pod),
            listeners=directions,
        )
        uid = APPLICATION_ID if uid is None else uid
        return traffic.send(kind, port, uid, uid if gid is None else gid)

    def evidence(self) -> Mapping[str, str]:
        """Everything read so far."""
        return self._evidence

    def _version(self, *argv: str) -> str:
        runner, _ = self._reader()
        said = runner.run(list(argv), timeout=COMMAND_SECONDS).stdout.strip()
        return said.partition("\n")[0]

    def _reader(self) -> tuple[Runner, str]:
        if self._chosen is None:
            self._chosen = self._choose()
        return self._chosen

    def _choose(self) -> tuple[Runner, str]:
        if self._pod["spec"].get("hostNetwork"):
            raise EnvironmentProblem(messages.HOST_NETWORK(pod=self.pod_name))
        if self._wanted is ReaderName.NODE:
            return self._from_node()
        if self._wanted is ReaderName.DEBUG:
            container = add_debug_container(self._api, self._pod, timeout=START_SECONDS)
            where = f"{self.pod_name} (container {container})"
            runner = become_root(self._exec(container), where=where, timeout=COMMAND_SECONDS)
            return runner, f"debug (ephemeral container {container}, which stays in the pod's list)"
        if self._wanted not in (ReaderName.AUTO, ReaderName.EXEC):
            raise EnvironmentProblem(messages.NO_READER(reader=self._wanted))
        if container_of(self._pod) is None:
            raise EnvironmentProblem(messages.NO_SIDECAR(pod=self.pod_name, facts=has_containers(self._pod)))
        where = f"{self.pod_name} (container {SIDECAR})"
        try:
            runner = become_root(self._exec(SIDECAR), where=where, timeout=COMMAND_SECONDS)
        except CannotBecomeRoot as problem:
            if self._wanted is ReaderName.AUTO and self._node_containers:
                runner_on_node, how = self._from_node()
                return runner_on_node, f"{how}, as exec {problem.failure.summary}"
            raise
        how = "sudo" if runner.prefix else "root"
        return runner, f"exec ({how} in {SIDECAR})"

    def _from_node(self) -> tuple[Runner, str]:
        node = self._pod["spec"]["nodeName"]
        if not self._node_containers:
            raise EnvironmentProblem(messages.NODE_NOT_HERE(node=node, pod=self.pod_name))

        def on_node(argv: Sequence[str], *, timeout: float) -> CommandResult:
            return run_command(["docker", "exec", node, *argv], timeout=timeout)

        runner = enter_pod(
            on_node, container_id=container_id(self._pod), pod=self.pod_name, timeout=COMMAND_SECONDS
        )
        return runner, f"node (nsenter on {node})"

    def _exec(self, container: str) -> Exec:
        return self._exec_in(self._pod, container)

    def _exec_in(self, pod: Json, container: str | None) -> Exec:
        metadata = pod["metadata"]

        def run(argv: Sequence[str], *, timeout: float) -> CommandResult:
            return self._api.exec(
                namespace=metadata["namespace"],
                pod=metadata["name"],
                container=container or pod["spec"]["containers"][0]["name"],
                argv=argv,
                timeout=timeout,
            )

        return run

    def _ask_by_port_forward(self, path: str) -> CommandResult:
        metadata = self._pod["metadata"]
        return get_from_pod(
            self._api,
            namespace=metadata["namespace"],
            pod=metadata["name"],
            port=ports.ADMIN,
            path=path,
            timeout=COMMAND_SECONDS,
        )


def _application_port(pod: Json) -> int:
    """The first port that a container other than the sidecar declares."""
    for container in pod["spec"]["containers"]:
        if container["name"] != SIDECAR:
            for declared in container.get("ports", []):
                return int(declared["containerPort"])
    return 80
