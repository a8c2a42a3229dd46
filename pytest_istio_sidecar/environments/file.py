"""Listings saved before, as if they were a pod.

Knows how a listing is named on the command line, and its file read. Does not
know its grammar. Invariant: a file that cannot be used is refused by name.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from pytest_istio_sidecar.environments import messages
from pytest_istio_sidecar.environments.base import NotServed, SidecarPod
from pytest_istio_sidecar.errors import ParseError, UsageProblem
from pytest_istio_sidecar.istio.observation import RequestKind
from pytest_istio_sidecar.netfilter.model import Backend, Family, PodRules, Ruleset
from pytest_istio_sidecar.netfilter.packet import Host
from pytest_istio_sidecar.netfilter.text.parse import parse_iptables

BACKENDS = {"legacy": Backend.LEGACY, "nft": Backend.NF_TABLES}
LIMIT = 64 * 2**20
"""Bytes beyond which a file is no listing of a pod's rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEnvironment:
    """The file environment: rules only, no listeners and no traffic."""

    rules: PodRules
    names: tuple[str, ...]
    keep: bool = False
    """Whether the listings are evidence, too; they are files of the user's already."""
    name: str = "file"

    def describe(self) -> Mapping[str, str]:
        """What was read, for the summary."""
        return {"environment": "file (no traffic, no listeners)", "listing": ", ".join(self.names)}

    def pod(self) -> SidecarPod:
        """A stand-in with the default host: a listing does not tell the pod's addresses."""
        return SidecarPod(name=", ".join(self.names), host=Host())

    def read_rules(self) -> PodRules:
        """The listings' rules."""
        return self.rules

    def read_replicas(self) -> Mapping[str, PodRules]:
        """None: there is one pod."""
        return {}

    def read_listeners(self) -> NoReturn:
        """Refuse: raises NotServed."""
        raise NotServed(messages.NOT_SERVED(missing="no Envoy to ask for its listeners"))

    def read_sockets(self) -> NoReturn:
        """Refuse: raises NotServed."""
        raise NotServed(messages.NOT_SERVED(missing="no pod to ask for its sockets"))

    def read_policy_routes(self) -> NoReturn:
        """Refuse: raises NotServed."""
        raise NotServed(messages.NOT_SERVED(missing="no pod to ask for its policy routes"))

    def send_request(
        self,
        kind: RequestKind,
        *,
        port: int | None = None,  # noqa: ARG002 - as every environment
        uid: int | None = None,  # noqa: ARG002
        gid: int | None = None,  # noqa: ARG002
        family: Family = 4,  # noqa: ARG002
    ) -> NoReturn:
        """Refuse: raises NotServed."""
        raise NotServed(messages.NOT_SERVED(missing=f"nothing to send a {kind} request through"))

    def evidence(self) -> Mapping[str, str]:
        """The listings, where they are to be kept."""
        sources = [Path(ruleset.source or "") for ruleset in self.rules.rulesets if self.keep]
        return {path.name: path.read_text(encoding="utf-8") for path in sources if path.is_file()}

    def stop(self) -> None:
        """Do nothing: nothing was brought up."""


def read_listings(specifications: Sequence[str]) -> PodRules:
    """Read listings named as `--istio-table` names them: `[ip6:][legacy:|nft:]FILE`, `-` is standard input.

    Raises:
        UsageProblem: a file that is not there, cannot be read, or is named twice.
        ParseError: text that is no listing.
    """
    if len(set(specifications)) < len(specifications):
        raise UsageProblem(messages.LISTING_TWICE())
    if sum(_file_of(specification)[2] == "-" for specification in specifications) > 1:
        raise UsageProblem(messages.INPUT_TWICE())
    rulesets = tuple(_read(specification) for specification in specifications)
    keys = [(ruleset.family, ruleset.backend) for ruleset in rulesets]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageProblem(messages.SAME_FAMILY(family=key[0], backend=key[1] or "not said"))
    return PodRules(rulesets=rulesets)


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


def _read(specification: str) -> Ruleset:
    family, backend, name = _file_of(specification)
    source = "<standard input>" if name == "-" else name
    ruleset = parse_iptables(_text(name, source), family=family, source=source)
    if backend is None or ruleset.backend is backend:
        return ruleset
    if ruleset.backend is not None:
        raise UsageProblem(messages.OTHER_WRITER(source=source, writer=ruleset.backend, backend=backend))
    return replace(ruleset, backend=backend)


def _text(name: str, source: str) -> str:
    try:
        if name == "-":
            content = sys.stdin.buffer.read(LIMIT + 1)
        else:
            path = Path(name)
            if not stat.S_ISREG(path.stat().st_mode) and not stat.S_ISFIFO(path.stat().st_mode):
                raise UsageProblem(messages.NOT_A_FILE(file=name))
            with path.open("rb") as file:
                content = file.read(LIMIT + 1)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise UsageProblem(messages.FILE_NOT_READ(source=source, problem=reason)) from None
    if len(content) > LIMIT:
        raise ParseError(messages.FILE_TOO_LONG(limit=LIMIT // 2**20), source=source)
    try:
        return content.decode()
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise ParseError(
            messages.NOT_UTF8(),
            source=source,
            line=line,
            text=repr(content[problem.start : problem.start + 20]),
        ) from None
