"""The test bed for `make cluster-test`: its engine, a node image, and the labelled doubles of Istio.

The test bed is beside the checkout or where ISTIO_SIDECAR_TESTBED_DIRECTORY says; without
it these tests skip, and for no other reason. Nothing outside `tests/cluster` knows of it.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from ground import (
    CHECKOUT,
    DOUBLE,
    HTTPBIN,
    KUBERNETES,
    LAB_VERSION,
    RUN,
    Cluster,
    Lab,
    Testbed,
    kind_cluster,
    new_name,
    write_istioctl,
)


def program_of_the_testbed() -> Path:
    given = os.environ.get("ISTIO_SIDECAR_TESTBED_DIRECTORY")
    return (Path(given) if given else CHECKOUT.parent / "shared" / "testbed") / "testbed"


ENGINE_RAN = pytest.StashKey[bool]()


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        session.config.stash[ENGINE_RAN] = _succeeds(["docker", "info"])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Whoever started the engine stops it, once no worker needs it; what a killed worker left, goes."""
    program = program_of_the_testbed()
    if hasattr(session.config, "workerinput") or not program.is_file() or not _succeeds(["docker", "info"]):
        return
    if not session.config.stash.get(ENGINE_RAN, True):
        subprocess.run([program, "down"], check=False, timeout=120)
        return
    nodes = _containers(f"-{RUN}-")
    if nodes:
        subprocess.run(["docker", "rm", "--force", "--volumes", *nodes], check=False, timeout=120)


@pytest.fixture(scope="session")
def testbed(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Testbed:
    program = program_of_the_testbed()
    if not program.is_file():
        pytest.skip(
            f"there is no test bed at {program.parent}; ISTIO_SIDECAR_TESTBED_DIRECTORY names another place"
        )
    # The first start compiles Kubernetes, for longer than what pytest takes for a deadlock.
    faulthandler.cancel_dump_traceback_later()
    ours = tmp_path_factory.getbasetemp()
    shared = ours if worker_id == "master" else ours.parent
    with FileLock(shared / "testbed.lock"):
        if not (shared / "testbed-is-up").exists():
            # Where everything is there it takes no time, and kubectl becomes that of this release.
            subprocess.run([program, "up", KUBERNETES], check=True, timeout=3600)
            (shared / "testbed-is-up").touch()
    answer = subprocess.run([program, "env"], check=True, capture_output=True, text=True, timeout=30).stdout
    # one line: export PATH=…:$PATH
    place = answer.partition("PATH=")[2].partition(":$PATH")[0]
    environment = {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}
    return Testbed(directory=program.parent, environment=environment)


def _succeeds(argv: Sequence[str]) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _containers(part: str) -> list[str]:
    """The engine's containers with a part in their names."""
    argv = ["docker", "ps", "--all", "--quiet", f"--filter=name={part}"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout.split()


@pytest.fixture(scope="session")
def istio_images(testbed: Testbed) -> Callable[[str], tuple[str, ...]]:
    """Builds the double's images of a version, once."""
    built: dict[str, tuple[str, ...]] = {}

    def build(version: str) -> tuple[str, ...]:
        if version not in built:
            argv = (sys.executable, DOUBLE / "images.py", version)
            built[version] = tuple(testbed.run(*argv).stdout.split())
        return built[version]

    return build


@pytest.fixture
def istioctl(tmp_path: Path) -> Callable[..., Path]:
    """Writes an `istioctl` of a version, with a fault or without: the double under the real one's name."""

    def write(version: str = LAB_VERSION, fault: str = "", delay: float = 4) -> Path:
        return write_istioctl(tmp_path, version, fault, delay)

    return write


@pytest.fixture(scope="session")
def cluster(testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with kind_cluster(testbed, tmp_path_factory.mktemp("cluster")) as made:
        made.load([HTTPBIN])
        yield made


PRODUCTION = """apiVersion: v1
kind: Config
current-context: production
clusters: [{name: production, cluster: {server: "http://127.0.0.1:PORT"}}]
contexts: [{name: production, context: {cluster: production, user: somebody}}]
users: [{name: somebody, user: {token: not-a-token}}]
"""


@pytest.fixture(scope="module")
def production() -> Iterator[str]:
    """A kubeconfig whose current context is someone's production, which is never asked anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield PRODUCTION.replace("PORT", str(server.getsockname()[1]))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.fixture(scope="module")
def make_lab(
    testbed: Testbed,
    istio_images: Callable[[str], tuple[str, ...]],
    tmp_path_factory: pytest.TempPathFactory,
    production: str,
) -> Iterator[Callable[..., Lab]]:
    """Makes labs on clusters of any name; what becomes of the clusters is for who names them."""
    made: list[Lab] = []

    def make(
        name: str,
        version: str = LAB_VERSION,
        fault: str = "",
        delay: float = 4,
        options: tuple[str, ...] = (),
        images: tuple[str, ...] | None = None,
    ) -> Lab:
        directory = tmp_path_factory.mktemp("lab")
        (directory / "runtime").mkdir(mode=0o700)
        (directory / "production.kubeconfig").write_text(production)
        lab = Lab(
            testbed=testbed,
            directory=directory,
            istioctl=write_istioctl(directory, version, fault, delay),
            version=version,
            images=(*istio_images(version), HTTPBIN) if images is None else images,
            name=name,
            options=options,
        )
        made.append(lab)
        return lab

    yield make
    for one in made:
        one.kill_runs()
    assert all(one.production.read_text() == production for one in made)


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Iterator[Callable[..., Lab]]:
    """Makes labs that have their clusters made; whatever their runs leave, their clusters go."""
    made: list[Lab] = []

    def make(**arguments: Any) -> Lab:
        made.append(make_lab(new_name("lab"), **arguments))
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.delete()


@pytest.fixture
def standing_lab(
    cluster: Cluster, make_lab: Callable[..., Lab], istio_images: Callable[[str], tuple[str, ...]]
) -> Callable[..., Lab]:
    """Makes a lab in the tests' one cluster, emptied first: its runs reuse the cluster, and leave it.

    Its node has the images, and sidecars that go drain for one second instead of five.
    """

    def make(version: str = LAB_VERSION, **arguments: Any) -> Lab:
        cluster.empty()
        cluster.load(istio_images(version))
        options = (
            "--istio-reuse",
            f"--istio-namespace=lab-{uuid.uuid4().hex[:6]}",
            "--istio-set=meshConfig.defaultConfig.terminationDrainDuration=1s",
        )
        return make_lab(cluster.name, version=version, options=options, images=(), **arguments)

    return make
