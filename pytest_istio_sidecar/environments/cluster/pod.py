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

from pytest_istio_sidecar.environments.base import NotServed, PodAccess, SidecarPod
from pytest_istio_sidecar.environments.choices import ReaderName
from pytest_istio_sidecar.environments.cluster import messages
from pytest_istio_sidecar.environments.cluster.api import Json, KubernetesApi
from pytest_istio_sidecar.environments.cluster.debug_container import add_debug_container
from pytest_istio_sidecar.environments.cluster.init_log import AT_START, FILE, host_told, read_init_log
from pytest_istio_sidecar.environments.cluster.port_forward import get_from_pod
from pytest_istio_sidecar.environments.cluster.traffic import ClusterTraffic
from pytest_istio_sidecar.environments.cluster.workload import (
    SIDECAR,
    container_id,
    container_of,
    has_containers,
    owner_of,
    reread,
)
from pytest_istio_sidecar.environments.excerpts import pod_as_evidence, workload_as_evidence
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.listeners import Direction, Listener
from pytest_istio_sidecar.istio.observation import RequestKind
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.pod_options import PodUsers, unlike_user, users_of
from pytest_istio_sidecar.machine.command import CommandResult, run_command
from pytest_istio_sidecar.netfilter.model import Family, PodRules
from pytest_istio_sidecar.readers.exec import CannotBecomeRoot, Exec, become_root
from pytest_istio_sidecar.readers.listeners import Ask, ask_in_sidecar
from pytest_istio_sidecar.readers.name_servers import read_name_servers
from pytest_istio_sidecar.readers.node import enter_pod
from pytest_istio_sidecar.readers.runner import Completed, Runner

COMMAND_SECONDS = 30.0
START_SECONDS = 120.0
"""For an image that may have to be pulled."""


class ClusterPod(PodAccess):
    """One pod of a cluster."""

    seconds = COMMAND_SECONDS

    def __init__(
        self,
        api: KubernetesApi,
        pod: Json,
        *,
        reader: ReaderName = ReaderName.AUTO,
        client: Json | None = None,
        facts: Mapping[str, str] | None = None,
        node_containers: bool = False,
    ) -> None:
        """Take a pod.

        Args:
            pod: as the API server has it.
            client: the pod that sends requests; None: none are sent.
            node_containers: whether the nodes are containers of this machine's engine.
        """
        super().__init__(name_of(pod))
        self._facts = dict(facts or {})
        self._api = api
        self._pod = pod
        self._wanted = reader
        self._client = client
        self._node_containers = node_containers
        self._chosen: tuple[Runner, str] | None = None
        self._listeners: tuple[Listener, ...] | None = None
        self._iptables: str | None = None

    def describe(self) -> Mapping[str, str]:
        """Environment, versions, pod and reader; of a pod without a sidecar nothing that is read in it."""
        if container_of(self._pod) is None:
            return {**self._facts, "pod": self.pod_name}
        admin = {"envoy admin": self.envoy_admin} if self.envoy_admin else {}
        if self._wanted is ReaderName.LOG:
            pod = f"{self.pod_name} ({AT_START})"
            return {**self._facts, **admin, "pod": pod, "reader": f"log of istio-init, {AT_START}"}
        _, how = self._reader()
        if self._iptables is None:
            self._iptables = self._version("iptables", "-V").removeprefix("iptables v")
        return {**self._facts, **admin, "pod": self.pod_name, "reader": how, "iptables": self._iptables}

    @property
    def is_gateway(self) -> bool:
        """Whether its istio-proxy is told to be a router (istio/istio, manifests/charts/gateways)."""
        return "router" in ((container_of(self._pod) or {}).get("args") or ())

    def options(self) -> IstioOptions:
        """What the pod's istio-init was told."""
        options = IstioOptions.from_pod(self._pod)
        if not options.lacks_servers or self._wanted is ReaderName.LOG:
            return options
        names = [SIDECAR, *(container["name"] for container in self._pod["spec"]["containers"])]
        servers = read_name_servers(map(self._exec, dict.fromkeys(names)), timeout=COMMAND_SECONDS)
        return options if servers is None else options.with_servers(servers)

    def users(self) -> PodUsers:
        """As the API server knows them."""
        return users_of(self._pod)

    def runner(self, thing: str) -> Runner:
        """By the reader that was chosen."""
        if self._wanted is ReaderName.LOG:
            raise NotServed(messages.LOG_ONLY(missing=thing))
        return self._reader()[0]

    def admin(self) -> Mapping[str, Ask]:
        """In the sidecar's container, and by port-forward where that fails."""
        return {
            "exec": ask_in_sidecar(self._exec(SIDECAR), timeout=COMMAND_SECONDS),
            "port-forward": self._ask_by_port_forward,
        }

    def traffic(self, kind: RequestKind, family: Family) -> ClusterTraffic:  # noqa: ARG002 - all of them
        """Of the client pod to this one, or of this pod to the client or itself."""
        address = ipaddress.ip_address(self._pod["status"]["podIP"])
        if family != address.version:
            raise NotServed(messages.OTHER_ADDRESS(pod=self.pod_name, family=family))
        if self._client is None:
            raise NotServed(messages.NO_TRAFFIC())
        directions: dict[int, Direction] = {
            listener.port: listener.direction
            for listener in self.read_listeners()
            if listener.direction is not None
        }
        return ClusterTraffic(
            runner=self.runner("traffic"),
            client=self._exec_in(self._client, None),
            pod=self.pod_name,
            address=address,
            client_address=ipaddress.ip_address(self._client["status"]["podIP"]),
            application_port=_application_port(self._pod),
            listeners=directions,
        )

    def read_rules(self, folder: Path | None = None) -> PodRules:
        """Every table, of a pod that is still the one that was chosen."""
        rules = self._logged(folder) if self._wanted is ReaderName.LOG else super().read_rules(folder)
        now = reread(self._api, self._pod)
        self._evidence["pod.json"] = pod_as_evidence(now)
        workload = owner_of(self._api, now)
        if workload is not None:
            self._evidence["workload.json"] = workload_as_evidence(workload)
        options = IstioOptions.from_pod(now)
        note = unlike_user(now, options.proxy_uid, options.proxy_gid)
        return replace(rules, notes=(*rules.notes, note)) if note else rules

    def pod(self) -> SidecarPod:
        """The pod under test; with the reader `log` as the API server knows it."""
        if self._wanted is not ReaderName.LOG:
            return super().pod()
        name = f"{self.pod_name}, {AT_START}"
        host = host_told(self._pod)
        return SidecarPod(name=name, host=host, options=self.options(), users=self.users())

    def _logged(self, folder: Path | None) -> PodRules:
        if self._pod["spec"].get("hostNetwork"):
            raise EnvironmentProblem(messages.HOST_NETWORK(pod=self.pod_name))
        logged = read_init_log(self._api, self._pod, folder=folder)
        self._evidence[FILE] = logged.text
        return logged.rules

    def read_listeners(self) -> tuple[Listener, ...]:
        """What Envoy listens on, asked once."""
        if self._listeners is None:
            self._listeners = super().read_listeners()
        return self._listeners

    def _version(self, *argv: str) -> str:
        said = self.runner("versions").run(list(argv), timeout=COMMAND_SECONDS).stdout.strip()
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
        if self._wanted is ReaderName.AUTO and self._node_containers:
            # Images before Istio 1.27 have no nft.
            completed = Completed(runner, "nft", lambda: self._from_node()[0])
            return completed, f"exec ({how} in {SIDECAR}), and nft on the node where the pod has none"
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


def name_of(pod: Json) -> str:
    """How messages name a pod."""
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _application_port(pod: Json) -> int:
    """The first port that a container other than the sidecar declares."""
    for container in pod["spec"]["containers"]:
        if container["name"] != SIDECAR:
            for declared in container.get("ports", []):
                return int(declared["containerPort"])
    return 80
