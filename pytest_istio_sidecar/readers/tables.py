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
from pytest_istio_sidecar.netfilter.kernel.hooks import AT_DEVICES
from pytest_istio_sidecar.netfilter.kernel.unread import NFT_UNREAD, unread_legacy, with_unread_legacy
from pytest_istio_sidecar.netfilter.model import (
    ALL_BUILT_IN,
    Backend,
    Family,
    PodRules,
    Ruleset,
    Table,
    joined,
)
from pytest_istio_sidecar.netfilter.text.nft_join import joined_with
from pytest_istio_sidecar.netfilter.text.nft_text import parse_nftables
from pytest_istio_sidecar.netfilter.text.parse_list import parse_iptables_list
from pytest_istio_sidecar.netfilter.text.parse_save import INCOMPATIBLE, parse_iptables_save
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
_LET_NFT = "let nft be run: --istio-reader=node or debug, where nft is installed"
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
    Advice(INCOMPATIBLE, "the table holds chains or rules that iptables did not write", _LET_NFT),
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
    native, answers = _natively(runner, timeout, folder)
    commands = [version, *answers]
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
            beside_nft = native is not None and backend is Backend.NF_TABLES
            if beside_nft and not result.succeeded:
                notes.append(f"{prefix}-{suffix} failed: nft's listing alone counts")
                continue
            read = _ruleset(result, family, backend, pod=pod, folder=folder, beside_nft=beside_nft)
            rulesets.append(read)
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
    rules = _joined(native, rulesets, answers[-1], commands, pod)
    by_nft = ("-nft-save",) if rules.native_read else ()
    notes += [
        f"{name} is not in the pod: rules of its back end would not be seen"
        for name in unread
        if not name.endswith(by_nft)
    ]
    if unread and not any(True for ruleset in rules.rulesets for _ in ruleset.rules()):
        raise _unreadable(pod, [result for result in commands if result.missing], _INCOMPLETE)
    return TablesReading(rules=replace(rules, notes=(*notes, *rules.notes)), commands=tuple(commands))


def _natively(
    runner: Runner, timeout: float, folder: Path | None
) -> tuple[PodRules | None, list[CommandResult]]:
    """What nft shows of nf_tables, None where it cannot be run; and its answers, the one that counts last.

    Its text, where it has no JSON (as in Istio's distroless images of 1.31), or its JSON breaks off or does
    not tell whether a table is dormant, or at which devices its chains hang (nft 1.0.6).

    Raises:
        ParseError: what it prints is no listing in either form.
    """
    answers = [runner.run(["nft", "-j", "list", "ruleset"], timeout=timeout)]
    rules, problem = _parsed_natively(answers[0], folder)
    if rules is not None and not any(_is_doubtful(table) for each in rules.rulesets for table in each.tables):
        return rules, answers
    answers.append(runner.run(["nft", "list", "ruleset"], timeout=timeout))
    as_text, of_text = _parsed_natively(answers[1], folder)
    if rules is not None:
        return rules if as_text is None else _hanging_as(rules, as_text), answers[::-1]
    if as_text is not None:
        return as_text, answers
    if of_text or problem:
        raise of_text or problem  # type: ignore[misc]
    return None, answers


def _is_doubtful(table: Table) -> bool:
    """Whether JSON does not tell whether, or where, chains of a table hang."""
    hanging = (chain.registered for chain in table.chains if chain.registered is not None)
    return table.dormant is None or any(at.hook in AT_DEVICES and not at.devices for at in hanging)


def _hanging_as(rules: PodRules, as_text: PodRules) -> PodRules:
    """The rules of JSON, which shows more of each, hanging where the text tells."""

    def hanging(ruleset: Ruleset) -> Ruleset:
        (there,) = as_text.of_family(ruleset.family)
        return replace(ruleset, tables=tuple(_hanging_table(table, there) for table in ruleset.tables))

    return replace(rules, rulesets=tuple(map(hanging, rules.rulesets)))


def _hanging_table(table: Table, there: Ruleset) -> Table:
    if table.name not in there or not _is_doubtful(table):
        return table
    own = there.table(table.name)
    chains = tuple(
        replace(chain, registered=own.chain(chain.name).registered) if chain.name in own else chain
        for chain in table.chains
    )
    return replace(table, dormant=own.dormant, chains=chains)


def _parsed_natively(result: CommandResult, folder: Path | None) -> tuple[PodRules | None, ParseError | None]:
    if not result.succeeded:
        return None, None
    if not result.stdout.strip() and "-j" not in result.argv:
        empty = (Ruleset(family=family, backend=Backend.NF_TABLES) for family in _PREFIXES)
        return PodRules(rulesets=tuple(empty), native_read=True), None
    try:
        return parse_nftables(result.stdout, source=_place(result, folder)), None
    except ParseError as problem:
        problem.source = " ".join(result.argv)
        return None, problem


def _joined(
    native: PodRules | None,
    rulesets: list[Ruleset],
    answer: CommandResult,
    commands: list[CommandResult],
    pod: str,
) -> PodRules:
    """What was read of both back ends; nft's word counts for nf_tables, wherever it was to be had.

    Raises:
        TablesUnreadable: it was not, and iptables-nft shows that there is more than it can show.
    """
    of_iptables = [ruleset for ruleset in rulesets if ruleset.backend is Backend.NF_TABLES]
    silent = native is not None and not any(ruleset.tables for ruleset in native.rulesets)
    if native is None or (silent and any(True for ruleset in of_iptables for _ in ruleset.rules())):
        # Without the right to look nft may show nothing.
        _refuse_misprinted(of_iptables, commands, pod)
        notes = [*_distrust(rulesets), *([] if answer.missing else _failure(answer)), NFT_UNREAD]
        return PodRules(rulesets=tuple(rulesets), pod=pod, notes=tuple(notes))
    both = joined_with(native, of_iptables)
    others = [ruleset for ruleset in rulesets if ruleset.backend is not Backend.NF_TABLES]
    placed = [replace(ruleset, pod=pod) for ruleset in both.rulesets]
    return replace(both, rulesets=(*others, *placed), pod=pod)


def _refuse_misprinted(rulesets: list[Ruleset], commands: list[CommandResult], pod: str) -> None:
    """Refuse a rule that does nothing: iptables-nft prints so a rule of which it can show a part only."""
    for ruleset in rulesets:
        for rule in ruleset.rules():
            if rule.target is None:
                shown = [result for result in commands if result.stdout and rule.text in result.stdout]
                cause = f"`{rule.text}` has no target: so iptables-nft prints a rule that it cannot show"
                advice = Advice("", cause, _LET_NFT)
                raise _unreadable(pod, shown[:1], advice)


def _failure(result: CommandResult) -> Iterator[str]:
    if not result.succeeded:
        yield f"nft list ruleset failed ({result.stderr.strip().partition(chr(10))[0]})"


def _ruleset(
    result: CommandResult,
    family: Family,
    backend: Backend,
    *,
    pod: str,
    folder: Path | None,
    beside_nft: bool = False,
) -> Ruleset:
    """What a command that saves rules shows; beside nft's listing it need not show everything."""
    if not result.succeeded or (not beside_nft and re.search(INCOMPATIBLE, result.stdout + result.stderr)):
        raise _unreadable(pod, [result], advise(result.stderr + result.stdout, _KNOWN))
    beside_legacy = _LEGACY_PRESENT in result.stderr
    text = re.sub(f".*{INCOMPATIBLE}.*", "", result.stdout)
    if not text.strip():
        source = _place(result, folder)
        return Ruleset(family=family, backend=backend, source=source, pod=pod, beside_legacy=beside_legacy)
    ruleset = _parsed(parse_iptables_save, result, family, folder, text)
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
    parse: Callable[..., Ruleset], result: CommandResult, family: Family, folder: Path | None, text: str
) -> Ruleset:
    try:
        return parse(text, family=family, source=_place(result, folder))
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
        rulesets.append(_parsed(parse_iptables_list, result, family, folder, result.stdout))
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
