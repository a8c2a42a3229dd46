"""The fixtures: what a test can ask for.

Knows which value each name stands for. Does not know how it is got: the
environment does. Invariant: session scope, read once; nothing is brought up,
and nothing heavy imported, until one of them is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from pytest_istio_sidecar.environments.choices import EnvironmentName
from pytest_istio_sidecar.errors import IstioSidecarError, UsageProblem
from pytest_istio_sidecar.plugin import claims, workloads
from pytest_istio_sidecar.plugin.markers import MARKER, specifier_of
from pytest_istio_sidecar.plugin.settings import Settings
from pytest_istio_sidecar.plugin.workers import Run, heed_signals, run_of, settle_progress, show_progress

if TYPE_CHECKING:
    from pytest_istio_sidecar.checks.bypass.reviewed import ReviewedBypass
    from pytest_istio_sidecar.environments.base import Environment, SidecarPod
    from pytest_istio_sidecar.environments.cluster.existing import ExistingEnvironment
    from pytest_istio_sidecar.environments.file import FileEnvironment
    from pytest_istio_sidecar.istio.listeners import Listener
    from pytest_istio_sidecar.istio.observation import Observation, RequestKind
    from pytest_istio_sidecar.istio.options import IstioOptions
    from pytest_istio_sidecar.istio.policy_route import Routings
    from pytest_istio_sidecar.netfilter.model import Family, PodRules, Table
    from pytest_istio_sidecar.netfilter.namespace.sockets import Socket
    from pytest_istio_sidecar.netfilter.packet import Packet
    from pytest_istio_sidecar.netfilter.trace.trace import Trace


@pytest.fixture(scope="session")
def istio_settings(pytestconfig: pytest.Config) -> Settings:
    """The `--istio-*` options of this run, checked."""
    return Settings.from_config(pytestconfig)


@pytest.fixture(scope="session")
def istio_workload(istio_settings: Settings, request: pytest.FixtureRequest) -> str:
    """The workload under test, as `--istio-workload` names it; "" where the environment has one of its own.

    With several named, every test that asks for this or for anything read of a pod runs for each of them.
    """
    if istio_settings.environment is not EnvironmentName.EXISTING:
        return ""
    named: str | None = getattr(request, "param", None)
    if named is not None:
        return named
    if workloads.several(request.config):
        from pytest_istio_sidecar.plugin import messages

        # A test that asks by getfixturevalue, or of unittest: it runs once, and would judge one of them.
        raise UsageProblem(messages.WORKLOAD_NOT_TOLD(fixture=workloads.FIXTURE))
    return istio_settings.workloads[0]


@pytest.fixture(scope="session")
def istio_version(istio_settings: Settings, istio_workload: str, request: pytest.FixtureRequest) -> str:
    """The release of Istio whose rules are installed or expected, e.g. "1.8.3".

    In the existing environment the pod's own; so where a folder is read that tells it.
    """
    told_by_a_folder = istio_settings.environment is EnvironmentName.FILE and not istio_settings.version_given
    if not istio_workload and not told_by_a_folder:
        return istio_settings.version
    environment: ExistingEnvironment | FileEnvironment = request.getfixturevalue("istio_environment")
    return environment.istio_version or istio_settings.version


@pytest.fixture
def _holds_for_istio_version(istio_version: str, request: pytest.FixtureRequest) -> None:
    """Skips a test whose marker `istio_version` leaves this release out; the plugin makes it ask for this."""
    from pytest_istio_sidecar.istio.versions import number_of

    release = ".".join(map(str, number_of(istio_version)))
    for marker in request.node.iter_markers(MARKER):
        if not specifier_of(marker, request.node).contains(release):
            pytest.skip(f"holds for Istio {marker.args[0]}; this is {istio_version}")


@pytest.fixture(scope="session")
def istio_kind_config(istio_settings: Settings) -> Path | None:
    """The configuration file for kind; override it to give one of your own. None: this package's."""
    return istio_settings.kind_config


@pytest.fixture(scope="session")
def istio_install_options() -> dict[str, str]:
    """Values for istioctl's `--set`, by key; override it to add some. `--istio-set` wins over them."""
    return {}


@pytest.fixture(scope="session")
def istio_manifests() -> list[Path]:
    """YAML files of the application under test, a Deployment among them; none: this package's httpbin."""
    return []


@pytest.fixture(scope="session")
def _brought_up(
    istio_settings: Settings,
    istio_kind_config: Path | None,
    istio_install_options: dict[str, str],
    istio_manifests: list[Path],
    pytestconfig: pytest.Config,
    request: pytest.FixtureRequest,
) -> Environment:
    """The environment with all that is under test in it; brought up once for the run."""
    from pytest_istio_sidecar.environments.shared import bring_up
    from pytest_istio_sidecar.machine.progress import Progress
    from pytest_istio_sidecar.plugin.standard_input import given_back

    heed_signals(pytestconfig)
    run = run_of(pytestconfig)
    show_progress(pytestconfig, istio_settings)
    try:
        values = (f"{key}={value}" for key, value in istio_install_options.items())
        choices = istio_settings.replace(
            kind_config=istio_kind_config,
            values=(*values, *istio_settings.values),
            manifests=tuple(istio_manifests),
            evidence=run.place(run.evidence) if istio_settings.evidence else None,
        )
        # Whoever comes second waits for all the steps of the first.
        with run.exclusive(istio_settings.timeout * 6), given_back(pytestconfig):
            environment = bring_up(choices, state=run.state, owner=run.owner, progress=Progress(run.progress))
            environment.describe()
    except IstioSidecarError as problem:
        # Without an environment every test would end in this same error: stop at the first.
        request.session.shouldfail = str(problem).splitlines()[0]
        raise
    finally:
        settle_progress(pytestconfig)
    return environment


@pytest.fixture(scope="session")
def istio_environment(
    _brought_up: Environment, istio_workload: str, pytestconfig: pytest.Config
) -> Environment:
    """Where the rules under test are; brought up once for the run, whatever the number of workers.

    With several workloads named, as it is with the one under test.
    """
    from pytest_istio_sidecar.checks.sidecar import check_sidecars

    environment = _brought_up.of_workload(istio_workload)
    try:
        facts = dict(environment.describe())
    except IstioSidecarError as problem:
        raise claims.told_once(problem, about=f"reader of {istio_workload}") from None
    run_of(pytestconfig).record("environment", workload=istio_workload, facts=facts)
    about = f"sidecars of {istio_workload}"
    claims.against(claims.ask(lambda: check_sidecars(environment.unproxied()), about=about), about=about)
    return environment


@pytest.fixture(scope="session")
def sidecar_pod(
    istio_environment: Environment, istio_workload: str, pytestconfig: pytest.Config
) -> SidecarPod:
    """The pod under test: its name, and the interfaces and addresses it has."""
    return workloads.once(pytestconfig, istio_workload, "pod", istio_environment.pod)


@pytest.fixture(scope="session")
def istio_options(istio_settings: Settings, sidecar_pod: SidecarPod) -> IstioOptions:
    """What istio-init was told, as the pod has it; where there is no such pod, `--istio-option`, else the
    template's options.
    """
    from pytest_istio_sidecar.istio.options import IstioOptions

    if not istio_settings.options:
        return sidecar_pod.options
    return IstioOptions.from_pairs(istio_settings.options).beside(sidecar_pod.options)


@pytest.fixture(scope="session")
def reviewed_bypasses(istio_settings: Settings) -> tuple[ReviewedBypass, ...]:
    """The bypasses that this project has reviewed (`--istio-reviewed-bypasses`); none without a list."""
    from pytest_istio_sidecar.checks.bypass.reviewed import parse_reviewed_bypasses
    from pytest_istio_sidecar.machine.given_file import text_of

    path = istio_settings.reviewed_bypasses
    return () if path is None else parse_reviewed_bypasses(text_of(path), source=str(path))


@pytest.fixture(scope="session")
def accepted_options(istio_settings: Settings) -> frozenset[str]:
    """Options whose openings this project accepts (`--istio-accept-options`), by fields of `IstioOptions`."""
    return frozenset(name for names in istio_settings.accepted_options for name in names.split(","))


@pytest.fixture(scope="session")
def pod_rules(
    istio_environment: Environment,
    istio_workload: str,
    istio_settings: Settings,
    istio_version: str,
    istio_options: IstioOptions,
    sidecar_pod: SidecarPod,
    reviewed_bypasses: tuple[ReviewedBypass, ...],
    accepted_options: frozenset[str],
    pytestconfig: pytest.Config,
) -> PodRules:
    """Every ruleset read from the pod: both families, both back ends, all tables.

    What a lossy listing hides is completed from the expected rules; the rulesets remember it.
    """
    from pytest_istio_sidecar.checks.sidecar import check_istio_rules
    from pytest_istio_sidecar.environments.shared import read_rules
    from pytest_istio_sidecar.reports.summary import capture_of

    run = run_of(pytestconfig)
    place, into = run.place(run.evidence), workloads.folder_of(pytestconfig, istio_workload)

    def read() -> PodRules:
        read = read_rules(istio_environment, run.evidence, place, into)
        rules, about = _completed(read, istio_version, istio_options), f"rules of {istio_workload}"
        release = _release_of(istio_environment, istio_settings, istio_version)
        gateway = istio_environment.is_gateway
        meant = istio_options.inbound_interception_mode != "NONE"
        findings = claims.ask(
            lambda: (
                check_istio_rules(rules, release, host=sidecar_pod.host, gateway=gateway) if meant else []
            ),
            about=about,
        )
        if istio_settings.environment in (EnvironmentName.KIND, EnvironmentName.EXISTING):
            # Of listings each test says what becomes of its own packet.
            claims.against(findings, about=about)
        capture = capture_of(
            rules,
            sidecar_pod.name,
            sidecar_pod.host,
            istio_version,
            istio_options,
            reviewed=reviewed_bypasses,
            accepted=accepted_options,
            users=sidecar_pod.users,
        )
        run.record("capture", workload=istio_workload, **capture)
        return rules

    return workloads.once(pytestconfig, istio_workload, "rules", read)


def _release_of(environment: Environment, settings: Settings, version: str) -> str | None:
    """The release of the sidecar, where it is known and not only taken for want of another."""
    if settings.environment is not EnvironmentName.EXISTING:
        return version
    return getattr(environment, "istio_version", None) or (
        settings.version if settings.version_given else None
    )


@pytest.fixture(scope="session")
def replica_rules(
    istio_environment: Environment,
    istio_workload: str,
    istio_version: str,
    istio_options: IstioOptions,
    pytestconfig: pytest.Config,
) -> Mapping[str, PodRules]:
    """The rules of the other replicas of the workload, by pod; empty where there is one pod."""
    from pytest_istio_sidecar.environments.shared import read_replicas

    run = run_of(pytestconfig)
    place, into = run.place(run.evidence), workloads.folder_of(pytestconfig, istio_workload)
    replicas = workloads.once(
        pytestconfig,
        istio_workload,
        "replicas",
        lambda: read_replicas(istio_environment, run.evidence, place, into),
    )
    return {pod: _completed(rules, istio_version, istio_options) for pod, rules in replicas.items()}


def _completed(rules: PodRules, version: str, options: IstioOptions) -> PodRules:
    """The same rules, what a lossy listing hides taken from those of the release, which are expected."""
    from pytest_istio_sidecar.checks.cause import expecting
    from pytest_istio_sidecar.checks.comparison.expectation import completed, expected_of

    try:
        whole = cast("PodRules", completed(rules, expected_of(rules, version, options)))
        return expecting(whole, version, options)
    except UsageProblem:
        return rules  # a release or options that nothing is known of complete nothing


@pytest.fixture(scope="session")
def iptables_nat(pod_rules: PodRules) -> Table:
    """The pod's IPv4 nat table, from whichever back end holds Istio's rules."""
    from pytest_istio_sidecar.istio.tables import istio_nat

    return istio_nat(pod_rules, 4)


@pytest.fixture(scope="session")
def ip6tables_nat(pod_rules: PodRules) -> Table:
    """The pod's IPv6 nat table, from whichever back end holds Istio's rules."""
    from pytest_istio_sidecar.istio.tables import istio_nat

    return istio_nat(pod_rules, 6)


@pytest.fixture(scope="session")
def envoy_listeners(
    istio_environment: Environment,
    istio_workload: str,
    istio_evidence: Callable[[], Path],
    pytestconfig: pytest.Config,
) -> tuple[Listener, ...]:
    """What Envoy listens on, from its admin port."""
    from pytest_istio_sidecar.environments.shared import keep

    run = run_of(pytestconfig)

    def read() -> tuple[Listener, ...]:
        listeners = istio_environment.read_listeners()
        istio_evidence()
        keep(istio_environment, run.evidence, workloads.folder_of(pytestconfig, istio_workload))
        run.record("environment", workload=istio_workload, facts=dict(istio_environment.describe()))
        return listeners

    return workloads.once(pytestconfig, istio_workload, "listeners", read)


@pytest.fixture(scope="session")
def listening_sockets(
    istio_environment: Environment, istio_workload: str, pytestconfig: pytest.Config
) -> tuple[Socket, ...]:
    """The sockets that listen in the pod, Envoy's, the agent's and the application's, from the kernel."""
    return workloads.once(pytestconfig, istio_workload, "sockets", istio_environment.read_sockets)


@pytest.fixture(scope="session")
def policy_routes(
    istio_environment: Environment, istio_workload: str, pod_rules: PodRules, pytestconfig: pytest.Config
) -> Routings:
    """The pod's policy routes, by family; empty where no rule hands packets over by TPROXY."""
    from pytest_istio_sidecar.checks.policy_routes import uses_tproxy

    if not uses_tproxy(pod_rules):
        return {}
    return workloads.once(pytestconfig, istio_workload, "policy routes", istio_environment.read_policy_routes)


@pytest.fixture(scope="session")
def trace_packet(pod_rules: PodRules, sidecar_pod: SidecarPod) -> Callable[[Packet], Trace]:
    """`trace_packet(packet)`: what everything read from the pod makes of a packet."""
    from pytest_istio_sidecar.netfilter.trace.trace import trace

    return lambda packet: trace(pod_rules, packet, host=sidecar_pod.host)


@pytest.fixture(scope="session")
def send_request(
    istio_environment: Environment, istio_workload: str, pytestconfig: pytest.Config
) -> Callable[..., Observation]:
    """`send_request("inbound", port=80)` sends one real request; what was observed of it.

    Or "outbound", or "localhost", with the `uid` and `gid` of the sender; with `family=6` by IPv6.
    """
    run: Run = run_of(pytestconfig)

    def send(
        kind: RequestKind,
        *,
        port: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        family: Family = 4,
    ) -> Observation:
        observation = istio_environment.send_request(kind, port=port, uid=uid, gid=gid, family=family)
        run.record(
            "observation",
            workload=istio_workload,
            request=kind,
            port=observation.destination.port,
            uid=observation.uid,
            gid=observation.gid,
            captured=observation.captured_by,
            decided=observation.decided,
        )
        return observation

    return send


@pytest.fixture(scope="session")
def istio_evidence(istio_workload: str, pytestconfig: pytest.Config) -> Callable[[], Path]:
    """`istio_evidence()`: this run's folder for evidence, made at the first call.

    With several workloads named, that of the one under test.
    """
    run = run_of(pytestconfig)
    own = run.evidence / workloads.folder_of(pytestconfig, istio_workload)

    def folder() -> Path:
        own.mkdir(parents=True, exist_ok=True)
        run.record("evidence", path=str(run.evidence))
        return own

    return folder
