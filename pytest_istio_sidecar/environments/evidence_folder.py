"""A folder that this product wrote, read again as the pod it was read from.

Knows which files are kept of a reading, and how one that is empty is told from one that was never read.
Does not know what the rules say. Invariant: the same answers are read in the same manner as from the pod.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_istio_sidecar.environments import messages
from pytest_istio_sidecar.environments.cluster.init_log import FILE as LOG
from pytest_istio_sidecar.environments.cluster.workload import istio_version_of
from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.pod_options import PodUsers, users_of
from pytest_istio_sidecar.machine.command import NOT_FOUND, CommandResult
from pytest_istio_sidecar.machine.redaction import REMOVED
from pytest_istio_sidecar.machine.state_file import Json
from pytest_istio_sidecar.netfilter.model import PodRules
from pytest_istio_sidecar.netfilter.text.forms import read_text
from pytest_istio_sidecar.readers.tables import read_tables

POD = "pod.json"
LIMIT = 64 * 2**20
"""Bytes beyond which a file is no answer of a pod."""
_TABLES = re.compile(r"ip6?tables(?:-legacy|-nft)?-save(?:_-?c)?|ip6?tables_.*L.*|nft_.*list_ruleset")
_ERRORS = (".stderr.txt", ".txt.stderr")
_REMARK = re.compile(r"# Warning: |exit 0$|$")
"""A line on standard error of a command that succeeded."""
_ABSENT = re.compile(r"not found|No such file|executable file|exit 127$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a folder tells.

    Attributes:
        rules: every table, empty ones that were read among them.
        version: the release of the pod's sidecar; None where that is not told.
        options: what istio-init was told; None where that is not.
        users: as whom the pod's containers run, as far as that is told.
        texts: the files that were read, by name.
    """

    rules: PodRules
    version: str | None
    options: IstioOptions | None
    users: PodUsers
    texts: Mapping[str, str]


def read_folder(folder: Path) -> Evidence:
    """Read a folder that `istio-sidecar read`, a run of the suite or one of its failing tests wrote.

    Raises:
        UsageProblem: it is none, or one of its files cannot be read.
        EnvironmentProblem: it has not enough to say that a back end holds no rule.
        ParseError: one of its files is no listing.
    """
    kept = _Kept(folder)
    if not any(_TABLES.fullmatch(name) for name in kept.names) and not (folder / LOG).is_file():
        raise UsageProblem(messages.NO_EVIDENCE(folder=folder, inside=_inside(folder)))
    pod = _pod(folder)
    name = "" if pod is None else f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    if any(_TABLES.fullmatch(name) for name in kept.names):
        rules = read_tables(kept, timeout=0.0, pod=name, folder=folder).rules
    else:
        rules = read_text(kept.text(folder / LOG), source=str(folder / LOG))
        rules = replace(rules, pod=name)
    return Evidence(
        rules=rules,
        version=None if pod is None else istio_version_of(pod),
        options=None if pod is None else _options(pod),
        users=PodUsers() if pod is None else users_of(pod),
        texts=kept.read,
    )


class _Answer(CommandResult):
    """An answer that a file keeps."""

    _file: str

    @property
    def file(self) -> str:
        return self._file

    def __init__(self, argv: Sequence[str], file: str, stdout: str, stderr: str, status: int) -> None:
        super().__init__(argv=tuple(argv), exit_status=status, stdout=stdout, stderr=stderr, seconds=0.0)
        object.__setattr__(self, "_file", file)


class _Kept:
    """Answers commands from files; a command that was not kept is one that the pod does not have."""

    def __init__(self, folder: Path) -> None:
        self.read: dict[str, str] = {}
        self._folder = folder
        try:
            self.names = {
                _plain(path.name.removesuffix(".txt")): path for path in sorted(folder.glob("*.txt"))
            }
        except OSError as problem:
            raise UsageProblem(messages.FILE_NOT_READ(source=folder, problem=problem.strerror)) from None

    def run(self, argv: Sequence[str], *, timeout: float) -> CommandResult:  # noqa: ARG002 - it is here
        name = "_".join(word.strip("-") for word in argv)
        path = self.names.get(name)
        stdout = "" if path is None else self.text(path)
        stderr = self._errors(path or self._folder / f"{name}.txt")
        if path is None:
            status = NOT_FOUND
        elif stdout.strip() or all(map(_REMARK.match, stderr.splitlines())):
            status = 0
        else:
            status = NOT_FOUND if _ABSENT.search(stderr) else 1
        file = f"{name}.txt" if path is None else path.name
        return _Answer(argv, file, stdout, stderr, status)

    def text(self, path: Path) -> str:
        try:
            if path.stat().st_size > LIMIT:
                raise UsageProblem(messages.FILE_NOT_READ(source=path, problem="it is too long"))
            text = path.read_bytes().decode(errors="backslashreplace")
        except OSError as problem:
            raise UsageProblem(messages.FILE_NOT_READ(source=path, problem=problem.strerror)) from None
        self.read[path.name] = text
        return text

    def _errors(self, path: Path) -> str:
        for suffix in _ERRORS:
            errors = path.with_name(path.name.removesuffix(".txt") + suffix)
            if errors.is_file():
                return self.text(errors)
        return ""


def _plain(stem: str) -> str:
    """A file's name as `CommandResult.file` writes it, which left a word's dashes in it once."""
    return "_".join(word.strip("-") for word in stem.split("_"))


def _inside(folder: Path) -> str:
    """The folder in it that may be meant: a run's, the newest."""
    runs = sorted(
        (path.parent for path in folder.glob("*/*save*.txt")), key=lambda path: path.stat().st_mtime
    )
    return f"; {runs[-1]} is one" if runs else ""


def _pod(folder: Path) -> Json | None:
    """The pod as the API server had it, as far as that is kept; None where it is not."""
    try:
        pod = json.loads((folder / POD).read_text(encoding="utf-8"))
        pod["metadata"]["namespace"], pod["metadata"]["name"], pod["spec"]["containers"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as problem:
        raise UsageProblem(messages.FILE_NOT_READ(source=folder / POD, problem=problem)) from None
    return pod  # type: ignore[no-any-return]


def _options(pod: Json) -> IstioOptions | None:
    """What istio-init was told; a variable whose value was not kept is as if it were not there."""
    spec = pod["spec"]
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        variables = container.get("env") or []
        container["env"] = [variable for variable in variables if variable.get("value") != REMOVED]
    try:
        return IstioOptions.from_pod(pod)
    except UsageProblem:
        return None
