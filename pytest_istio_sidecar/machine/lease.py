"""Leases: who made what on this machine, so that it is found again after a crash.

A lease is a file beside the directory it speaks for, and is there before the
directory is. Knows owners and directories. Does not know what is in them.
Invariant: nothing is removed while the process that owns it lives.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_istio_sidecar.errors import EnvironmentProblem
from pytest_istio_sidecar.machine import messages
from pytest_istio_sidecar.machine.process import PROCESS, ProcessIdentity
from pytest_istio_sidecar.machine.state_file import (
    UNFINISHED,
    Shape,
    StateUnreadable,
    read_state,
    write_state,
)

_UNFINISHED_SECONDS = 60.0
_CLAIM_SECONDS = 10.0
_SHAPE: Shape = {"kind": str, "owner": PROCESS, "created": int | float}
_SUPERVISOR = "supervisor.json"

CLUSTER, EDIT = "kind", "edit"
"""Kinds of leases for what is not on this machine alone: a cluster, an edit in a cluster of the user's.
Removing those takes time and is never done by the way: `istio-sidecar clean` does."""

KEPT = "kept"
"""What its run left on purpose; not removed by the way either."""


def leases_directory() -> Path:
    """The place of this user's leases, made when it is not there.

    Raises:
        EnvironmentProblem: it is there, but others can write to it.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_private(Path(runtime)):
        place = Path(runtime) / "istio-sidecar"
    else:
        place = Path("/tmp") / f"istio-sidecar-{os.getuid()}"  # noqa: S108 - checked below
    place.mkdir(mode=0o700, exist_ok=True)
    if not _is_private(place):
        raise EnvironmentProblem(messages.PLACE_NOT_PRIVATE(place=place))
    return place


def _is_private(place: Path) -> bool:
    try:
        status = place.lstat()
    except OSError:
        return False
    return status.st_uid == os.getuid() and not status.st_mode & 0o077


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One directory and the process for whose sake it exists.

    Attributes:
        kind: what it is, in a word: "embedded".
        owner: with this process's end the right to the directory ends.
        directory: what the lease speaks for; made by who took the lease, removed with it.
        created: seconds since the epoch.
    """

    kind: str
    owner: ProcessIdentity
    directory: Path
    created: float

    @classmethod
    def of(cls, kind: str, owner: int, *, name: str | None = None) -> Lease:
        """A lease for a directory of this name, or of a new one; nothing is written yet.

        Raises:
            EnvironmentProblem: the owner has ended already.
        """
        identity = ProcessIdentity.of(owner)
        if identity is None:
            raise EnvironmentProblem(messages.OWNER_HAS_ENDED(pid=owner, kind=kind))
        directory = leases_directory() / (name or f"{kind}-{os.urandom(4).hex()}")
        return cls(kind=kind, owner=identity, directory=directory, created=time.time())

    def write(self) -> None:
        """Put the lease on file: before its directory is made. Several processes may do so at once."""
        write_state(self.path, {**asdict(self), "directory": str(self.directory)})

    @property
    def path(self) -> Path:
        return self.directory.with_name(f"{self.directory.name}.json")

    @property
    def stale(self) -> bool:
        """Whether the owner has ended."""
        return not self.owner.alive

    def claim(self) -> Lease | None:
        """Write it, unless another process has a lease for this directory and goes on.

        Returns:
            The lease that was there: not stale, nothing was written; stale, its directory may be there still.
        """
        with _claiming():
            earlier = next((lease for lease in leases() if lease.directory == self.directory), None)
            if earlier is None or earlier.stale:
                self.write()
        return earlier

    def give_back(self, earlier: Lease | None) -> None:
        """Leave things as they were before `claim`, which returned `earlier`."""
        if earlier is None:
            self.release()
        else:
            earlier.write()

    def release(self) -> None:
        """Remove the directory, then the lease; both may be gone already."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def _claiming() -> Iterator[None]:
    """Alone among this user's processes that look whether a lease is free and then take it.

    The lock is on the leases' directory: it leaves no file, and the kernel frees it when its holder dies.

    Raises:
        EnvironmentProblem: another process holds it, for longer than looking takes.
    """
    descriptor = os.open(leases_directory(), os.O_RDONLY)
    deadline = time.monotonic() + _CLAIM_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EnvironmentProblem(
                        messages.LEASES_TAKEN(folder=leases_directory(), seconds=_CLAIM_SECONDS)
                    ) from None
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def leases() -> Iterator[Lease]:
    """Every lease of this user; what is no lease is passed over."""
    place = leases_directory()
    for path in sorted(place.glob("*.json")):
        with contextlib.suppress(StateUnreadable):
            written = read_state(path, _SHAPE)
            yield Lease(
                kind=written["kind"],
                owner=ProcessIdentity.read(written["owner"]),
                # By the file's own name: what a lease says must not lead out of its directory.
                directory=path.with_suffix(""),
                created=float(written["created"]),
            )


def clean_stale(*, kept: bool = False) -> list[str]:
    """Remove what crashed runs left behind; returns what it removed, in words.

    Args:
        kept: also what runs left on purpose.
    """
    removed = []
    for unfinished in leases_directory().glob(f"*{UNFINISHED}"):
        # Writing one takes no time; who was at it so long ago was killed then.
        with contextlib.suppress(FileNotFoundError):
            if time.time() - unfinished.stat().st_mtime > _UNFINISHED_SECONDS:
                unfinished.unlink()
                removed.append(f"{unfinished} (a lease that was never finished)")
    for lease in leases():
        if not lease.stale or lease.kind in (CLUSTER, EDIT) or (lease.kind == KEPT and not kept):
            continue
        supervisor = read_supervisor(lease.directory)
        if supervisor is not None:
            supervisor.end()
        what = "" if lease.directory.exists() else "the lease of a folder that is gone, "
        lease.release()
        removed.append(
            f"{what}{lease.directory} ({lease.kind}, of process {lease.owner.pid}, which has ended)"
        )
    return removed


def write_supervisor(directory: Path, process: ProcessIdentity) -> None:
    """Note beside what it keeps alive which process has to be ended first."""
    write_state(directory / _SUPERVISOR, asdict(process))


def read_supervisor(directory: Path) -> ProcessIdentity | None:
    """The process that keeps a directory's environment alive; None when none was noted."""
    try:
        return ProcessIdentity.read(read_state(directory / _SUPERVISOR, PROCESS))
    except StateUnreadable:
        return None
