"""Listings saved before, as if they were a pod.

Knows how a listing is named on the command line, and its file read. Does not
know its grammar. Invariant: a file that cannot be used is refused by name.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Self

from pytest_istio_sidecar.environments import messages
from pytest_istio_sidecar.environments.base import Environment, NotServed, SidecarPod
from pytest_istio_sidecar.environments.choices import RunChoices
from pytest_istio_sidecar.errors import ParseError, UsageProblem
from pytest_istio_sidecar.istio.observation import RequestKind
from pytest_istio_sidecar.machine.evidence import add_file
from pytest_istio_sidecar.machine.progress import Progress
from pytest_istio_sidecar.netfilter.model import Backend, Family, PodRules, Ruleset, joined
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.netfilter.text.parse import parse_iptables
from pytest_istio_sidecar.netfilter.text.parse_save import OWN

BACKENDS = {"legacy": Backend.LEGACY, "nft": Backend.NF_TABLES}
_USUAL = ("raw", "mangle", "nat", "filter")
LIMIT = 64 * 2**20
"""Bytes beyond which a file is no listing of a pod's rules."""


class FileEnvironment(Environment):
    """The file environment: rules only, no listeners and no traffic."""

    name = "file"
    seconds = 0.0

    def __init__(
        self,
        *,
        rules: PodRules,
        names: Sequence[str],
        kept: Mapping[str, str] | None = None,
        host: Host | None = None,
    ) -> None:
        """Take listings that were read.

        Args:
            host: the pod's interfaces, where they were stated.
            kept: they by file name, where they are evidence, too; most are files of the user's already.
        """
        super().__init__(", ".join(names))
        self._rules = rules
        self._host = host or Host()
        self._evidence |= kept or {}

    @classmethod
    def bring_up(cls, choices: RunChoices, *, state: Path, owner: int, progress: Progress) -> Self:  # noqa: ARG003
        """Read the listings; each process does so for itself.

        Raises:
            UsageProblem: one that cannot be used.
        """
        rules, texts = read_and_keep(choices.tables, choices.evidence)
        kept = texts if choices.evidence else {}
        return cls(rules=rules, names=choices.tables, kept=kept, host=Host.of(choices.interfaces))

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
        raise NotServed(messages.NOT_SERVED(missing=f"no pod to ask for its {thing}"))

    def admin(self) -> NoReturn:
        """Refuse: raises NotServed."""
        raise NotServed(messages.NOT_SERVED(missing="no Envoy to ask for its listeners"))

    def traffic(self, kind: RequestKind, family: Family) -> NoReturn:  # noqa: ARG002 - none of any
        """Refuse: raises NotServed."""
        raise NotServed(messages.NOT_SERVED(missing=f"nothing to send a {kind} request through"))

    def pod(self) -> SidecarPod:
        """A stand-in with what was stated of it: a listing does not tell the pod's addresses."""
        return SidecarPod(name=self.pod_name, host=self._host)

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
        raise UsageProblem(messages.LISTING_TWICE())
    if sum(_file_of(specification)[2] == "-" for specification in specifications) > 1:
        raise UsageProblem(messages.INPUT_TWICE())
    texts: dict[str, str] = {}
    listings = [_read(specification, texts, folder) for specification in specifications]
    notes = tuple(_alone(listings[0], *texts.values())) if len(listings) == 1 else ()
    return PodRules(rulesets=tuple(map(joined, _by_back_end(listings))), notes=notes), texts


def _by_back_end(listings: Sequence[Ruleset]) -> list[list[Ruleset]]:
    """Listings of each family and back end together; where one does not say which it is, with the others."""
    groups: dict[tuple[Family, Backend | None], list[Ruleset]] = {}
    for listing in listings:
        same = groups.setdefault((listing.family, listing.backend), [])
        for other in same:
            _refuse_twice(listing, other)
        same.append(listing)
    for family, backend in list(groups):
        if backend is not None:
            continue
        said = [groups[key] for key in groups if key[0] == family and key[1] is not None]
        unsaid = groups[family, None]
        if len(said) > 1:
            raise UsageProblem(messages.BACK_END_NOT_SAID(file=unsaid[0].source))
        if said and not any(_shared(one, other) for one in unsaid for other in said[0]):
            said[0].extend(unsaid)
            del groups[family, None]
    return list(groups.values())


def _shared(one: Ruleset, other: Ruleset) -> str:
    """A table that both have, or ""."""
    return next((table.name for table in one.tables if table.name in other), "")


def _refuse_twice(listing: Ruleset, other: Ruleset) -> None:
    table = _shared(listing, other)
    if table:
        backend = listing.backend
        raise UsageProblem(
            messages.SAME_FAMILY(
                family=listing.family,
                backend=backend or "not said",
                first=other.source,
                second=listing.source,
                table=table,
                fix=messages.TWO_BACK_ENDS if backend is None else messages.ONE_BACK_END,
            )
        )


def _alone(listing: Ruleset, text: str) -> Iterator[str]:
    """What is to be known of one whole text that lacks tables."""
    names = [table.name for table in listing.tables]
    whole = names and not listing.unread and not text.startswith(OWN)
    if whole and any(table not in names for table in _USUAL):
        yield f"{' and '.join(names)} only {'was' if len(names) == 1 else 'were'} given"


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
        raise UsageProblem(messages.NO_FILE(text=specification))
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
        raise UsageProblem(messages.OTHER_WRITER(source=source, writer=ruleset.backend, backend=backend))
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
                raise UsageProblem(messages.NOT_A_FILE(file=name))
            with path.open("rb") as file:
                content = file.read(LIMIT + 1)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise UsageProblem(messages.FILE_NOT_READ(source=source, problem=reason)) from None
    if len(content) > LIMIT:
        raise ParseError(messages.FILE_TOO_LONG(limit=LIMIT // 2**20), source=source)
    try:
        return content.decode(), again
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise ParseError(
            messages.NOT_UTF8(),
            source=source,
            line=line,
            text=repr(content[problem.start : problem.start + 20]),
        ) from None
