"""Listings saved before, as if they were a pod.

Knows how a listing is named on the command line, and its file or folder read. Does not
know its grammar. Invariant: a file that cannot be used is refused by name.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn, Self

from pytest_istio_sidecar.environments import messages
from pytest_istio_sidecar.environments.base import Environment, NotServed, SidecarPod
from pytest_istio_sidecar.environments.choices import RunChoices
from pytest_istio_sidecar.errors import ParseError, UsageProblem
from pytest_istio_sidecar.istio.observation import RequestKind
from pytest_istio_sidecar.istio.options import IstioOptions
from pytest_istio_sidecar.istio.pod_options import PodUsers
from pytest_istio_sidecar.machine.evidence import add_file
from pytest_istio_sidecar.machine.given_file import NotText, decoded
from pytest_istio_sidecar.machine.progress import Progress
from pytest_istio_sidecar.netfilter.kernel.unread import with_unread_partners
from pytest_istio_sidecar.netfilter.messages import TEXT_EMPTY
from pytest_istio_sidecar.netfilter.model import Backend, Family, PodRules, Ruleset, joined
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.netfilter.text.forms import read_text
from pytest_istio_sidecar.netfilter.text.nft_join import beside
from pytest_istio_sidecar.netfilter.text.parse_save import OWN
from pytest_istio_sidecar.netfilter.text.state import LOADED

BACKENDS = {"legacy": Backend.LEGACY, "nft": Backend.NF_TABLES, "native": Backend.NF_TABLES}
"""What stands in front of a file's name; nft: and native: are two views of one back end."""
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
        given: Given,
        names: Sequence[str],
        keep: bool = False,
        host: Host | None = None,
        assumed: str = "",
    ) -> None:
        """Take listings that were read.

        Args:
            host: the pod's interfaces, where they were stated.
            keep: whether they are evidence, too; most are files of the user's already.
            assumed: the release that the pod is taken to be of where nothing tells it.
        """
        super().__init__(given.rules.pod or ", ".join(names))
        self._given = given
        self._names = names
        self._host = host or Host()
        self._assumed = "" if given.version else assumed
        if keep:
            self._evidence |= given.texts

    @classmethod
    def bring_up(cls, choices: RunChoices, *, state: Path, owner: int, progress: Progress) -> Self:  # noqa: ARG003
        """Read the listings; each process does so for itself.

        Raises:
            UsageProblem: one that cannot be used.
        """
        given = read_given(choices.tables, choices.evidence)
        keep = choices.evidence is not None
        assumed = "" if choices.version_given else choices.version
        host = Host.of(choices.interfaces)
        return cls(given=given, names=choices.tables, keep=keep, host=host, assumed=assumed)

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
        pod = {"pod": self.pod_name} if self._given.rules.pod else {}
        listing = ", ".join(self._names)
        release = f"taken to be Istio {self._assumed}, as nothing tells it; --istio-version names another"
        told = {"release": release} if self._assumed else {}
        return {"environment": "file (no traffic, no listeners)", "listing": listing, **pod, **told}

    @property
    def istio_version(self) -> str | None:
        """The release of the pod that a folder is of; None where nothing tells it."""
        return self._given.version

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
        options = self._given.options or IstioOptions()
        return SidecarPod(name=self.pod_name, host=self._host, options=options, users=self._given.users)

    def read_rules(self, folder: Path | None = None) -> PodRules:  # noqa: ARG002 - in the user's files
        """The listings' rules."""
        return self._given.rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was named on the command line, read.

    Attributes:
        rules: all of it.
        alone: those of its notes that say which tables alone were given.
        texts: the texts, by the names of the files that keep them.
        version: the release of the pod that it is of; None where nothing tells it.
        options: what its istio-init was told; None the same.
        users: as whom its containers run, as far as that is told.
    """

    rules: PodRules
    alone: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    version: str | None = None
    options: IstioOptions | None = None
    users: PodUsers = field(default_factory=PodUsers)


def read_given(specifications: Sequence[str], folder: Path | None = None) -> Given:
    """Read what `--istio-table` and RULES name: `[ip6:][legacy:|nft:|native:]FILE`, or one FOLDER.

    A file is a text of any form, `-` standard input; a folder is one that this product wrote.

    Args:
        folder: where the texts are kept: rules that came through a pipe are placed there. None: nowhere.

    Raises:
        UsageProblem: a file that is not there, cannot be read, or is named twice.
        ParseError: text that is no listing, or not a whole one.
        EnvironmentProblem: a folder has not enough to say that a back end holds no rule.
    """
    if len(set(specifications)) < len(specifications):
        raise UsageProblem(messages.LISTING_TWICE())
    named = [_file_of(specification) for specification in specifications]
    if sum(name == "-" for _, _, name in named) > 1:
        raise UsageProblem(messages.INPUT_TWICE())
    for specification, (_, _, name) in zip(specifications, named, strict=True):
        if name != "-" and _is_folder(name):
            if len(named) > 1 or name != specification:
                raise UsageProblem(messages.FOLDER_ALONE(folder=name))
            return _of_folder(Path(name))
    texts: dict[str, str] = {}
    read = [
        _read(specification, texts, folder, beside=len(specifications) > 1)
        for specification in specifications
    ]
    if not any(rules.rulesets or rules.native_tables for rules in read):
        raise ParseError(TEXT_EMPTY(), source=", ".join(specifications))
    notes = [
        f"{name}: {note}" if len(named) > 1 else note
        for (_, _, name), rules in zip(named, read, strict=True)
        for note in rules.notes
    ]
    listings: list[Ruleset] = []
    natives: list[Ruleset] = []
    for rules in read:
        for listing in rules.rulesets:
            by_nft = rules.native_read and listing.backend is Backend.NF_TABLES
            (natives if by_nft else listings).append(listing)
    single = len(named) == len(listings) == 1 and not natives and LOADED not in notes
    alone = tuple(_alone(listings[0], *texts.values())) if single else ()
    whole = PodRules(rulesets=tuple(map(joined, _by_back_end(listings))))
    if natives:
        whole = beside(PodRules(rulesets=tuple(map(joined, _by_back_end(natives)))), whole.rulesets)
    return Given(
        rules=replace(
            whole,
            rulesets=with_unread_partners(whole.rulesets),
            notes=(*alone, *notes, *whole.notes),
            native_read=bool(natives),
        ),
        alone=alone,
        texts=texts,
    )


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


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def _of_folder(path: Path) -> Given:
    from pytest_istio_sidecar.environments.evidence_folder import read_folder

    kept = read_folder(path)
    return Given(
        rules=kept.rules, texts=kept.texts, version=kept.version, options=kept.options, users=kept.users
    )


def _file_of(specification: str) -> tuple[Family | None, Backend | None, str]:
    """Split a specification; a file whose own name begins like a prefix is written ./ip6:name."""
    family: Family | None = None
    backend = None
    name = specification
    while True:
        prefix, colon, rest = name.partition(":")
        if colon and prefix == "ip6" and family is None:
            family, name = 6, rest
        elif colon and prefix in BACKENDS and backend is None:
            backend, name = BACKENDS[prefix], rest
        else:
            break
    if not name:
        raise UsageProblem(messages.NO_FILE(text=specification))
    return family, backend, name


def _read(specification: str, texts: dict[str, str], folder: Path | None, *, beside: bool) -> PodRules:
    """Read one file.

    Args:
        beside: whether there are others: then an empty one only leaves its back end unread.
    """
    family, backend, name = _file_of(specification)
    source = "<standard input>" if name == "-" else name
    text, again, remark = _text(name, source)
    if beside and not text.strip():
        return PodRules(
            rulesets=(), notes=("empty, as where a back end has no table or the command failed: not read",)
        )
    kept = add_file(texts, "standard-input.txt" if name == "-" else name, text)
    if again:
        place = name
    elif folder is not None:
        place = str(folder / kept)
    else:
        place = source if name == "-" else f"<{name}>"
    try:
        rules = read_text(text, family=family, backend=backend, source=place)
    except ParseError as problem:
        problem.source = source  # nothing is kept where reading fails
        raise
    for ruleset in rules.rulesets:
        if backend not in (None, ruleset.backend):
            raise UsageProblem(messages.OTHER_WRITER(source=source, writer=ruleset.backend, backend=backend))
    return replace(rules, notes=(remark, *rules.notes)) if remark else rules


def _text(name: str, source: str) -> tuple[str, bool, str]:
    """What a listing says, whether it says so again, as a pipe does not, and what is to be said of it."""
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
        text, remark = decoded(content)
    except NotText as problem:
        failure = messages.NOT_UTF8(what=problem.what)
        raise ParseError(failure, source=source, line=problem.line, text=problem.text) from None
    return text, again, remark
