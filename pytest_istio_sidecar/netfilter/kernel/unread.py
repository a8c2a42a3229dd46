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
    Rules,
    Ruleset,
    rulesets_of,
)

OLD_NAT = frozenset({"PREROUTING", "OUTPUT", "POSTROUTING"})
"""The built-in chains of nat before Linux 2.6.36."""

NFT_UNREAD = "nft could not be asked: what others made with nf_tables itself was not looked for"
"""A note where iptables-nft alone showed nf_tables, which leaves out what iptables did not make."""

_UNREAD_LEGACY: dict[Family, Ruleset] = {
    family: Ruleset(family=family, backend=Backend.LEGACY, unread=ALL_BUILT_IN) for family in (4, 6)
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


def unread_legacy(family: Family) -> Ruleset:
    """The legacy back end where its tables were not read."""
    return _UNREAD_LEGACY[family]


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
    program = "iptables" if ruleset.family == 4 else "ip6tables"
    if is_unread(ruleset):
        return (
            f"{program}-legacy has tables, too, which were not read and could capture it: "
            f"add {program}-legacy-save (legacy:FILE)"
        )
    chains = _by_table(could_capture)
    names = [table.name for table in ruleset.tables]
    unread = unread_tables(ruleset.unread)
    parts = [table for table in chains if table in unread]
    parts += [f"{_and(of_table)} of {table}" for table, of_table in chains.items() if table not in unread]
    verb = "was" if len(parts) == 1 and " and " not in parts[0] else "were"
    commands = [f"{program} -t {table} -S" for table in chains if table not in names]
    if _guessed(ruleset):
        shown, advice = (
            "this is one chain, and the text does not name its table",
            f"give {program}-save instead",
        )
    elif len(commands) < len(chains):
        shown, advice = f"this is a part of table {_and(names)}", f"give {program}-save, which is whole"
    else:
        shown = f"this is table {names[0]}" if len(names) == 1 else f"these are tables {_and(names)}"
        advice = f"add {_and(commands)}, or give {program}-save instead"
    return f"{shown}; {_and(parts)} {verb} not read and could capture it: {advice}"


def notes_of(rules: Rules, family: Family) -> tuple[str, ...]:
    """What was not read of a family's rules, a sentence for each back end."""
    notes = []
    for ruleset in with_unread_legacy(rulesets_of(rules, family)):
        if is_unread(ruleset):
            program = "iptables" if family == 4 else "ip6tables"
            notes.append(f"not read: the tables of {program}-legacy, which the kernel asks, too")
        elif ruleset.unread:
            notes.append(f"not read: {in_words(ruleset.unread)}")
    return tuple(dict.fromkeys(notes))


def _guessed(ruleset: Ruleset) -> bool:
    """Whether the table of what is shown is not known for sure."""
    return any(
        (table.name, chain.name) in ruleset.unread for table in ruleset.tables for chain in table.chains
    )


def in_words(unread: Collection[BuiltIn]) -> str:
    """As a list to read: "tables raw and mangle; INPUT of table nat"."""
    tables = unread_tables(unread)
    chains = {table: names for table, names in _by_table(unread).items() if table not in tables}
    parts = [f"table{'s' if len(tables) > 1 else ''} {_and(tables)}"] if tables else []
    parts += [f"{_and(names)} of table {table}" for table, names in chains.items()]
    return "; ".join(parts)


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
