"""What a notebook shows of a trace and of a report of bypasses."""

from xml.etree import ElementTree as ET

from pytest_istio_sidecar import (
    BypassReport,
    bypasses,
    expected_ruleset,
    inbound,
    outbound,
    parse_iptables_save,
    trace,
)

RULES = expected_ruleset("1.8.3")
NAMED = """*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m comment --comment "<script>alert(1)</script>&" -j REDIRECT --to-ports 15006
COMMIT
"""


def rows_of(html: str) -> list[tuple[list[str], bool]]:
    """The cells of each row, and whether they are marked."""
    rows = ET.fromstring(html).findall("table/tbody/tr")
    return [(["".join(cell.itertext()) for cell in row], row.find("td/mark") is not None) for row in rows]


def test_a_trace_is_a_table_of_the_rules_it_met_with_the_deciding_one_marked():
    rows = rows_of(trace(RULES, inbound(80))._repr_html_())
    marked = [cells for cells, is_marked in rows if is_marked]
    assert len(rows) == 8
    assert [cells[:3] for cells in marked] == [
        ["nat", "ISTIO_IN_REDIRECT", "-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006"]
    ]


def test_its_title_tells_where_the_packet_goes():
    redirected = ET.fromstring(trace(RULES, outbound("198.51.100.7", 443))._repr_html_())
    unchanged = ET.fromstring(trace(RULES, inbound(22))._repr_html_())
    assert redirected.findtext("b") == "OUTPUT 198.51.100.7:443: redirected to 127.0.0.1:15001"
    assert unchanged.findtext("b") == "PREROUTING 192.0.2.10:22: unchanged"


def test_what_cannot_be_told_says_why():
    rules = parse_iptables_save(
        "*nat\n:PREROUTING ACCEPT\n-A PREROUTING -m ecn --ecn-tcp-ece -j DROP\nCOMMIT\n"
    )
    html = trace(rules, inbound(80))._repr_html_()
    assert "unknown" in (ET.fromstring(html).findtext("b") or "")
    assert "rule 1 of PREROUTING" in html.partition("</table>")[2]


def test_text_of_a_pod_is_never_markup():
    html = trace(parse_iptables_save(NAMED), inbound(80))._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in html


def test_a_report_marks_what_is_not_by_design():
    excluding = expected_ruleset("1.8.3", inbound_ports_exclude="15090,15021,8443,15020")
    html = bypasses(excluding, expected=RULES)._repr_html_()
    rows = rows_of(html)
    assert [cells for cells, is_marked in rows if is_marked] == [
        ["inbound tcp 8443", "-A ISTIO_INBOUND -p tcp -m tcp --dport 8443 -j RETURN", "no"]
    ]
    assert ["inbound not tcp", "the chain's policy", "yes"] in [cells for cells, _ in rows]
    assert "AF_PACKET" in html


def test_a_report_of_nothing_is_a_table_too():
    assert rows_of(BypassReport(inbound=(), outbound=(), conditional=())._repr_html_()) == []
