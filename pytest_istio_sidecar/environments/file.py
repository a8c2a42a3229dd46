"""Listings saved before, as if they were a pod.

Knows how a listing is named on the command line, and its file read. Does not
know its grammar. Invariant: a file that cannot be used is refused by name.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Self

from pytest_istio_sidecar.environments.base import Environment, NotServed, SidecarPod
from pytest_istio_sidecar.environments.choices import RunChoices
from pytest_istio_sidecar.errors import ParseError, UsageProblem
from pytest_istio_sidecar.istio.observation import RequestKind
from pytest_istio_sidecar.machine.evidence import add_file
from pytest_istio_sidecar.machine.progress import Progress
from pytest_istio_sidecar.netfilter.model import Backend, Family, PodRules, Ruleset, joined
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.netfilter.text.parse import parse_iptables

BACKENDS = {"legacy": Backend.LEGACY, "nft": Backend.NF_TABLES}
LIMIT = 64 * 2**20
"""Bytes beyond which a file is no listing of a pod's rules."""


class FileEnvironment(Environment):
    """The file environment: rules only, no listeners and no traffic."""

    name = "file"
    seconds = 0.0

    def __init__(
        self, *, rules: PodRules, names: Sequence[str], kept: Mapping[str, str] | None = None
    ) -> None:
        """Take listings that were read.

        Args:
            kept: they by file name, where they are evidence, too; most are files of the user's already.
        """
        super().__init__(", ".join(names))
        self._rules = rules
        self._evidence |= kept or {}

    @classmethod
    def bring_up(cls, choices: RunChoices, *, state: Path, owner: int, progress: Progress) -> Self:  # noqa: ARG003
        """Read the listings; each process does so for itself.

        Raises:
            UsageProblem: one that cannot be used.
        """
        rules, texts = read_and_keep(choices.tables, choices.evidence)
        return cls(rules=rules, names=choices.tables, kept=texts if choices.evidence else {})

    @classmethod
    def attach(cls, state: Path) -> NoReturn:
        """Never: nothing is described in `state`."""
        raise AssertionError(state)

    @classmethod
    def take_down(cls, state: Path, evidence: Path, *, keep_it: bool, progress: Progress) -> NoReturn:  # noqa: ARG003
        """Never, as nothing is described in `state`."""
        raise AssertionError(state)

    def describe(self) -> Mapping[str, str]:
        """What was read, for the summary."""
        return {"environment": "file (no traffic, no listeners)", "listing": self.pod_name}

    def runner(self, thing: str) -> NoReturn:
        """Refuse: raises NotServed."""
        raise NotServed(f"the file environment has listings only, no pod to ask for its {thing}")

    def admin(self) -> NoReturn:
        """Refuse: raises NotServed."""
        raise NotServed("the file environment has listings only, no Envoy to ask for its listeners")

    def traffic(self, kind: RequestKind, family: Family) -> NoReturn:  # noqa: ARG002 - none of any
        """Refuse: raises NotServed."""
        raise NotServed(f"the file environment has listings only, nothing to send a {kind} request through")

    def pod(self) -> SidecarPod:
        """A stand-in with the default host: a listing does not tell the pod's addresses."""
        return SidecarPod(name=self.pod_name, host=Host())

    def read_rules(self, folder: Path | None = None) -> PodRules:  # noqa: ARG002 - in the user's files
        """The listings' rules."""
        return self._rules


def read_listings(specifications: Sequence[str]) -> PodRules:
    """Read listings named as `--istio-table` names them: `[ip6:][legacy:|nft:]FILE`, `-` is standard input.

    Raises:
        UsageProblem: a file that is not there, cannot be read, or is named twice.
        ParseError: text that is no listing.
    """
    return read_and_keep(specifications, None)[0]


def read_and_keep(specifications: Sequence[str], folder: Path | None) -> tuple[PodRules, Mapping[str, str]]:
    """Read listings as `read_listings` does; and the texts, by the names of the files that keep them.

    Args:
        folder: where they are kept: rules that came through a pipe are placed there. None: nowhere.
    """
    if len(set(specifications)) < len(specifications):
        raise UsageProblem("a listing is named twice")
    if sum(_file_of(specification)[2] == "-" for specification in specifications) > 1:
        raise UsageProblem("standard input can be one listing only")
    texts: dict[str, str] = {}
    listings: dict[tuple[Family, Backend | None], list[Ruleset]] = {}
    for specification in specifications:
        ruleset = _read(specification, texts, folder)
        same = listings.setdefault((ruleset.family, ruleset.backend), [])
        if any(table.name in other for other in same for table in ruleset.tables):
            raise UsageProblem(
                f"two listings are of the same family (IPv{ruleset.family}) and back end "
                f"({ruleset.backend or 'not said'}): "
                "put 'legacy:' or 'nft:', and 'ip6:' for ip6tables, in front of the file's name"
            )
        same.append(ruleset)
    return PodRules(rulesets=tuple(map(joined, listings.values()))), texts


def _file_of(specification: str) -> tuple[Family, Backend | None, str]:
    """Split a specification; a file whose own name begins like a prefix is written ./ip6:name."""
    family: Family = 4
    backend = None
    name = specification
    if name.startswith("ip6:"):
        family, name = 6, name.removeprefix("ip6:")
    for prefix, known in BACKENDS.items():
        if name.startswith(f"{prefix}:"):
            backend, name = known, name.removeprefix(f"{prefix}:")
            break
    if not name:
        raise UsageProblem(f"{specification!r} names no file; write it as [ip6:][legacy:|nft:]FILE")
    return family, backend, name


def _read(specification: str, texts: dict[str, str], folder: Path | None) -> Ruleset:
    family, backend, name = _file_of(specification)
    source = "<standard input>" if name == "-" else name
    text, again = _text(name, source)
    kept = add_file(texts, "standard-input.txt" if name == "-" else name, text)
    if again:
        place = name
    elif folder is not None:
        place = str(folder / kept)
    else:
        place = source if name == "-" else f"<{name}>"
    try:
        ruleset = parse_iptables(text, family=family, source=place)
    except ParseError as problem:
        problem.source = source  # nothing is kept where reading fails
        raise
    if backend is None or ruleset.backend is backend:
        return ruleset
    if ruleset.backend is not None:
        raise UsageProblem(f"{source} was written by {ruleset.backend}, but is given as {backend}")
    return replace(ruleset, backend=backend)


def _text(name: str, source: str) -> tuple[str, bool]:
    """What a listing says, and whether it says so again: a pipe does not."""
    again = False
    try:
        if name == "-":
            content = sys.stdin.buffer.read(LIMIT + 1)
        else:
            path = Path(name)
            again = stat.S_ISREG(path.stat().st_mode)
            if not again and not stat.S_ISFIFO(path.stat().st_mode):
                raise UsageProblem(f"{name} is not a file")
            with path.open("rb") as file:
                content = file.read(LIMIT + 1)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise UsageProblem(f"cannot read {source}: {reason}") from None
    if len(content) > LIMIT:
        raise ParseError(f"longer than {LIMIT // 2**20} MiB: no listing of a pod's rules", source=source)
    try:
        return content.decode(), again
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise ParseError(
            "not text in UTF-8",
            source=source,
            line=line,
            text=repr(content[problem.start : problem.start + 20]),
            diagnosis="a listing is what iptables-save or iptables -L prints, not an archive or a binary",
        ) from None
