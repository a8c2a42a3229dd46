"""Every form in which people gave their rules is read rightly, or refused with the reason.

The texts are of public threads and of common pastes (`tests/data/reports`).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from netfilter_data import DATA

from pytest_istio_sidecar import ParseError, PodRules, Ruleset, parse_iptables, parse_nftables, parse_rules

REPORTS = DATA / "reports"
FENCED = "21-crlf.txt"
"""The listing that most pastes are of."""


def text_of(name: str) -> str:
    return (REPORTS / name).read_bytes().decode()


def listed(name: str) -> Ruleset:
    """What the strict parser reads of a plain listing."""
    return parse_iptables(text_of(name).replace("\r", ""))


def rules_of(ruleset: Ruleset) -> dict[str, dict[str, list[str]]]:
    """Every rule's text, by table and chain; the order of chains means nothing."""
    return {
        table.name: {chain.name: [rule.text for rule in chain] for chain in table.chains}
        for table in ruleset.tables
    }


def counts(rules: PodRules) -> list[tuple[int, str, dict[str, int]]]:
    """Of each ruleset the family, the back end, and how many rules each table has."""
    return [
        (
            ruleset.family,
            str(ruleset.backend),
            {table.name: sum(1 for _ in table.rules()) for table in ruleset.tables},
        )
        for ruleset in rules.rulesets
    ]


@pytest.mark.parametrize(
    ("form", "plain"),
    [
        ("01-istio-init-log-1.5-swallowed-x.txt", "01c-save.txt"),
        ("01b-restore-input.txt", "01c-save.txt"),
        ("06-log-1.4-rerun.txt", "06b-save.txt"),
        ("13-oke-init-log-dns.txt", "13c-save.txt"),
        ("13b-restore-only.txt", "13c-save.txt"),
        ("03-stern-prefix.txt", "40-nft-with-legacy-warning.txt"),
        ("21-crlf.txt", FENCED),
        ("21b-defaulted.txt", FENCED),
        ("21d-prompt-save.txt", FENCED),
        ("21e-ansi.txt", FENCED),
        ("21f-quoted-mail.txt", FENCED),
        ("21g-fence.txt", FENCED),
        ("21h-indented.txt", FENCED),
        ("21i-cat-n.txt", FENCED),
        ("21j-prompt-S.txt", FENCED),
        ("26-kubectl-debug.txt", FENCED),
    ],
)
def test_a_form_has_the_rules_of_its_plain_listing(form: str, plain: str) -> None:
    assert rules_of(parse_rules(text_of(form)).rulesets[0]) == rules_of(listed(plain))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("02b-nft-save-thrice.txt", [(4, "nf_tables", {"nat": 19})]),
        ("04-shell-trace-1.1.txt", [(4, "None", {"nat": 12})]),
        ("06-log-1.4-rerun.txt", [(4, "legacy", {"nat": 13}), (6, "legacy", {"filter": 0})]),
        ("07-vm-docker-L-v.txt", [(4, "None", {"nat": 24})]),
        ("07n-vm-docker-L-n-v.txt", [(4, "None", {"nat": 24})]),
        ("08b-vm-docker-whole.txt", [(4, "legacy", {"nat": 26})]),
        ("09-telepresence-uid0.txt", [(4, "nf_tables", {"nat": 22, "raw": 8})]),
        ("10-telepresence-2.6.txt", [(4, "None", {"nat": 26})]),
        ("11-bpf-object-pinned.txt", [(4, "legacy", {"nat": 20})]),
        ("11b-bpf-bytecode.txt", [(4, "legacy", {"nat": 20})]),
        ("16-ip6-filter-reject.txt", [(6, "legacy", {"filter": 3})]),
        ("16b-ip6-L.txt", [(6, "None", {"filter": 3})]),
        ("19-kubevirt-L-n-v.txt", [(4, "None", {"nat": 19})]),
        ("21c-prompt-L.txt", [(4, "None", {"nat": 19})]),
        ("24-iptables-L-without-t-nat.txt", [(4, "None", {"filter": 0})]),
        ("24b-iptables-S-without-t-nat.txt", [(4, "None", {"filter": 0})]),
        ("31-both-families.txt", [(4, "legacy", {"nat": 19}), (6, "legacy", {"nat": 18})]),
        ("32-both-backends.txt", [(4, "legacy", {"nat": 19}), (4, "nf_tables", {"nat": 19})]),
        ("35-include-outbound-ports-8443.txt", [(4, "legacy", {"nat": 20})]),
        ("36-jc550-x.txt", [(4, "None", {"filter": 4})]),
        ("37-jc675-no-target.txt", [(4, "None", {"filter": 3})]),
        ("38-linkerd-L-line-numbers.txt", [(4, "None", {"nat": 5})]),
        ("38b-linkerd-log.txt", [(4, "legacy", {"nat": 0})]),
        ("40-nft-with-legacy-warning.txt", [(4, "nf_tables", {"nat": 18})]),
        ("F1-dnat-anywhere.txt", [(4, "None", {"nat": 4})]),
        ("F1b-istio-1.8.3-and-a-udp-dnat.txt", [(4, "legacy", {"nat": 20})]),
    ],
)
def test_a_form_is_read_as_what_it_is_of(form: str, expected: list) -> None:
    assert counts(parse_rules(text_of(form))) == expected


@pytest.mark.parametrize(
    ("form", "rules"), [("20-squeezed-blanks-L-n.txt", 11), ("20c-trimmed-L-n-v.txt", 12)]
)
def test_a_listing_whose_blanks_or_empty_chains_were_cut_is_read(form: str, rules: int) -> None:
    (ruleset,) = parse_rules(text_of(form)).rulesets
    assert sum(1 for _ in ruleset.rules()) == rules


@pytest.mark.parametrize(
    ("form", "code", "line"),
    [
        ("02-grep-istio-nft-thrice.txt", "IS276", 2),
        ("02c-grep-istio-of-save.txt", "IS276", 5),
        ("02d-grep-A-of-save.txt", "IS276", 1),
        ("08-vm-docker-truncated.txt", "IS274", 1),
        ("20b-S-without-P.txt", "IS276", 5),
        ("27-no-ipv6-1.4.21.txt", "IS271", 1),
        ("27b-notroot.txt", "IS271", 1),
        ("28-cut-mid-line.txt", "IS207", 23),
        ("33-kubectl-error.txt", "IS271", 1),
        ("33b-oci.txt", "IS271", 1),
    ],
)
def test_what_is_not_whole_is_refused_at_its_line(form: str, code: str, line: int) -> None:
    with pytest.raises(ParseError) as raised:
        parse_rules(text_of(form), source=form)
    assert (raised.value.failure.code, raised.value.line) == (code, line)
    assert raised.value.failure.cause
    assert raised.value.failure.fix
    assert str(raised.value).startswith(f"{form}:{line}: ")


@pytest.mark.parametrize("form", ["25-nft-list-ruleset.txt", "25b-nft.json", "25c-istio-native-nft.txt"])
def test_the_form_of_nft_is_read(form: str) -> None:
    rules = parse_rules(text_of(form))
    assert rules == parse_nftables(text_of(form))
    assert [str(ruleset.backend) for ruleset in rules.rulesets] == ["nf_tables"] * 2
    assert rules.native_read


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*")), ids=lambda path: path.name)
def test_each_rule_is_placed_at_the_line_that_holds_it(path: Path) -> None:
    text = path.read_bytes().decode()
    try:
        rules = parse_rules(text, source="there")
    except ParseError:
        return
    lines = text.split("\n")
    for rule in (rule for ruleset in rules.rulesets for rule in ruleset.rules()):
        if path.suffix == ".json":
            continue  # all of it is one line
        file, _, number = rule.location.rpartition(":")
        assert file == "there"
        target = rule.text.partition(" -j ")[2].split(" ")[0]
        assert target in lines[int(number) - 1]


def test_every_recording_is_held_by_a_case() -> None:
    cases = Path(__file__).read_text()
    recordings = [path.name for path in REPORTS.glob("*") if path.suffix != ".jsonl"]  # those are packets
    assert [name for name in recordings if f'"{name}"' not in cases] == []
