"""Every iptables table of a pod, of both families and both back ends.

Knows which commands read without changing anything, and what their answers are worth.
Does not know Istio. Invariant: "no rules" is said only when every back end was read;
the raw answers are kept beside what was made of them, and rules placed in the files that keep them.

`iptables-*-save` without `-t` walks the tables that are there; with `-t`, and in `iptables -L`,
the legacy one creates the table it is asked for (seen with iptables 1.6 to 1.8.13).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_istio_sidecar.errors import EnvironmentProblem, ParseError
from pytest_istio_sidecar.failure import Advice, advise
from pytest_istio_sidecar.machine.command import CommandResult
from pytest_istio_sidecar.netfilter.kernel.unread import unread_legacy, with_unread_legacy
from pytest_istio_sidecar.netfilter.model import ALL_BUILT_IN, Backend, Family, PodRules, Ruleset, joined
from pytest_istio_sidecar.netfilter.text.parse_list import parse_iptables_list
from pytest_istio_sidecar.netfilter.text.parse_save import parse_iptables_save
from pytest_istio_sidecar.readers import messages
from pytest_istio_sidecar.readers.runner import Runner

_PREFIXES: Mapping[Family, str] = {4: "iptables", 6: "ip6tables"}
_FRONT_ENDS = {Backend.LEGACY: "legacy-save", Backend.NF_TABLES: "nft-save"}
_LISTED_TABLES = ("nat", "mangle", "raw", "filter")
_LEGACY_PRESENT = "tables-legacy tables present"
"""What iptables-nft remarks, on either stream, where the legacy back end has tables too."""
_NO_TABLE = 3
"""Exit status of iptables for a table that the kernel does not have."""
_TRUSTED_SINCE = (1, 8, 8)
"""Older iptables-nft drop conditions that a newer one wrote, silently (netfilter commit c034cf31)."""
_IPTABLES_OWN = re.compile(r"(ip|ip6) (raw|mangle|nat|filter|security)")

_KNOWN = (
    Advice("you must be root", "the command ran without CAP_NET_ADMIN and CAP_NET_RAW", "read as root"),
    Advice("Permission denied", "the command ran without CAP_NET_ADMIN and CAP_NET_RAW", "read as root"),
    Advice(
        "Table does not exist",
        "this kernel has no such table: its module is not loaded, and a pod cannot load one",
        "on the node: sudo modprobe --all ip_tables iptable_nat iptable_mangle iptable_raw",
    ),
    Advice(
        "Could not fetch rule set generation id",
        "the kernel does not let this container at nf_tables: it has no CAP_NET_ADMIN",
        "make istio-proxy privileged, or read from the node",
    ),
    Advice(
        "Another app is currently holding the xtables lock",
        "another program changes or lists the rules at this moment",
        "run it again; if it stays so, look for a process that holds /run/xtables.lock",
    ),
    Advice(
        "can't open lock file",
        "the lock /run/xtables.lock cannot be written here",
        "XTABLES_LOCKFILE=/dev/null (iptables 1.8.6 and newer)",
    ),
    Advice(
        "is incompatible, use 'nft' tool",
        "the table holds rules that iptables did not write",
        "nft list ruleset shows them",
    ),
)
_INCOMPLETE = Advice(
    "",
    "no rule was found, and not every back end has its command in the pod",
    "install iptables 1.8 there, or read from the node",
)


class TablesUnreadable(EnvironmentProblem):
    """The tables of a pod could not be read, so nothing is known about them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TablesReading:
    """What was read, and the answers it was read from."""

    rules: PodRules
    commands: tuple[CommandResult, ...]


def read_tables(
    runner: Runner, *, timeout: float, pod: str = "", folder: Path | None = None
) -> TablesReading:
    """Read every table of both families from every back end of a pod.

    Args:
        timeout: seconds for each command.
        pod: how messages name the pod.
        folder: where the answers are kept, each in its `file`: the rules are placed there. None: nowhere.

    Raises:
        TablesUnreadable: a command failed, or no back end has its command in the pod.
        ParseError: a command answered with something else than a listing.
    """
    version = runner.run(["iptables", "-V"], timeout=timeout)
    commands = [version]
    rulesets: list[Ruleset] = []
    notes: list[str] = []
    unread: list[str] = []
    for family, prefix in _PREFIXES.items():
        has_command = False
        for backend, suffix in _FRONT_ENDS.items():
            result = runner.run([f"{prefix}-{suffix}", "-c"], timeout=timeout)
            commands.append(result)
            if result.missing:
                unread.append(f"{prefix}-{suffix}")
                continue
            has_command = True
            rulesets.append(_ruleset(result, family, backend, pod=pod, folder=folder))
        rulesets += _silent_legacy(rulesets, family, pod)
        if not has_command:
            # Up to 1.6 there is one command for the one back end there was.
            result = runner.run([f"{prefix}-save", "-c"], timeout=timeout)
            commands.append(result)
            if not result.missing:
                rulesets.append(_ruleset(result, family, _default_backend(version), pod=pod, folder=folder))
            elif not version.missing:
                listings = _list(runner, prefix, timeout)
                commands += listings
                rulesets.append(_listed(listings, family, _default_backend(version), pod=pod, folder=folder))
                notes.append(f"only {prefix} -L answers in the pod: what it does not show stays unknown")
    notes += [f"{name} is not in the pod: rules of its back end would not be seen" for name in unread]
    notes += _distrust(rulesets)
    native = runner.run(["nft", "list", "ruleset"], timeout=timeout)
    native_tables: tuple[str, ...] = ()
    if not native.missing:
        commands.append(native)
        native_tables = _native_tables(native)
        notes += _not_checked(native, native_tables)
    if unread and not any(True for ruleset in rulesets for _ in ruleset.rules()):
        raise _unreadable(pod, [result for result in commands if result.missing], _INCOMPLETE)
    rules = PodRules(
        rulesets=tuple(rulesets),
        pod=pod,
        notes=tuple(notes),
        native_tables=native_tables,
        native_read=native.succeeded,
    )
    return TablesReading(rules=rules, commands=tuple(commands))


def _ruleset(
    result: CommandResult, family: Family, backend: Backend, *, pod: str, folder: Path | None
) -> Ruleset:
    if not result.succeeded or "is incompatible, use 'nft' tool" in result.stdout:
        raise _unreadable(pod, [result], advise(result.stderr + result.stdout, _KNOWN))
    beside_legacy = _LEGACY_PRESENT in result.stderr
    if not result.stdout.strip():
        source = _place(result, folder)
        return Ruleset(family=family, backend=backend, source=source, pod=pod, beside_legacy=beside_legacy)
    ruleset = _parsed(parse_iptables_save, result, family, folder)
    if ruleset.backend not in (None, backend):
        raise ParseError(
            messages.OTHER_BACK_END(said=ruleset.backend, backend=backend), source=" ".join(result.argv)
        )
    beside_legacy = beside_legacy or ruleset.beside_legacy
    return replace(ruleset, backend=backend, pod=pod, beside_legacy=beside_legacy)


def _silent_legacy(rulesets: list[Ruleset], family: Family, pod: str) -> Iterator[Ruleset]:
    """The legacy back end where nf_tables' says that it has tables, and its own command is not in the pod."""
    of_family = [ruleset for ruleset in rulesets if ruleset.family == family]
    if len(with_unread_legacy(of_family)) > len(of_family):
        yield replace(unread_legacy(family), pod=pod)


def _parsed(
    parse: Callable[..., Ruleset], result: CommandResult, family: Family, folder: Path | None
) -> Ruleset:
    try:
        return parse(result.stdout, family=family, source=_place(result, folder))
    except ParseError as problem:
        problem.source = " ".join(result.argv)  # nothing is kept of a reading that failed
        raise


def _place(result: CommandResult, folder: Path | None) -> str:
    """The file that keeps an answer."""
    return f"<{' '.join(result.argv)}>" if folder is None else str(folder / result.file)


def _list(runner: Runner, prefix: str, timeout: float) -> list[CommandResult]:
    """The tables one by one, as a pod lists them whose image has nothing that saves them."""
    return [
        runner.run([prefix, "-t", table, "-L", "-n", "-v", "-x"], timeout=timeout) for table in _LISTED_TABLES
    ]


def _listed(
    listings: list[CommandResult], family: Family, backend: Backend, *, pod: str, folder: Path | None
) -> Ruleset:
    """One ruleset of several listings; a table that the kernel does not have holds no rule.

    What was not read are the tables that were not asked for.
    """
    rulesets: list[Ruleset] = []
    for result in listings:
        if "does not exist" in result.stderr and result.exit_status == _NO_TABLE:
            continue
        if not result.succeeded:
            raise _unreadable(pod, [result], advise(result.stderr + result.stdout, _KNOWN))
        rulesets.append(_parsed(parse_iptables_list, result, family, folder))
    whole = joined(rulesets) if rulesets else Ruleset(family=family, source=_place(listings[0], folder))
    unread = frozenset(place for place in ALL_BUILT_IN if place[0] not in _LISTED_TABLES)
    return replace(whole, backend=backend, pod=pod, unread=unread)


def _unreadable(pod: str, results: list[CommandResult], advice: Advice | None) -> TablesUnreadable:
    facts = [fact for result in results for fact in result.facts()]
    return TablesUnreadable(messages.TABLES_NOT_READ(pod=pod or "the pod", facts=facts).advised(advice))


def _default_backend(version: CommandResult) -> Backend:
    return Backend.NF_TABLES if "(nf_tables)" in version.stdout else Backend.LEGACY


def _distrust(rulesets: list[Ruleset]) -> Iterator[str]:
    for ruleset in rulesets:
        if ruleset.backend is not Backend.NF_TABLES or ruleset.writer is None:
            continue
        numbers = tuple(int(number) for number in re.findall(r"\d+", ruleset.writer)[:3])
        if numbers < _TRUSTED_SINCE:
            yield (
                f"iptables {ruleset.writer} read nf_tables: where a newer iptables wrote the rules it may "
                "leave conditions out; compare with nft list ruleset"
            )


def _native_tables(result: CommandResult) -> tuple[str, ...]:
    """The tables that no iptables made."""
    names: list[str] = re.findall(r"^table (\S+ \S+) \{", result.stdout, re.MULTILINE)
    return tuple(name for name in names if not _IPTABLES_OWN.fullmatch(name))


def _not_checked(result: CommandResult, native_tables: tuple[str, ...]) -> Iterator[str]:
    if not result.succeeded:
        said = result.stderr.strip().partition("\n")[0]
        yield f"nft list ruleset failed ({said}): tables of nf_tables' own would not be seen"
    for name in native_tables:
        yield f"nf_tables has the table {name}, which iptables does not show and which was not checked"


def read_counters(runner: Runner, *, timeout: float) -> list[tuple[str, int]]:
    """Every IPv4 rule of both back ends with its packet counter, in order of the listings."""
    counters = []
    for suffix in _FRONT_ENDS.values():
        listing = runner.run([f"iptables-{suffix}", "-c"], timeout=timeout).stdout
        counters += [
            (match["rule"], int(match["packets"]))
            for match in re.finditer(r"^\[(?P<packets>\d+):\d+\] (?P<rule>-A .*)$", listing, re.MULTILINE)
        ]
    return counters
