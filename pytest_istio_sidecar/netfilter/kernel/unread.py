"""What a text leaves open: tables and built-in chains that the kernel may hold and it does not show.

Knows what each form of listing shows, and says what is missing and what would show it. Does not know what
unread rules could do to a packet (`hooks`). Invariant: what is not shown is never called empty.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from pytest_istio_sidecar.netfilter.model import (
    ALL_BUILT_IN,
    TABLES,
    Backend,
    BuiltIn,
    Family,
    PodRules,
    Rules,
    Ruleset,
    rulesets_of,
)

OLD_NAT = frozenset({"PREROUTING", "OUTPUT", "POSTROUTING"})
"""The built-in chains of nat before Linux 2.6.36."""

_PARTNERS = {Backend.LEGACY: Backend.NF_TABLES, Backend.NF_TABLES: Backend.LEGACY, None: None}
NFT_UNREAD = "nft could not be asked: what others made with nf_tables itself was not looked for"
"""A note where iptables-nft alone showed nf_tables, which leaves out what iptables did not make."""

_UNREAD_LEGACY: dict[Family, Ruleset] = {
    family: Ruleset(family=family, backend=Backend.LEGACY, unread=ALL_BUILT_IN, beside_legacy=True)
    for family in (4, 6)
}


def not_shown(table: str, chains: Collection[str], *, certain: bool = True) -> frozenset[BuiltIn]:
    """The built-in chains that a listing of one table, or of some of its chains, does not show.

    Args:
        certain: whether it is the table's for sure; else its chains may be another's, and none is shown.
    """
    if not certain:
        return ALL_BUILT_IN
    shown = {(table, chain) for chain in chains}
    if table == "nat" and shown >= {(table, chain) for chain in OLD_NAT}:
        shown.add(("nat", "INPUT"))
    return ALL_BUILT_IN - shown


def with_unread_legacy(rulesets: Sequence[Ruleset]) -> tuple[Ruleset, ...]:
    """Rulesets of one family, and the legacy back end where one says that it is there and none is of it."""
    missing = any(ruleset.beside_legacy for ruleset in rulesets) and all(
        ruleset.backend is not Backend.LEGACY for ruleset in rulesets
    )
    return (*rulesets, unread_legacy(rulesets[0].family)) if missing else tuple(rulesets)


def with_unread_partners(rulesets: Sequence[Ruleset]) -> tuple[Ruleset, ...]:
    """Rulesets, and where none has any rule, beside each family's the back end that was not read.

    A pod's rules are in one of two back ends, and the text of the other shows none. Where nat itself was not
    read whole, that comes first.
    """
    backends: dict[Family, set[Backend | None]] = {}
    for ruleset in rulesets:
        without_nat = any(table == "nat" for table, _ in ruleset.unread)
        if without_nat or ruleset.has_a_say:
            return tuple(rulesets)
        backends.setdefault(ruleset.family, set()).add(ruleset.backend)
    partners = [
        Ruleset(family=family, backend=_PARTNERS[backend], unread=ALL_BUILT_IN)
        for family, (backend, *others) in backends.items()
        if not others
    ]
    return (*rulesets, *partners)


def unread_legacy(family: Family) -> Ruleset:
    """The legacy back end where its tables were not read."""
    return _UNREAD_LEGACY[family]


def program_of(family: Family) -> str:
    """The program that lists the rules of a family."""
    return "iptables" if family == 4 else "ip6tables"


def is_unread(ruleset: Ruleset) -> bool:
    """Whether nothing of the back end was read."""
    return not ruleset.tables and ruleset.unread == ALL_BUILT_IN


def written(unread: Collection[BuiltIn]) -> str:
    """Tables by name, and chains of tables that were read in part: "raw, mangle, nat INPUT"."""
    tables = unread_tables(unread)
    chains = [f"{table} {chain}" for table, chain in _ordered(unread) if table not in tables]
    return ", ".join((*tables, *chains))


def read_back(text: str) -> frozenset[BuiltIn]:
    """What `written` wrote; words that name no built-in chain are left out."""
    unread: set[BuiltIn] = set()
    for words in text.split(","):
        table, _, chain = words.strip().partition(" ")
        unread |= {each for each in ALL_BUILT_IN if each[0] == table and chain in ("", each[1])}
    return frozenset(unread)


def unread_tables(unread: Collection[BuiltIn]) -> list[str]:
    """The tables of which no chain was read, in the kernel's order."""
    return [table for table, chains in TABLES.items() if all((table, chain) in unread for chain in chains)]


def reason(ruleset: Ruleset, could_capture: Iterable[BuiltIn]) -> str:
    """Why rules do not tell what becomes of a packet: these chains, unread, may capture it; what to add."""
    program = program_of(ruleset.family)
    if is_unread(ruleset):
        return f"{_which(ruleset)} not read and could capture it: {what_to_add(ruleset)}"
    chains = _by_table(could_capture)
    whole = unread_tables(ruleset.unread)
    names = () if _is_guessed(ruleset) else [table.name for table in ruleset.tables if table.chains]
    parts = [
        table if table in whole and table not in names else _part(table, () if table in whole else of)
        for table, of in chains.items()
    ]
    several = len(parts) > 1 or " and " in parts[0] or " chains " in parts[0]
    listed = (_and if not any(" of " in part for part in parts) else ", and ".join)(parts)
    advice = f"give {program}-save, which is whole"
    if names and _built_in_of(ruleset) and not any(table in names for table in chains):
        commands = [f"{program} -t {table} -S" for table in chains]
        advice = f"add {_and(commands)}, or give {program}-save instead"
    verb = "were" if several else "was"
    return f"{_shown(ruleset, chains)}; {listed} {verb} not read and could capture it: {advice}"


def what_to_add(ruleset: Ruleset) -> str:
    """What shows a back end of which nothing was read."""
    program = program_of(ruleset.family)
    legacy, nft = f"{program}-legacy-save (legacy:FILE)", f"{program}-nft-save (nft:FILE)"
    if ruleset.backend is None:
        return f"give {legacy} and {nft} instead"
    return f"add {legacy if ruleset.backend is Backend.LEGACY else nft}"


def _which(ruleset: Ruleset) -> str:
    program = program_of(ruleset.family)
    if ruleset.beside_legacy:
        return f"{program}-legacy has tables, too, which were"
    if ruleset.backend is None:
        return f"the other back end of {program} was"
    return f"{program}-{'legacy' if ruleset.backend is Backend.LEGACY else 'nft'} was"


def _shown(ruleset: Ruleset, missed: Collection[str]) -> str:
    """What a text is of that leaves chains of the kernel out, some of tables that are missed."""
    built_in = _built_in_of(ruleset)
    if not built_in:
        return "packets enter by built-in chains, and the text has none"
    if _is_guessed(ruleset):
        if len(built_in) == 1:
            return f"this is chain {built_in[0]} alone, and the text does not name its table"
        return f"these are chains {_and(built_in)} alone, and the text does not name their table"
    names = [table.name for table in ruleset.tables]
    whole = [name for name in names if name not in missed]
    parts = [f"table{'s' if len(whole) > 1 else ''} {_and(whole)}"] if whole else []
    parts += [f"a part of table {name}" for name in names if name in missed]
    return f"{'this is' if len(names) == 1 else 'these are'} {_and(parts)}"


def _built_in_of(ruleset: Ruleset) -> list[str]:
    return [
        name for table, name in _ordered(ALL_BUILT_IN) if table in ruleset and name in ruleset.table(table)
    ]


def _part(table: str, chains: Sequence[str]) -> str:
    """Chains of a table that was read in part; none: all built-in ones."""
    return f"{_and(chains)} of {table}" if chains else f"the built-in chains of {table}"


def notes_of(rules: Rules, family: Family) -> tuple[str, ...]:
    """What was not read of a family's rules, a sentence for each back end."""
    notes = []
    for ruleset in with_unread_legacy(rulesets_of(rules, family)):
        if is_unread(ruleset):
            program = program_of(family)
            name = "legacy" if ruleset.backend is Backend.LEGACY else "nft"
            which = (
                f"the tables of {program}-{name}" if ruleset.backend else f"the other back end of {program}"
            )
            notes.append(f"not read: {which}, which the kernel asks, too")
        elif ruleset.unread:
            notes.append(f"not read: {in_words(ruleset.unread, [table.name for table in ruleset.tables])}")
    return tuple(dict.fromkeys(notes))


def left_aside(rules: PodRules) -> tuple[str, ...]:
    """Everything that was not read of a pod's rules: parts of tables, tables, a family, a back end."""
    families = dict.fromkeys(ruleset.family for ruleset in rules.rulesets)
    notes = [
        f"{note} (IPv{family})" if len(families) > 1 else note
        for family in families
        for note in notes_of(rules, family)
    ]
    notes += [f"not read: the rules of IPv{family}" for family in (4, 6) if family not in families]
    backends = {ruleset.backend for ruleset in rules.rulesets}
    named = any(is_unread(each) for of in families for each in with_unread_legacy(rules.of_family(of)))
    if not named and not backends >= {Backend.LEGACY, Backend.NF_TABLES}:
        notes.append("not read: one of the two back ends (legacy, nf_tables), and the kernel asks both")
    return tuple(notes)


def in_words(unread: Collection[BuiltIn], shown: Collection[str] = ()) -> str:
    """As a list to read: "tables raw and mangle; INPUT of table nat".

    Args:
        shown: tables of which some chain was read, if none of the kernel's own.
    """
    whole = unread_tables(unread)
    tables = [table for table in whole if table not in shown]
    chains = {table: names for table, names in _by_table(unread).items() if table not in tables}
    parts = [f"table{'s' if len(tables) > 1 else ''} {_and(tables)}"] if tables else []
    parts += [_part(f"table {table}", () if table in whole else names) for table, names in chains.items()]
    return "; ".join(parts)


def _is_guessed(ruleset: Ruleset) -> bool:
    """Whether the table of built-in chains that are shown is not known for sure."""
    return any(
        (table.name, chain.name) in ruleset.unread for table in ruleset.tables for chain in table.chains
    )


def _by_table(unread: Iterable[BuiltIn]) -> dict[str, list[str]]:
    """Chains by table, those tables first that capture."""
    chains: dict[str, list[str]] = {}
    for table, chain in sorted(_ordered(unread), key=lambda place: place[0] != "nat"):
        chains.setdefault(table, []).append(chain)
    return chains


def _ordered(unread: Iterable[BuiltIn]) -> list[BuiltIn]:
    within = frozenset(unread)
    return [
        (table, chain) for table, chains in TABLES.items() for chain in chains if (table, chain) in within
    ]


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
