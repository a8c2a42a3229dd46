"""What a lossy listing hides, taken from an expectation where all that it shows agrees.

Knows how hidden fields and well-known names relate to full rules. Does not know how
either was read. Invariant: a rule is completed only when every visible field equals
the expected rule's and the order of the rules allows no other partner; a table that
was not read is taken as expected only where nothing in it captures packets; everything
else stays unknown, and every completion is said in `Ruleset.assumptions`.
Semantics: docs/semantics.md, 9.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.netfilter import messages
from pytest_istio_sidecar.netfilter.kernel.unread import in_words, is_unread, unread_tables
from pytest_istio_sidecar.netfilter.matches import (
    Address,
    Hidden,
    Interface,
    Match,
    Multiport,
    Owner,
    Range,
    Transport,
)
from pytest_istio_sidecar.netfilter.model import TABLES, BuiltIn, Chain, Rule, Ruleset, Table
from pytest_istio_sidecar.netfilter.targets import Redirect, Tproxy, Translate

HOSTS = {
    "localhost": ("127.0.0.1/32", "::1/128"),
    "ip6-localhost": ("::1/128",),
    "ip6-loopback": ("::1/128",),
    "loopback/8": ("127.0.0.0/8",),
}
"""Names of addresses in the /etc/hosts and /etc/networks that distributions ship."""

PORTS = {
    "ssh": 22,
    "smtp": 25,
    "domain": 53,
    "http": 80,
    "https": 443,
    "mysql": 3306,
    "postgresql": 5432,
    "amqp": 5672,
    "redis": 6379,
    "http-alt": 8080,
}
"""Services, as in the /etc/services of Debian and Ubuntu, that rules of a sidecar may name."""

IDS = {"root": 0, "istio-proxy": 1337}
"""Users and groups; istio-proxy is made by Istio's image (docker/Dockerfile.base: useradd --uid 1337)."""

_NOUNS = {"-s": "address", "-d": "address", "--uid-owner": "user", "--gid-owner": "group"}

_ANYWHERE = Hidden(field="-s", shown="anywhere")
"""What ip6tables prints for no address, and for every network of address ::."""

_Part = tuple[str, object]
"""An option and its value: the grain in which a listing hides things."""
_Taken = tuple[Hidden, object]
"""A hidden field and the expected value that it stands for, None where the expected rule has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Completed:
    rule: Rule
    taken: tuple[_Taken, ...]


def complete(ruleset: Ruleset, expected: Ruleset) -> Ruleset:
    """Fill what a listing does not show from the rules it is expected to show: hidden fields, unread tables.

    Which of either, see `with_hidden_as_expected` and `with_unread_as_expected`.

    Returns:
        The ruleset as far as it could be completed, with what was assumed added to its `assumptions`; the
        same object when it hides nothing.

    Raises:
        UsageProblem: the two are of different families.
    """
    return with_unread_as_expected(with_hidden_as_expected(ruleset, expected), expected)


def with_hidden_as_expected(ruleset: Ruleset, expected: Ruleset) -> Ruleset:
    """Fill hidden fields of a listing from the rules it is expected to show.

    Rules are aligned in order, chain by chain (longest common subsequence), so that a missing rule does
    not leave the others unknown. A rule that could be aligned with expected rules that differ, or could as
    well be an additional one, keeps its hidden fields. Names are taken for an expected value only where
    `HOSTS`, `PORTS` or `IDS` hold them.

    Returns:
        The ruleset with completed rules equal to the expected ones, and with what was assumed added to its
        `assumptions`; the same object when it hides nothing.

    Raises:
        UsageProblem: the two are of different families.
    """
    if not any(rule.hidden for rule in ruleset.rules()):
        return ruleset
    _require_family(ruleset, expected)
    assumed: list[tuple[Rule, str]] = []
    origin = _origin(expected)
    tables = tuple(
        _complete_table(table, expected.table(table.name), origin, assumed) for table in ruleset.tables
    )
    return replace(
        ruleset,
        tables=tables,
        assumptions=(*ruleset.assumptions, *_grouped(assumed)),
        completed_from=expected.origin,
    )


def with_unread_as_expected(ruleset: Ruleset, expected: Ruleset) -> Ruleset:
    """Take tables and chains that were not read to be as expected, where nothing in them captures packets.

    What is to capture has to be seen: a test of it would else hold without evidence. So a table that was
    not read stays so where rules of the expected one send packets elsewhere, and a chain of a table that was
    read in part where it should hold a rule. A back end of which nothing was read is taken to hold no rule
    where none is expected of the family, and nobody said that it has tables.

    Returns:
        The ruleset with what was taken in its `assumptions`; the same object where nothing is.

    Raises:
        UsageProblem: the two are of different families.
    """
    if not ruleset.unread or (is_unread(ruleset) and (ruleset.beside_legacy or any(expected.rules()))):
        return ruleset
    _require_family(ruleset, expected)
    tables = [
        name
        for name in unread_tables(ruleset.unread)
        if not any(map(_captures, expected.table(name).rules()))
    ]
    chains = [
        (table, chain)
        for table, chain in ruleset.unread
        if table in ruleset
        and chain not in ruleset.table(table)
        and not _rules_in(expected.table(table), chain)
    ]
    taken = {(table, chain) for table, chain in ruleset.unread if table in tables} | set(chains)
    if not taken:
        return ruleset
    more = [expected.table(name) for name in tables if name in expected]
    origin = _origin(expected)
    of_it = f"{ruleset.backend or 'the other back end'}: not read, taken to have no rule, as in {origin}"
    texts = [of_it] if is_unread(ruleset) else _taken_unread(tables, chains, more, origin)
    shown = [table for table in ruleset.tables if table.name not in tables]
    return replace(
        ruleset,
        tables=(*shown, *more),
        unread=ruleset.unread - taken,
        assumptions=(*ruleset.assumptions, *texts),
        completed_from=expected.origin,
    )


def _require_family(ruleset: Ruleset, expected: Ruleset) -> None:
    if ruleset.family != expected.family:
        raise UsageProblem(messages.OTHER_FAMILY(expected=expected.family, listed=ruleset.family))


def _captures(rule: Rule) -> bool:
    return isinstance(rule.target, Redirect | Translate | Tproxy)


def _rules_in(table: Table, chain: str) -> bool:
    return chain in table and bool(table.chain(chain).rules)


def _taken_unread(
    tables: Sequence[str], chains: Iterable[BuiltIn], filled: Sequence[Table], origin: str
) -> Iterator[str]:
    """What was not read and is taken to be as expected: that it is empty, or which rules it has."""
    counts = {table.name: sum(1 for _ in table.rules()) for table in filled}
    empty = {(name, chain) for name in tables if not counts.get(name) for chain in TABLES[name]}
    if empty.union(chains):
        yield f"{in_words(empty.union(chains))}: not read, taken to have no rule, as in {origin}"
    for name, count in counts.items():
        if count:
            rules = "rule" if count == 1 else f"{count} rules"
            yield f"table {name}: not read, its {rules} taken from {origin}"


def _origin(expected: Ruleset) -> str:
    return f"{expected.source}'s rules" if expected.source else "the expected rules"


def _complete_table(table: Table, expected: Table, origin: str, assumed: list[tuple[Rule, str]]) -> Table:
    chains: list[Chain] = []
    for chain in table.chains:
        if chain.name not in expected or not any(rule.hidden for rule in chain):
            chains.append(chain)
            continue
        rules: list[Rule] = []
        aligned = _aligned(chain.rules, expected.chain(chain.name).rules)
        for rule, completed in zip(chain.rules, aligned, strict=True):
            if completed is None:
                rules.append(rule)
                continue
            rules.append(replace(rule, matches=completed.rule.matches))
            assumed += [(rule, sentence) for sentence in _assumptions(completed.taken, origin)]
        chains.append(replace(chain, rules=tuple(rules)))
    return replace(table, chains=tuple(chains))


def _aligned(observed: Sequence[Rule], expected: Sequence[Rule]) -> Iterator[_Completed | None]:
    """For each observed rule, what every best alignment completes it to, or None.

    Two hidden rules that look alike are told apart by their neighbours only: a rule that some best alignment
    leaves out may be one that somebody added, and must not be taken for the expected one.
    """
    pairs = [[_agree(rule, candidate) for candidate in expected] for rule in observed]
    rows, columns = len(observed), len(expected)
    before = [[0] * (columns + 1) for _ in range(rows + 1)]
    after = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows):
        for j in range(columns):
            with_both = before[i][j] + 1 if pairs[i][j] is not None else 0
            before[i + 1][j + 1] = max(before[i][j + 1], before[i + 1][j], with_both)
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            with_both = after[i + 1][j + 1] + 1 if pairs[i][j] is not None else 0
            after[i][j] = max(after[i + 1][j], after[i][j + 1], with_both)
    best = before[rows][columns]
    for i, row in enumerate(pairs):
        if any(before[i][j] + after[i + 1][j] == best for j in range(columns + 1)):
            yield None
            continue
        partners = [
            pair
            for j, pair in enumerate(row)
            if pair is not None and before[i][j] + 1 + after[i + 1][j + 1] == best
        ]
        same = all(pair.rule == partners[0].rule for pair in partners)
        yield partners[0] if same and observed[i].hidden else None


def _agree(observed: Rule, expected: Rule) -> _Completed | None:
    """The expected rule, if the observed one may be it, with what that takes for granted."""
    if observed.target != expected.target or expected.hidden:
        return None
    left = list(_parts(expected.matches))
    for part in _parts(observed.matches):
        if part not in left:
            return None
        left.remove(part)
    taken: list[_Taken] = []
    for hidden in observed.hidden:
        likely = next((part for part in left if part[0] == hidden.field and _may_be(hidden, part[1])), None)
        if likely is not None:
            left.remove(likely)
        elif hidden.shown and hidden != replace(_ANYWHERE, field=hidden.field):
            return None
        taken.append((hidden, likely[1] if likely else None))
    return None if left else _Completed(rule=expected, taken=tuple(taken))


def _parts(matches: Iterable[Match]) -> Iterator[_Part]:
    for match in matches:
        match match:
            case Hidden():
                pass
            case Address():
                yield ("-s" if match.side == "source" else "-d"), match
            case Interface():
                yield ("-i" if match.direction == "in" else "-o"), match
            case Multiport():
                yield (
                    {"source": "--sports", "destination": "--dports", "either": "--ports"}[match.side],
                    match,
                )
            case Transport():
                yield "-m", match.module
                yield from _given(("--sport", match.source), ("--dport", match.destination))
                yield from _given(("--tcp-flags", match.flags), ("--tcp-option", match.tcp_option))
            case Owner():
                yield from _given(("--uid-owner", match.uid), ("--gid-owner", match.gid))
                yield from _given(("--socket-exists", match.socket_exists))
                yield from _given(("--suppl-groups", match.supplementary_groups or None))
            case _:
                yield "", match


def _given(*parts: _Part) -> Iterator[_Part]:
    return (part for part in parts if part[1] is not None)


def _may_be(hidden: Hidden, value: object) -> bool:
    """Whether a listing could show this value as the hidden field is shown."""
    if not hidden.shown:
        return True
    match value:
        case Address():
            if value.negated != hidden.negated:
                return False
            network = str(replace(value, negated=False)).split(" ")[1]
            return network in HOSTS.get(hidden.shown, ()) or (
                hidden.shown == "anywhere" and not value.network
            )
        case Range():
            names, separator = (IDS, "-") if hidden.field.endswith("-owner") else (PORTS, ":")
            interval = _interval(hidden.shown, names, separator)
            return value.negated == hidden.negated and interval == (value.low, value.high)
        case Multiport():
            intervals = tuple(_interval(word, PORTS, ":") for word in hidden.shown.split(","))
            return value.negated == hidden.negated and intervals == value.ranges
        case _:
            return False


def _interval(text: str, names: dict[str, int], separator: str) -> tuple[int, int] | None:
    """A shown number, name or interval of both; a name may hold the separator itself."""
    words = [text] if text in names else text.split(separator)
    numbers = [names.get(word, int(word) if word.isdecimal() and len(word) <= 10 else -1) for word in words]
    return (numbers[0], numbers[-1]) if -1 not in numbers and len(numbers) <= 2 else None


def _assumptions(taken: Sequence[_Taken], origin: str) -> Iterator[str]:
    """What completing one rule assumes; a rule with one interface says nothing of the other."""
    interfaces = [value for hidden, value in taken if not hidden.shown]
    if any(value is not None for value in interfaces):
        yield f"interface taken from {origin}, the listing does not show it"
    elif interfaces:
        yield f"no interface named, as in {origin}; the listing does not show it"
    for hidden, value in taken:
        if hidden.shown:
            noun = _NOUNS.get(hidden.field, "service")
            yield f"{noun} {hidden.shown} taken as {_number(value)}, as in {origin}"


def _grouped(assumed: Iterable[tuple[Rule, str]]) -> Iterator[str]:
    """One sentence for all rules that share it, with their chains and numbers."""
    places: dict[str, dict[str, set[int]]] = {}
    for rule, sentence in assumed:
        places.setdefault(sentence, {}).setdefault(rule.chain, set()).add(rule.number)
    for sentence, chains in places.items():
        where = ", ".join(f"{chain} {_numbers(numbers)}" for chain, numbers in chains.items())
        yield f"{where}: {sentence}"


def _number(value: object) -> str:
    match value:
        case Range():
            return str(value.low) if value.low == value.high else f"{value.low}-{value.high}"
        case _:
            return str(value).rpartition(" ")[2] if value is not None else "any"


def _numbers(numbers: Iterable[int]) -> str:
    """`1-3,5,6`: runs of three and more as an interval."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)
