"""What sets rules apart from the ones expected: in their text, and in what becomes of packets.

Knows how the two are held together: text differs often, meaning seldom, and only meaning is a
verdict. Does not know Istio's releases. Invariant: `equivalent` is never said of rules that do
not tell what becomes of every packet; asking raises `Undecided`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pytest_istio_sidecar.checks import messages
from pytest_istio_sidecar.checks.comparison.alignment import AlignedChain, Change, Line, align
from pytest_istio_sidecar.checks.comparison.effects import Effect, effects_of
from pytest_istio_sidecar.checks.comparison.foreign import ForeignRules, foreign_rules
from pytest_istio_sidecar.checks.comparison.unread import with_unread_taken
from pytest_istio_sidecar.checks.wording import of_family
from pytest_istio_sidecar.errors import Undecided, UsageProblem
from pytest_istio_sidecar.failure import Failure
from pytest_istio_sidecar.istio.tables import PREFIX
from pytest_istio_sidecar.netfilter.kernel.unread import unread_tables, with_unread_legacy
from pytest_istio_sidecar.netfilter.model import Family, PodRules, Rule, Rules, Ruleset, rulesets_of
from pytest_istio_sidecar.netfilter.packet import Host, Packet
from pytest_istio_sidecar.netfilter.targets import Verdict
from pytest_istio_sidecar.netfilter.trace.trace import trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One rule that is not where, or not what, it was expected to be.

    Attributes:
        line: the rule of both sides, and how they differ.
        table, chain: where.
    """

    family: Family
    table: str
    chain: str
    line: Line

    @property
    def kind(self) -> Change:
        return self.line.change

    @property
    def text(self) -> str:
        """The difference in one line: "nat ISTIO_INBOUND: missing -p tcp --dport 15021 -j RETURN"."""
        rule = self.line.rule.text.removeprefix(f"-A {self.chain} ")
        text = f"{of_family(self.family)}{self.table} {self.chain}: {self.kind} {rule}"
        if self.kind is Change.CHANGED and self.line.expected is not None:
            return f"{text} (expected {self.line.expected.text.removeprefix(f'-A {self.chain} ')})"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Observed rules beside expected ones.

    Attributes:
        chains: every chain of either side, aligned.
        foreign: rules that are not Istio's, by whose they are.
        assumptions: what the observed rules took from an expectation.
    """

    chains: tuple[AlignedChain, ...]
    foreign: tuple[ForeignRules, ...] = ()
    assumptions: tuple[str, ...] = ()
    _effects: tuple[Effect, ...] = field(default=(), repr=False)
    _undecided: Failure | None = field(default=None, repr=False)

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Every rule that differs, in the order of tables and chains."""
        return tuple(
            Difference(family=chain.family, table=chain.table, chain=chain.name, line=line)
            for chain in self.chains
            for line in chain.lines
            if line.change is not Change.SAME
        )

    @property
    def equal_text(self) -> bool:
        """Whether rule for rule and in order both sides are the same; back ends aside."""
        return not self._undecided and not any(chain.differs for chain in self.chains)

    @property
    def effects(self) -> tuple[Effect, ...]:
        """The classes of packets whose fate differs.

        Raises:
            Undecided: the observed rules do not tell what becomes of some packet.
        """
        if self._undecided:
            raise Undecided(self._undecided)
        return self._effects

    @property
    def equivalent(self) -> bool:
        """Whether no packet has another fate.

        Raises:
            Undecided: the observed rules do not tell.
        """
        return not self.effects


def compare(observed: Rules, expected: Rules, *, host: Host | None = None) -> Comparison:
    """Hold rules against the ones expected, by text and by effect.

    Args:
        observed: what was read; of a pod, every back end takes part.
        expected: of one family or of both; the observed rules of another family are left aside. What was
            not read of the observed ones is taken to be as these have it, where that captures nothing.
        host: the namespace's interfaces and addresses. Its rules and routes lead the packets that the
            observed rules meet; those that the expected ones meet go where the addresses tell.

    Raises:
        UsageProblem: nothing is expected.
        Undecided: no rules were read of a family that is expected.
    """
    host = host or Host()
    observed = with_unread_taken(observed, expected)
    families: list[Family] = [family for family in (4, 6) if rulesets_of(expected, family)]
    if not families:
        raise UsageProblem(messages.NOTHING_EXPECTED())
    chains: list[AlignedChain] = []
    effects: list[Effect] = []
    foreign: list[ForeignRules] = []
    undecided: Failure | None = None
    for family in families:
        rulesets = rulesets_of(observed, family)
        if not rulesets:
            raise Undecided(messages.NOTHING_READ(family=family))
        wanted = _one(rulesets_of(expected, family))
        aligned = list(_aligned(rulesets, wanted))
        apart = any(chain.differs for chain in aligned) or not _is_read(rulesets) or _is_by_nft(rulesets)
        if apart or family in host.policies:
            try:
                effects += effects_of(observed, expected, family=family, host=host, meant=True)
            except Undecided as problem:
                undecided = undecided or problem.failure
            else:
                aligned = list(_with_unreached(aligned, observed, wanted, host))
                foreign += foreign_rules(observed, aligned, family=family, host=host)
        chains += aligned
    return Comparison(
        chains=tuple(chains),
        foreign=tuple(foreign),
        assumptions=tuple(
            text
            for family in families
            for ruleset in rulesets_of(observed, family)
            for text in ruleset.assumptions
        ),
        _effects=tuple(effects),
        _undecided=undecided,
    )


def _is_read(rulesets: Sequence[Ruleset]) -> bool:
    """Whether nothing that was not read could make a difference."""
    return not any(ruleset.unread for ruleset in with_unread_legacy(rulesets))


def _is_by_nft(rulesets: Sequence[Ruleset]) -> bool:
    """Whether a table may hang otherwise than iptables' own, whatever its rules say."""
    return any(table.nft_family for ruleset in rulesets for table in ruleset.tables)


def _one(rulesets: Sequence[Ruleset]) -> Ruleset:
    if len(rulesets) > 1:
        raise UsageProblem(messages.SEVERAL_EXPECTED())
    return rulesets[0]


def _aligned(rulesets: Sequence[Ruleset], wanted: Ruleset) -> Iterator[AlignedChain]:
    """The ruleset that has Istio's chains beside the expected one, every other beside nothing."""
    main = max(rulesets, key=lambda ruleset: (_istio_rules(ruleset), ruleset.backend is wanted.backend))
    # What was not read is not missing.
    read = tuple(table for table in wanted.tables if table.name not in unread_tables(main.unread))
    yield from align(main, replace(wanted, tables=read))
    for ruleset in rulesets:
        if ruleset is not main:
            yield from align(ruleset, Ruleset(family=ruleset.family))


def _istio_rules(ruleset: Ruleset) -> int:
    return sum(rule.chain.startswith(PREFIX) for rule in ruleset.rules())


def _with_unreached(
    chains: Sequence[AlignedChain], observed: Rules, wanted: Ruleset, host: Host
) -> Iterator[AlignedChain]:
    """Rules in their place that packets reached in the expected rules, and reach no more."""
    for chain in chains:
        disturbed = False
        lines = []
        for line in chain.lines:
            disturbed = disturbed or line.change in (Change.EXTRA, Change.MOVED, Change.CHANGED)
            moved_above = any(
                other.change is Change.MOVED
                and other.observed is not None
                and line.observed is not None
                and other.observed.number < line.observed.number
                for other in chain.lines
            )
            lines.append(
                _unreached(line, chain, observed, wanted, host) if disturbed or moved_above else line
            )
        yield replace(chain, lines=tuple(lines))


def _unreached(line: Line, chain: AlignedChain, observed: Rules, wanted: Ruleset, host: Host) -> Line:
    if line.change is not Change.SAME or line.observed is None or line.expected is None:
        return line
    try:
        packet = _matched_by(line.expected, chain, wanted, host)
        if packet is None or _matched_by(line.observed, chain, observed, host) is not None:
            return line
    except Undecided:
        return line
    taken = [
        step.rule.number
        for step in trace(observed, packet, host=host).steps
        if step.table == chain.table and step.chain == chain.name and step.matched and step.rule
    ]
    return replace(line, change=Change.NEVER_REACHED, shadowed_by=taken[-1] if taken else None)


def _matched_by(rule: Rule, chain: AlignedChain, rules: Rules, host: Host) -> Packet | None:
    """A packet whose fate a rule takes part in: it would have another if the rule dropped or accepted it.

    Raises:
        Undecided: with such a rule it could not be told, which says nothing of the rules as they are.
    """
    for target in (Verdict("DROP"), Verdict("ACCEPT")):
        instead = _with_target(rule, target, chain, rules)
        for effect in effects_of(instead, rules, family=chain.family, host=host):
            return effect.witness
    return None


def _with_target(rule: Rule, target: Verdict, chain: AlignedChain, rules: Rules) -> PodRules:
    def change(table: str, one: Rule) -> Rule:
        same = (table, one.chain, one.number) == (chain.table, chain.name, rule.number)
        return replace(one, target=target) if same else one

    rulesets = rulesets_of(rules, chain.family)
    changed = tuple(
        ruleset.map_rules(change) if ruleset.backend is chain.backend or len(rulesets) == 1 else ruleset
        for ruleset in rulesets
    )
    order_known = not isinstance(rules, PodRules) or rules.order_known
    return PodRules(rulesets=changed, order_known=order_known)
