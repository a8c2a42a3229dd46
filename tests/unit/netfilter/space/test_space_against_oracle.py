"""All packets at once, held against two ways of judging them that share no code with the one under test."""

from random import Random

import pytest
from diagram_points import volume
from table_oracle import FIELDS, Domain, cube_volumes, formula, random_table

from pytest_istio_sidecar import Fate, Host, parse_iptables_save
from pytest_istio_sidecar.netfilter.diagram.diagram import FALL, LEAF
from pytest_istio_sidecar.netfilter.diagram.paths import branches
from pytest_istio_sidecar.netfilter.space.space import Space, agreed

HOST = Host(
    interfaces={
        name: ["192.0.2.10/25", "2001:db8::10/64"]
        if name == "eth0"
        else ["192.0.2.130/26", "2001:db8:1::10/64"]
        for name in ("eth0", "eth1")
    }
)
HOOKS = ("OUTPUT", "PREROUTING")
CUBE_SEEDS = range(80)
FORMULA_SEEDS = range(8)


def table_and_space(seed, hook, family):
    table = random_table(Random(f"oracle {seed} {hook} {family}"), hook, family)
    rules = parse_iptables_save(table.text(), family=family)
    return table, Space([rules], hook, host=HOST, family=family)


def fate_of(outcome):
    """An outcome by the oracle's names."""
    if outcome.fate is Fate.REDIRECTED:
        return str(outcome.port)
    return {Fate.UNCHANGED: "ACCEPT", Fate.DROPPED: "DROP"}[outcome.fate]


def own_interfaces(space):
    """Outcomes where the interface is one of the host's; a name that only rules know has no address."""
    fields, diagrams = space.fields, space.diagrams
    places = [place for place, name in enumerate(fields.interfaces) if name in HOST.interfaces]
    there = fields["interface"].intervals(diagrams, [(places[0], places[-1])])
    assert places == list(range(places[0], places[-1] + 1))
    return diagrams.when(there, diagrams.merge(space.outcomes(), agreed)), len(places)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("hook", HOOKS)
def test_each_fate_has_as_many_packets_as_disjoint_cubes_have(hook, family):
    fates = set()
    for seed in CUBE_SEEDS:
        table, space = table_and_space(seed, hook, family)
        node, held = own_interfaces(space)
        expected = cube_volumes(table, Domain(space.fields.interfaces[:held], family))
        marks = space.fields["mark"].top + 1
        found = {}
        for (answer,), points in volume(node, space.diagrams.tops).items():
            if answer != FALL:
                found[fate_of(answer)] = found.get(fate_of(answer), 0) + points
        assert found == {fate: points * marks for fate, points in expected.items()}, table.text()
        fates |= found.keys()
    assert fates == {"ACCEPT", "DROP", "9000", "15001", "15006"}


def test_the_cubes_of_all_fates_add_up_to_the_space():
    for seed in CUBE_SEEDS:
        domain = Domain(("lo", "eth0"), 4)
        size = 1
        for top in domain.tops:
            size *= top + 1
        assert sum(cube_volumes(random_table(Random(seed), "OUTPUT", 4), domain).values()) == size


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("hook", HOOKS)
def test_no_packet_has_another_fate_by_a_formula_of_the_rules(hook, family):
    z3 = pytest.importorskip("z3", reason="z3-solver is not installed")
    codes = {"ACCEPT": 0, "DROP": 1, "9000": 9000, "15001": 15001, "15006": 15006}
    for seed in FORMULA_SEEDS:
        table, space = table_and_space(seed, hook, family)
        node, held = own_interfaces(space)
        domain = Domain(space.fields.interfaces[:held], family)
        variables = [z3.Int(name) for name in FIELDS]
        asked = z3.Solver()
        for variable, top in zip(variables, domain.tops, strict=True):
            asked.add(variable >= 0, variable <= top)
        said = as_term(z3, space, node, dict(zip(FIELDS, variables, strict=True)), codes)
        asked.add(said != formula(z3, table, domain, variables, codes))
        assert asked.check() == z3.unsat, f"{asked.model()}\n{table.text()}"


def as_term(z3, space, node, variables, codes):
    """A diagram as z3's term."""
    names = {field.level: field.name for field in space.fields}
    done = {}

    def term(node):
        if node not in done:
            if node.level == LEAF:
                (answer,) = node.answers
                done[node] = z3.IntVal(-1 if answer == FALL else codes[fate_of(answer)])
            else:
                held = variables[names[node.level]]
                (_, made), *others = ((intervals, term(kid)) for intervals, kid in branches(node))
                for intervals, kid in others:
                    here = z3.Or([z3.And(held >= low, held <= high) for low, high in intervals])
                    made = z3.If(here, kid, made)
                done[node] = made
        return done[node]

    return term(node)
