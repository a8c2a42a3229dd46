"""Values that iptables refuses are an error that names the line; what is merely unknown is not."""

import pytest

from pytest_istio_sidecar import ParseError, inbound, parse_iptables, trace

TEXT = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {}\nCOMMIT\n"
TCP = "-p tcp -m tcp"


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (f"{TCP} --dport 99999 -j RETURN", "--dport 99999: iptables takes 0 to 65535"),
        (f"{TCP} --dport 0:70000 -j RETURN", "--dport 0:70000: iptables takes 0 to 65535"),
        (f"{TCP} --sport 30:20 -j RETURN", "--sport 30:20: the range ends before it begins"),
        (f"{TCP} --dport -5 -j RETURN", "--dport -5: iptables takes 0 to 65535"),
        (f"{TCP} --tcp-flags SYN,FOO SYN -j RETURN", "'FOO' is none of SYN, ACK"),
        ("-p tcp -m multiport --dports 1,99999 -j RETURN", "--dports 1,99999: iptables takes 0 to 65535"),
        (f"-p tcp -m multiport --dports {','.join(map(str, range(1, 17)))} -j RETURN", "takes 15 ports"),
        ("-p 300 -j RETURN", "there is no protocol 300"),
        ("-p tcp -j REDIRECT --to-ports 70000", "--to-ports 70000: iptables takes 0 to 65535"),
        ("-p tcp -j REDIRECT --to-ports 30-20", "--to-ports 30-20: the range ends before it begins"),
        ("-p tcp -j DNAT --to-destination 300.1.1.1:80", "300.1.1.1 is no address"),
        ("-p tcp -j DNAT --to-destination 192.0.2.1:99999", "iptables takes 0 to 65535"),
        (
            "-m owner --uid-owner 4294967295 -j RETURN",
            "--uid-owner 4294967295: iptables takes 0 to 4294967294",
        ),
        ("-m mark --mark 0x1/0x1ffffffff -j RETURN", "iptables takes 0 to 4294967295"),
        ("-j MARK --set-xmark 0x1ffffffff/0x1", "iptables takes 0 to 4294967295"),
        ("-p icmp -m icmp --icmp-type 3/300 -j RETURN", "--icmp-type 3/300: iptables takes 0 to 255"),
        ("-i abcdefghijklmnop -j RETURN", "no interface has a name of more than 15 characters"),
        ("-m conntrack --ctstate NEWER -j RETURN", "'NEWER' is none of INVALID, NEW"),
        ("-m addrtype --dst-type HERE -j RETURN", "'HERE' is none of UNSPEC"),
    ],
)
def test_a_value_that_iptables_refuses_names_the_line(rule, why):
    with pytest.raises(ParseError) as refused:
        parse_iptables(TEXT.format(rule))
    assert refused.value.line == 3
    assert why in str(refused.value)


@pytest.mark.parametrize(
    "rule",
    [
        f"{TCP} --dport :20 -j RETURN",
        f"{TCP} --dport 20: -j RETURN",
        f"{TCP} --dport gopher -j RETURN",
        f"{TCP} --tcp-flags SYN,ACK NONE -j RETURN",
        f"-p tcp -m multiport --dports {','.join(map(str, range(1, 16)))} -j RETURN",
        "-p 255 -j RETURN",
        "-p tcp -j DNAT --to-destination 192.0.2.1-192.0.2.9:80-90",
        "-p tcp -j DNAT --to-destination :80",
        "-m owner --uid-owner 4294967294 -j RETURN",
        "-m owner --uid-owner 20-10 -j RETURN",
        "-m mark --mark 4294967295 -j RETURN",
        "-p icmp -m icmp --icmp-type any -j RETURN",
        "-i abcdefghijklmno -j RETURN",
        "-m conntrack --ctstate new,EST -j RETURN",
        "-m addrtype --dst-type local,UNI -j RETURN",
    ],
)
def test_what_iptables_takes_is_read(rule):
    parse_iptables(TEXT.format(rule))


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("-p tcp -j NOSUCH", "chain NOSUCH of table nat, to which a rule goes, is not in the text"),
        ("-p tcp -g NOSUCH", "chain NOSUCH of table nat, to which a rule goes, is not in the text"),
        (
            "-p tcp -j NFQUEUE --queue-num 1",
            "what `-j NFQUEUE --queue-num 1` does to a packet is not modelled",
        ),
        ("-p tcp -j TARPIT", "what `-j TARPIT` does to a packet is not modelled"),
    ],
)
def test_a_chain_that_is_missing_is_told_from_a_target_that_is_not_known(rule, why):
    assert trace(parse_iptables(TEXT.format(rule)), inbound(80)).reasons == (why,)


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        ("tcp dpt:99999", "--dport 99999: iptables takes 0 to 65535"),
        ("multiport dports 80,1:70000", "--dports 80,1:70000: iptables takes 0 to 65535"),
        ("owner UID match 4294967299", "--uid-owner 4294967299: iptables takes 0 to 4294967294"),
    ],
)
def test_a_listing_of_l_that_shows_such_a_value_names_the_line(shown, why):
    head = "Chain PREROUTING (policy ACCEPT)\ntarget     prot opt source               destination\n"
    with pytest.raises(ParseError, match=why) as refused:
        parse_iptables(f"{head}RETURN     tcp  --  anywhere             anywhere             {shown}\n")
    assert refused.value.line == 3
