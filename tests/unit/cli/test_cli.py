"""`istio-sidecar trace`: arguments, output and exit statuses."""

import json
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save
from pytest_istio_sidecar.cli import main

LAB = Path(__file__).parents[2] / "data" / "lab-listing-1.8.3.txt"


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "pod.rules"
    path.write_text(render_save(expected_ruleset("1.8.3")))
    return str(path)


def test_the_first_line_tells_packet_and_fate(rules, capsys):
    assert main(["trace", rules, "--inbound", "tcp/80"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "inbound tcp 80: redirected to 192.0.2.10:15006"


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("80", "inbound tcp 80: redirected to 192.0.2.10:15006"),
        ("443", "inbound tcp 443: redirected to 192.0.2.10:15006"),
        ("https", "inbound tcp 443: redirected to 192.0.2.10:15006"),
        ("tcp:22", "inbound tcp 22: unchanged"),
        ("tcp/ssh", "inbound tcp 22: unchanged"),
        ("UDP/53", "inbound udp 53: unchanged"),
        ("proto/80", "inbound proto/80: unchanged"),
        ("proto/6/80", "inbound tcp 80: redirected to 192.0.2.10:15006"),
        ("icmp", "inbound icmp: unchanged"),
        ("gre", "inbound gre: unchanged"),
    ],
)
def test_a_number_or_a_service_is_a_tcp_port_unless_a_protocol_stands_before_it(rules, capsys, text, packet):
    assert main(["trace", rules, "--inbound", text]) == 0
    assert capsys.readouterr().out.splitlines()[0] == packet


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("10.1.2.3:https", "outbound tcp 443 to 10.1.2.3 from uid 1000: redirected to 127.0.0.1:15001"),
        ("udp:10.1.2.3:53", "outbound udp 53 to 10.1.2.3 from uid 1000: unchanged"),
        ("icmp/10.1.2.3", "outbound icmp to 10.1.2.3 from uid 1000: unchanged"),
        ("proto/80/10.1.2.3", "outbound proto/80 to 10.1.2.3 from uid 1000: unchanged"),
    ],
)
def test_an_outbound_packet_has_a_port_where_its_protocol_has_ports(rules, capsys, text, packet):
    assert main(["trace", rules, "--outbound", text]) == 0
    assert capsys.readouterr().out.splitlines()[0] == packet


def test_an_outbound_packet_of_ipv6_stands_in_brackets(tmp_path, capsys):
    path = tmp_path / "pod.rules6"
    path.write_text(render_save(expected_ruleset("1.20.8", family=6)))
    assert main(["trace", f"ip6:{path}", "--outbound", "[2001:db8::5]:443"]) == 0
    told = capsys.readouterr().out.splitlines()[0]
    assert told == "outbound IPv6 tcp 443 to 2001:db8::5 from uid 1000: redirected to [::1]:15001"


def test_an_outbound_packet_is_sent_by_an_ordinary_user_unless_told(rules, capsys):
    assert main(["trace", rules, "--outbound", "10.1.2.3:443"]) == 0
    assert main(["trace", rules, "--outbound", "10.1.2.3:443", "--uid", "1337"]) == 0
    first, second = (line for line in capsys.readouterr().out.splitlines() if line.startswith("outbound"))
    assert first == "outbound tcp 443 to 10.1.2.3 from uid 1000: redirected to 127.0.0.1:15001"
    assert second == "outbound tcp 443 to 10.1.2.3 from uid 1337: unchanged"


def test_the_path_shows_the_deciding_rule_without_colour_where_no_terminal_is(rules, capsys):
    main(["trace", rules, "--inbound", "tcp/80"])
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "decides" in line]
    assert "-p tcp -j REDIRECT --to-ports 15006" in line
    assert "\x1b" not in out


def test_the_last_line_tells_whether_envoy_gets_it(rules, capsys):
    main(["trace", rules, "--inbound", "tcp/80"])
    main(["trace", rules, "--inbound", "tcp/22"])
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("So ")]
    assert told == [
        "So inbound tcp 80 comes to 192.0.2.10:15006: Envoy inbound listener :15006.",
        "So inbound tcp 22 comes to 192.0.2.10:22 itself, without Envoy.",
    ]


def test_explain_tells_every_rule_that_was_met_and_the_end(rules, capsys):
    main(["trace", rules, "--inbound", "tcp/22", "--explain"])
    out = " ".join(capsys.readouterr().out.split())
    assert "rule 1 is for `-p tcp --dport 15008`, which this packet is not." in out
    assert "rule 2 is for `-p tcp --dport 22`: it goes back to where it came from. This decides." in out
    assert out.endswith("So inbound tcp 22 comes to 192.0.2.10:22 itself, without Envoy.")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("", "it is counted and goes on"),
        (" -j ACCEPT", "it is accepted"),
        (" -j REDIRECT", "it is redirected to this pod"),
        (" -j REDIRECT --to-ports 15006", "it is redirected to port 15006 of this pod"),
        (" -j REDIRECT --to-ports 15006-15008", "it is redirected to port 15006-15008 of this pod"),
        (" -j MINE", "it goes through MINE and, if nothing there decides, comes back"),
        (" -g MINE", "it goes on in MINE"),
        (" -j MARK --set-xmark 0x539/0xffffffff", "its mark is changed"),
    ],
)
def test_explain_says_what_each_target_does(tmp_path, capsys, target, said):
    path = tmp_path / "listing"
    rule = f"-A PREROUTING -p tcp{target}\n"
    path.write_text(f"*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:MINE - [0:0]\n{rule}COMMIT\n")
    main(["trace", str(path), "--inbound", "80", "--explain"])
    assert f"rule 1 is for `-p tcp`: {said}" in " ".join(capsys.readouterr().out.split())


def test_a_packet_of_no_process_and_one_of_udp_can_be_given(rules, capsys):
    assert main(["trace", rules, "--outbound", "10.1.2.3:443", "--uid", "none"]) == 0
    assert main(["trace", rules, "--outbound", "udp/10.1.2.3:53"]) == 0
    out = capsys.readouterr().out
    assert "outbound tcp 443 to 10.1.2.3 from uid none: redirected to 127.0.0.1:15001" in out
    assert "outbound udp 53 to 10.1.2.3 from uid 1000: unchanged" in out


def test_a_listing_that_hides_something_is_completed_from_the_release_that_is_named(capsys):
    assert main(["trace", str(LAB), "--inbound", "tcp/80", "--istio-version", "1.8.3"]) == 0
    assert capsys.readouterr().out.startswith("inbound tcp 80: redirected to 192.0.2.10:15006\n")


def test_it_is_completed_from_what_the_release_is_told(tmp_path, capsys):
    path = tmp_path / "lab.txt"
    row = "RETURN     all  --  anywhere             localhost           \n"
    path.write_text(LAB.read_text().replace(row, row + row.replace("localhost   ", "10.96.0.0/12")))
    packet = ["trace", str(path), "--outbound", "10.96.0.1:443", "--istio-version", "1.8.3"]
    assert main(packet) == 3
    assert main([*packet, "--option", "outbound_ip_ranges_exclude=10.96.0.0/12"]) == 0
    assert "outbound tcp 443 to 10.96.0.1 from uid 1000: unchanged" in capsys.readouterr().out


def test_a_packet_whose_source_is_given_needs_no_address_of_the_pod(rules, capsys):
    packet = ["trace", rules, "--outbound", "10.1.2.3:443", "--interface", "eth0=2001:db8::10/64"]
    assert main(packet) == 2
    assert main([*packet, "--source", "192.0.2.10"]) == 0
    assert "redirected to 127.0.0.1:15001" in capsys.readouterr().out


def test_listings_of_different_tables_are_read_as_one_back_end(tmp_path, capsys):
    nat, filtered = tmp_path / "nat", tmp_path / "filter"
    nat.write_text("*nat\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n")
    filtered.write_text("*filter\n:INPUT DROP\n:OUTPUT ACCEPT\nCOMMIT\n")
    assert main(["trace", str(nat), str(filtered), "--inbound", "tcp/80"]) == 0
    assert capsys.readouterr().out.startswith("inbound tcp 80: dropped\n")
    again = tmp_path / "again"
    again.write_text(nat.read_text())
    assert main(["trace", str(nat), str(filtered), str(again), "--inbound", "tcp/80"]) == 2
    assert "two listings are of the same family (IPv4)" in capsys.readouterr().err


def test_a_picture_of_the_way_is_drawn_into_a_file(rules, tmp_path, capsys):
    assert main(["trace", rules, "--inbound", "tcp/80", "--svg", str(tmp_path / "way.svg")]) == 0
    root = ET.fromstring((tmp_path / "way.svg").read_text())
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "1 -p tcp -j REDIRECT --to-ports 15006 <- decides" in texts
    assert "Envoy inbound listener :15006" in texts
    assert "tcp 15021 Envoy readiness" in texts


def test_json_has_the_fields_of_the_contract(rules, capsys):
    main(["trace", rules, "--inbound", "tcp/22", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"fate", "destination", "mark", "deciding_rule", "steps", "reasons"}
    assert (document["fate"], document["destination"]) == ("unchanged", "192.0.2.10:22")


def test_packets_are_answered_one_line_each(rules, tmp_path, capsys):
    packet = {"hook": "PREROUTING", "protocol": "tcp", "source": "192.0.2.20", "destination": "192.0.2.10"}
    packets = tmp_path / "packets.jsonl"
    packets.write_text("".join(json.dumps({**packet, "destination_port": p}) + "\n" for p in (80, 22)))
    assert main(["trace", rules, "--packets", str(packets)]) == 0
    fates = [json.loads(line)["fate"] for line in capsys.readouterr().out.splitlines()]
    assert fates == ["redirected", "unchanged"]


def test_an_interface_gives_the_redirect_its_address(rules, capsys):
    main(["trace", rules, "--inbound", "tcp/80", "--interface", "eth0=198.51.100.9/24"])
    assert "redirected to 198.51.100.9:15006" in capsys.readouterr().out


def test_what_a_listing_hides_leaves_the_answer_open_and_the_status_says_so(capsys):
    assert main(["trace", str(LAB), "--inbound", "tcp/80"]) == 3
    told = " ".join(capsys.readouterr().out.split())
    assert "its listing does not show -i" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--inbound", "tcp/80"], "cannot read nowhere: No such file or directory"),
        (["RULES", "--inbound", "tcp/frob"], "port 'frob': expected 0 to 65535"),
        (["RULES", "--inbound", "tcp/65536"], "port '65536': expected 0 to 65535"),
        (["RULES", "--inbound", "tcp/"], "port '': expected 0 to 65535"),
        (["RULES", "--inbound", ""], "port '': expected 0 to 65535"),
        (["RULES", "--inbound", "\u0668\u0660"], "expected 0 to 65535"),
        (["RULES", "--inbound", "frob/80"], "protocol 'frob'"),
        (["RULES", "--inbound", "80/tcp"], "protocol '80': expected proto/1 to proto/255"),
        (["RULES", "--inbound", "proto/256"], "protocol 'proto/256': expected proto/1 to proto/255"),
        (["RULES", "--inbound", "frob"], "write it as 80, https, udp/53, icmp or proto/47"),
        (["RULES", "--inbound", "9000-9010"], "one packet is traced; for many ask istio-sidecar bypasses"),
        (["RULES", "--inbound", "80,443"], "one packet is traced; for many ask istio-sidecar bypasses"),
        (["RULES", "--inbound", "proto/7-16"], "one packet is traced; for many ask istio-sidecar bypasses"),
        (
            ["RULES", "--outbound", "10.1.2.3:1-9"],
            "one packet is traced; for many ask istio-sidecar bypasses",
        ),
        (["RULES", "--outbound", "example:80"], "write it as 10.1.2.3:443 or [2001:db8::1]:443"),
        (["RULES", "--outbound", "10.1.2.3"], "--outbound 10.1.2.3: the port is missing; write it as"),
        (["RULES", "--outbound", "443"], "'443' does not appear to be an IPv4 or IPv6 address"),
        (["RULES", "--outbound", "frob/10.1.2.3:80"], "protocol 'frob'"),
        (["RULES", "--outbound", "2001:db8::1:443"], "an IPv6 address stands in brackets"),
        (["RULES", "--outbound", "[2001:db8::1]:80"], "the packet is IPv6, but no listing given is"),
        (["RULES", "--inbound", "tcp/80", "--uid", "5"], "--uid and --gid are for --outbound"),
        (["RULES", "--inbound", "tcp/80", "--interface", "eth0"], "write it as eth0=192.0.2.10/24"),
        (["RULES", "RULES", "--inbound", "tcp/80"], "a listing is named twice"),
        (["ip6:", "--inbound", "tcp/80"], "names no file"),
        (["RULES", "--inbound", "tcp/80", "--option", "proxy_uid=0"], "give --istio-version too"),
    ],
)
def test_wrong_use_ends_with_status_2_and_says_what_is_wrong(rules, capsys, arguments, message):
    assert main(["trace", *(rules if a == "RULES" else a for a in arguments)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("option", ["--uid", "--gid"])
def test_a_user_that_is_no_number_is_refused_with_what_it_may_be(rules, capsys, option):
    with pytest.raises(SystemExit) as ended:
        main(["trace", rules, "--outbound", "192.0.2.7:80", option, "root"])
    assert ended.value.code == 2
    assert f"argument {option}: 'root': expected a number or none" in capsys.readouterr().err


def test_a_packet_line_that_is_no_object_is_refused_with_what_it_may_be(rules, tmp_path, capsys):
    packets = tmp_path / "packets.jsonl"
    packets.write_text("80\n")
    assert main(["trace", rules, "--packets", str(packets)]) == 2
    assert "line 1: expected a JSON object with Packet's fields" in capsys.readouterr().err


def test_a_packet_line_that_is_none_is_named(rules, tmp_path, capsys):
    packets = tmp_path / "packets.jsonl"
    packets.write_text('\n{"hook": "NOWHERE"}\n')
    assert main(["trace", rules, "--packets", str(packets)]) == 2
    assert f"--packets {packets}, line 2: " in capsys.readouterr().err


HALF = {"hook": "PREROUTING", "protocol": "tcp", "source": "192.0.2.20", "destination": "192.0.2.10"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: expected a JSON object with Packet's fields"),
        (
            json.dumps({**HALF, "dport": 80}),
            "line 1: there is no dport; Packet's fields are hook, protocol, ",
        ),
        (
            '{"hook": "OUTPUT"}',
            "line 1: protocol, source, destination is missing; Packet's fields are hook, ",
        ),
        (json.dumps({**HALF, "destination_port": 99999}), "line 1: destination_port 99999: expected a whole"),
        ("", ": there is no packet in it"),
        ("\n \n", ": there is no packet in it"),
    ],
    ids=["cut", "unknown field", "field missing", "no port", "empty", "blank"],
)
def test_what_is_no_packet_is_told_in_the_words_of_packets(rules, capsys, monkeypatch, line, message):
    monkeypatch.setattr("sys.stdin", StringIO(line))
    assert main(["trace", rules, "--packets", "-"]) == 2
    out, err = capsys.readouterr()
    assert (out, message in err) == ("", True)
    assert not any(word in err for word in ("__init__", "Expecting", "unexpected keyword"))


def test_packets_without_a_name_are_told_to_name_a_file(rules, capsys):
    assert main(["trace", rules, "--packets", ""]) == 2
    assert "--packets names no file; - is standard input" in capsys.readouterr().err


def test_a_redirect_to_a_port_that_nothing_of_istio_listens_on_is_said(tmp_path, capsys):
    path = tmp_path / "pod.rules"
    path.write_text(render_save(expected_ruleset("1.8.3")).replace("--to-ports 15006", "--to-ports 15007"))
    assert main(["trace", str(path), "--inbound", "80"]) == 0
    last = " ".join(capsys.readouterr().out.partition("So ")[2].split())
    assert last == "inbound tcp 80 comes to 192.0.2.10:15007: :15007, which is no port that Istio uses."


def test_a_redirect_to_the_proxy_of_dns_is_named(tmp_path, capsys):
    path = tmp_path / "pod.rules"
    path.write_text(render_save(expected_ruleset("1.20.8", redirect_dns=True, capture_all_dns=True)))
    assert main(["trace", str(path), "--outbound", "udp/10.96.0.10:53"]) == 0
    assert "DNS proxy :15053" in " ".join(capsys.readouterr().out.split())


def test_clean_says_when_nothing_was_left_behind(capsys, monkeypatch, tmp_path):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert main(["clean", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": [], "problems": []}
