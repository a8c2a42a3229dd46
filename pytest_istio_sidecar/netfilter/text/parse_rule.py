"""The words of one rule, turned into its matches and target.

Knows where the options of iptables(8) and iptables-extensions(8) belong. Does not know
files or tables, nor what the typed options mean (`parse_match`, `parse_target`). Invariant:
no word is lost; an option that is not typed stays an `Option` of its extension.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from pytest_istio_sidecar.netfilter.matches import PROTOCOL_NAMES, Hidden, Match, Protocol
from pytest_istio_sidecar.netfilter.model import Family
from pytest_istio_sidecar.netfilter.targets import VERDICTS, Extended, Goto, Jump, Target
from pytest_istio_sidecar.netfilter.text.parse_match import (
    OPTIONS,
    RawOption,
    parse_address,
    parse_fragment,
    parse_interface,
    parse_match,
    parse_protocol,
    strict_number,
)
from pytest_istio_sidecar.netfilter.text.parse_target import TARGET_OPTIONS, parse_target
from pytest_istio_sidecar.netfilter.text.refused import refuse
from pytest_istio_sidecar.netfilter.text.tokens import Quoted

_ALIASES = {
    "--source": "-s",
    "--src": "-s",
    "--destination": "-d",
    "--dst": "-d",
    "--in-interface": "-i",
    "--out-interface": "-o",
    "--protocol": "-p",
    "--proto": "-p",
    "--fragment": "-f",
    "--match": "-m",
    "--jump": "-j",
    "--goto": "-g",
    "--set-counters": "-c",
    "--source-port": "--sport",
    "--destination-port": "--dport",
    "--source-ports": "--sports",
    "--destination-ports": "--dports",
    "--to-port": "--to-ports",
}
_CORE: dict[str, Callable[[str, str, Family, bool], Match | None]] = {
    "-s": parse_address,
    "-d": parse_address,
    "-i": parse_interface,
    "-o": parse_interface,
    "-p": parse_protocol,
    "-f": parse_fragment,
}
"""In the order in which iptables-save writes them."""
_SHORT = frozenset((*_CORE, "-m", "-j", "-g", "-c"))
_JUMPS = frozenset(("-j", "-g"))
_NO_OPTIONS: frozenset[str] = frozenset()
_QUOTED = frozenset(
    ("--comment", "--log-prefix", "--nflog-prefix", "--ulog-prefix", "--string", "--hex-string")
)
"""Options with one text, which stands in quotes unless it is one plain word, be it an option's."""
_TEXTS = _QUOTED | {"--helper", "--path", "--name", "--hashlimit-name", "--label", "--selctx"}
"""Options whose first word may look like an option; those added here print blanks as they are."""
_IMPLIED = {"ipv6-icmp": "icmp6"}

Counters = tuple[int, int]


class _Holder:
    """A `-m` or a `-j` while its options are being collected."""

    __slots__ = ("known", "name", "options", "strict")

    def __init__(self, name: str, known: frozenset[str] | None, *, strict: bool = False) -> None:
        self.name = name
        self.known = known
        """Its options; None where they are not known here."""
        self.strict = strict
        """Whether an option beyond those known would change what is taken to hold always."""
        self.options: list[RawOption] = []


def parse_rule(
    given: Sequence[str], family: Family, chains: Container[str] = ()
) -> tuple[tuple[Match, ...], Target | None, Counters | None]:
    """Turn the words after `-A CHAIN` into matches, target and the counters of `-c`.

    A target that is one of `chains` is a jump.

    Raises:
        ValueError: words that no rule has; the message says which.
    """
    core: dict[str, Match | None] = {}
    holders: list[_Holder | Hidden] = []
    current: _Holder | None = None
    jump: _Holder | None = None
    goes = False
    counters: Counters | None = None
    position = 0
    end = len(given)
    while position < end:
        word = given[position]
        position += 1
        negated = word == "!"
        if negated:
            if position == end:
                raise ValueError("it ends with !")
            word = given[position]
            position += 1
        name = _ALIASES.get(word, word)
        if name not in _SHORT:
            if name[:2] != "--" or type(word) is Quoted:
                raise ValueError(f"unexpected word {word!r}")
            stop = _end_of_values(given, position, name)
            values = tuple(given[position:stop])
            position = stop
            if len(values) == 1 and type(values[0]) is Quoted and name not in _TEXTS:
                hidden = _hidden(name, values[0], negated)
                if hidden is not None:
                    holders.append(hidden)
                    continue
            refuse(name, values)
            if current is None or (current.known is not None and name not in current.known):
                _owner(name, current, holders, core).options.append((name, values, negated))
            else:
                current.options.append((name, values, negated))
            continue
        if name == "-f":
            value = ""
        elif position == end:
            raise ValueError(f"{name} lacks its value")
        else:
            value = given[position]
            position += 1
        hidden = None
        if type(value) is Quoted and not (name in _JUMPS and value in chains):
            hidden = None if name in _JUMPS else _hidden(name, value, negated)
            if hidden is None:
                value = _named(value)
        reader = _CORE.get(name)
        if reader is not None:
            if name in core:
                raise ValueError(f"{name} stands twice")
            if hidden is None:
                refuse(name, (value,))
            core[name] = hidden or reader(name, value, family, negated)
        elif negated:
            raise ValueError(f"! before {name}")
        elif name == "-m":
            if hidden is not None:
                holders.append(hidden)
                continue
            current = _Holder(value, OPTIONS.get(value), strict=value == "comment")
            holders.append(current)
        elif name == "-c":
            if position == end:
                raise ValueError(f"{name} lacks its value")
            counters = strict_number(value, 20), strict_number(given[position], 20)
            position += 1
        elif jump is not None:
            raise ValueError("it has two targets")
        else:
            goes = name == "-g"
            plain = goes or value in chains or value in VERDICTS
            current = jump = _Holder(value, _NO_OPTIONS if plain else TARGET_OPTIONS.get(value), strict=plain)
    matches = [match for name in _CORE if (match := core.get(name)) is not None]
    matches += [
        holder if isinstance(holder, Hidden) else parse_match(holder.name, tuple(holder.options))
        for holder in holders
    ]
    return tuple(matches), _target(jump, family, chains, goes=goes), counters


def _target(jump: _Holder | None, family: Family, chains: Container[str], *, goes: bool) -> Target | None:
    if jump is None:
        return None
    if goes:
        return Goto(jump.name)
    if jump.name in chains:
        return Jump(jump.name)
    if not jump.options and jump.known is None:
        return Extended(name=jump.name)
    return parse_target(jump.name, tuple(jump.options), family)


def _named(word: str) -> str:
    """A word that names something; iptables-save never quotes it, so it cannot hold just anything."""
    if type(word) is Quoted and not (word.isprintable() and word[:1] not in '"-!' and " " not in word):
        raise ValueError(f"{str(word)!r} is no name")
    return str(word)


def _end_of_values(given: Sequence[str], position: int, name: str) -> int:
    """Where the values of an option end that begin at a position."""
    end = len(given)
    if name in _TEXTS:
        if position == end:
            raise ValueError(f"{name} lacks its value")
        position += 1
        if name in _QUOTED:
            return position
    while position < end:
        word = given[position]
        if (
            word[:1] in ("-", "!")
            and type(word) is not Quoted
            and (word == "!" or word[:2] == "--" or word in _SHORT)
        ):
            break
        position += 1
    return position


def _owner(
    name: str, current: _Holder | None, holders: list[_Holder | Hidden], core: dict[str, Match | None]
) -> _Holder:
    """Which match or target an option belongs to.

    iptables offers an option to every match that the rule has loaded, and loads that of the protocol
    when none takes it (command_match and command_default, iptables/xshared.c).
    """
    if current is not None and (current.known is None or name in current.known):
        return current
    for holder in reversed(holders):
        if isinstance(holder, _Holder) and holder.known is not None and name in holder.known:
            return holder
    protocol = core.get("-p")
    if isinstance(protocol, Protocol) and not protocol.negated:
        module = PROTOCOL_NAMES.get(protocol.number, "")
        module = _IMPLIED.get(module, module)
        if name in OPTIONS.get(module, ()):
            implied = _Holder(module, OPTIONS[module])
            holders.append(implied)
            return implied
    if current is None or current.strict:
        raise ValueError(f"{name} belongs to no match of this rule")
    return current


def _hidden(name: str, value: str, negated: bool) -> Hidden | None:
    """What `render_save` writes for a field that a listing did not show."""
    if type(value) is not Quoted or value[:1] != "<" or value[-1:] != ">":
        return None
    return Hidden(field=name, shown=value[1:-1], negated=negated)
