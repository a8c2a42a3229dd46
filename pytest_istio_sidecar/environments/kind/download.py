"""kind, kubectl and istioctl: named, found on the PATH, or downloaded.

Knows where releases publish their programs and checksums. Does not know what a program is
for. Invariant: nothing is run that was not checked against a published SHA-256, and a
download that was broken off leaves no program behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from pytest_istio_sidecar.environments.kind import messages
from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.istio.versions import checksum, number_of
from pytest_istio_sidecar.machine.progress import Progress

T = TypeVar("T")

MIRROR = "ISTIO_SIDECAR_MIRROR"
"""Environment variable: a server that has the releases' files under the paths of their own servers."""

_LIMIT = 512 * 2**20
"""Bytes beyond which no program here is."""
_CHUNK = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One program of one release, for this machine.

    Attributes:
        url: of the program, or of the archive that has it.
        checksum_url: of the file with its SHA-256.
        archived: whether the program is a file of an archive.
    """

    name: str
    version: str
    url: str
    checksum_url: str
    archived: bool = False

    @property
    def file_name(self) -> str:
        return self.url.rpartition("/")[2]


def release_of(name: str, version: str) -> Release:
    """Where a program of a release is published for this machine.

    Sources: kind.sigs.k8s.io, Quick Start; kubernetes.io, Install Tools; istio/istio,
    release/downloadIstioCtl.sh.
    """
    system = platform.system().lower()
    processor = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    if name == "kind":
        url = (
            f"https://github.com/kubernetes-sigs/kind/releases/download/v{version}/kind-{system}-{processor}"
        )
        return Release(name=name, version=version, url=url, checksum_url=f"{url}.sha256sum")
    if name == "kubectl":
        url = f"https://dl.k8s.io/release/v{version}/bin/{system}/{processor}/kubectl"
        return Release(name=name, version=version, url=url, checksum_url=f"{url}.sha256")
    kind = {"linux": f"linux-{processor}", "darwin": "osx" if processor == "amd64" else f"osx-{processor}"}
    suffix = kind.get(system, system) if number_of(version) >= (1, 6, 0) else "linux"
    url = f"https://github.com/istio/istio/releases/download/{version}/istioctl-{version}-{suffix}.tar.gz"
    return Release(name=name, version=version, url=url, checksum_url=f"{url}.sha256", archived=True)


def find_or_download(
    name: str, version: str, *, given: str | None, option: str, progress: Progress, timeout: float
) -> str:
    """The path of a program: the given one, the one on the PATH, or that of a release.

    Args:
        version: the release that is downloaded where there is none.
        option: by which one can be given, for messages.
        timeout: seconds for each file.

    Raises:
        EnvironmentProblem: the given one is no program, or none could be downloaded.
    """
    path = shutil.which(given or name)
    if path is not None:
        return path
    if given is not None:
        raise EnvironmentProblem(messages.NO_PROGRAM(option=option, program=given))
    return str(download(release_of(name, version), option=option, progress=progress, timeout=timeout))


def download(release: Release, *, option: str, progress: Progress, timeout: float) -> Path:
    """Download a program into the cache, unless it is there.

    Raises:
        EnvironmentProblem: it cannot be had, or is not what its release says.
    """
    from filelock import FileLock

    place = cache_directory() / f"{release.name}-{release.version}"
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f"{place.name}.lock"), timeout=timeout * 2):
        if not place.exists():
            with progress.phase(f"downloading {release.name} {release.version}"):
                _download(release, place, option, progress, timeout)
    return place


def cache_directory() -> Path:
    """Where downloaded programs are kept (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "istio-sidecar"


def _download(release: Release, place: Path, option: str, progress: Progress, timeout: float) -> None:
    wanted = checksum(release.version, release.file_name)
    if wanted is None:
        text = _fetch(
            release, release.checksum_url, lambda answer: answer.read(4096).decode(), option, timeout
        )
        digest = re.search(r"\b[0-9a-fA-F]{64}\b", text)
        if digest is None:
            raise EnvironmentProblem(messages.NO_CHECKSUM(url=release.checksum_url, text=text[:80]))
        wanted = digest[0].lower()
        progress.line(f"SHA-256 {wanted[:12]}… as the release publishes it: {release.checksum_url}")
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        file = Path(folder, "file")
        got = _fetch(release, release.url, lambda answer: _store(answer, file), option, timeout)
        if got != wanted:
            raise EnvironmentProblem(
                messages.OTHER_CHECKSUM(
                    url=release.url, facts=[("wanted", f"SHA-256 {wanted}"), ("got", f"SHA-256 {got}")]
                )
            )
        program = _unpacked(release, file) if release.archived else file
        program.chmod(0o755)
        program.replace(place)


def _store(answer: BinaryIO, file: Path) -> str:
    """Write an answer into a file; its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with file.open("wb") as target:
        while chunk := answer.read(_CHUNK):
            size += len(chunk)
            if size > _LIMIT:
                raise EnvironmentProblem(messages.ANSWER_WITHOUT_END(limit=_LIMIT // 2**20))
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def _unpacked(release: Release, archive: Path) -> Path:
    """The program out of its archive: the file of its name, and nothing else."""
    program = archive.with_name(release.name)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members = (member for member in tar if member.isfile())
            member = next(member for member in members if Path(member.name).name == release.name)
            with tar.extractfile(member) as source, program.open("wb") as target:  # type: ignore[union-attr]
                shutil.copyfileobj(source, target)
    except (tarfile.TarError, StopIteration, OSError) as problem:
        raise EnvironmentProblem(
            messages.NOT_IN_ARCHIVE(url=release.url, program=release.name, problem=problem)
        ) from None
    return program


def _fetch(release: Release, url: str, read: Callable[[BinaryIO], T], option: str, timeout: float) -> T:
    """Read a file of a release, from its server or the mirror of it."""
    source = url
    with contextlib.suppress(KeyError):
        source = re.sub(r"^https://[^/]+", os.environ[MIRROR].rstrip("/"), url)
    if not source.startswith(("https://", "http://")):
        raise EnvironmentProblem(messages.NO_MIRROR(variable=MIRROR, value=os.environ.get(MIRROR)))
    try:
        with urllib.request.urlopen(source, timeout=timeout) as answer:  # noqa: S310 - checked above
            return read(answer)
    except (OSError, ValueError) as problem:
        if isinstance(problem, urllib.error.HTTPError):
            problem.close()
        raise EnvironmentProblem(
            messages.NOT_DOWNLOADED(
                program=release.name,
                version=release.version,
                option=option,
                mirror=MIRROR,
                facts=[("asked", source), ("got", str(problem))],
            )
        ) from None
