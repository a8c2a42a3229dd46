"""`istio-sidecar trace`: arguments, output and exit statuses."""

import json
from pathlib import Path

import pytest

from pytest_istio_sidecar import expected_ruleset, render_save
from pytest_istio_sidecar.cli import main

LAB = Path(__file__).parents[1] / "data" / "lab-listing-1.8.3.txt"


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "pod.rules"
    path.write_text(render_save(expected_ruleset("1.8.3")))
    return str(path)


def test_an_inbound_packet_is_told_in_one_line(rules, capsys):
    assert main(["trace", rules, "--inbound", "tcp/80"]) == 0
    assert capsys.readouterr().out == "inbound tcp/80: redirected to 192.0.2.10:15006\n"


def test_an_outbound_packet_is_sent_by_an_ordinary_user_unless_told(rules, capsys):
    assert main(["trace", rules, "--outbound", "10.1.2.3:443"]) == 0
    assert main(["trace", rules, "--outbound", "10.1.2.3:443", "--uid", "1337"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "outbound tcp to 10.1.2.3:443 from uid 1000: redirected to 127.0.0.1:15001"
    assert second == "outbound tcp to 10.1.2.3:443 from uid 1337: unchanged"


def test_explain_shows_the_deciding_rule(rules, capsys):
    main(["trace", rules, "--inbound", "tcp/80", "--explain"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "decides" in line]
    assert "-p tcp -j REDIRECT --to-ports 15006" in line


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
        (["RULES", "--inbound", "tcp/http"], "port 'http': expected 0 to 65535"),
        (["RULES", "--inbound", "tcp/65536"], "port '65536': expected 0 to 65535"),
        (["RULES", "--inbound", "frob/80"], "protocol 'frob'"),
        (["RULES", "--outbound", "example:80"], "write it as 10.1.2.3:443 or [2001:db8::1]:443"),
        (["RULES", "--outbound", "[2001:db8::1]:80"], "the packet is IPv6, but no listing given is"),
        (["RULES", "--inbound", "tcp/80", "--uid", "5"], "--uid and --gid are for --outbound"),
        (["RULES", "--inbound", "tcp/80", "--interface", "eth0"], "write it as eth0=192.0.2.10/24"),
        (["RULES", "RULES", "--inbound", "tcp/80"], "a listing is named twice"),
        (["ip6:", "--inbound", "tcp/80"], "names no file"),
    ],
)
def test_wrong_use_ends_with_status_2_and_says_what_is_wrong(rules, capsys, arguments, message):
    assert main(["trace", *(rules if a == "RULES" else a for a in arguments)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_packet_line_that_is_none_is_named(rules, tmp_path, capsys):
    packets = tmp_path / "packets.jsonl"
    packets.write_text('\n{"hook": "NOWHERE"}\n')
    assert main(["trace", rules, "--packets", str(packets)]) == 2
    assert f"--packets {packets}, line 2: " in capsys.readouterr().err


def test_clean_says_when_nothing_was_left_behind(capsys, monkeypatch, tmp_path):
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert main(["clean", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": [], "problems": []}
