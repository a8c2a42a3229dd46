"""What is said of options, releases and pods of Istio that cannot be meant: IS3.

Knows the words. Does not know when they are said.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import IN_THE_TEXT, Message

_RULES_OF_RELEASE = "give another value: istio-init of a pod with this one fails too"

# Options.
NOT_A_TRUTH = Message("IS301", "{option} is True or False, not {value!r}", help=IN_THE_TEXT)
NO_SUCH_WORD = Message("IS302", "{option} is {known}, not {text!r}", help=IN_THE_TEXT)
NO_INTERFACE = Message(
    "IS304",
    "{option}: {text!r} is no interface's name",
    help="at most 15 characters, without a blank and without /",
)
EXCLUDES_ALL = Message(
    "IS305",
    '{option} cannot be *: Istio refuses it ("invalid value for {variable}")',
    help="name ranges; to redirect nothing outbound, leave outbound_ip_ranges_include empty",
)
TOO_MANY_GROUPS = Message("IS306", "{option} has {count} groups; Istio takes {most}", help=IN_THE_TEXT)
NO_LOOPBACK = Message(
    "IS307",
    "{option} is a range of IPv4 loopback addresses of /8 to /32, not {text!r}",
    help=IN_THE_TEXT,
)
NO_SERVER = Message("IS308", "{option}: {server!r} is no IPv{family} address", help=IN_THE_TEXT)
NO_SUCH_OPTION = Message("IS309", "Istio has no option {option}{hint} There are {known}", help=IN_THE_TEXT)
NOT_NAME_VALUE = Message("IS310", "{text!r} is no option; write it as NAME=VALUE", help=IN_THE_TEXT)
NO_GROUP = Message(
    "IS311",
    "{option}: the proxy's image has no group {group}; iptables-restore refuses every rule then "
    '(Bad value for "--gid-owner" option: "{group}")',
    help="give the group's number",
)
NO_OPTION_TEXT = Message(
    "IS312",
    '{option} is text as Istio writes it ("80,8080"), a number or a list, not {value!r}',
    help=IN_THE_TEXT,
)
NO_PORT = Message("IS313", "{option}: {text!r} is no port", help="0 to 65535, or a range 8000:8010")
PORTS_REVERSED = Message(
    "IS314",
    "{option}: {text!r} ends before it begins; iptables-restore refuses every rule then",
    help="the lower port stands first",
)
NO_OPTION_NUMBER = Message("IS315", "{option}: {text!r} is no number up to {most}", help=IN_THE_TEXT)
OPTIONS_TWICE = Message("IS316", "give options, or single ones by name, not both", help=IN_THE_TEXT)
BLANK_IN_RANGES = Message(
    "IS317",
    "{option}: {text!r} has a blank, and a range with a blank is none: Istio's webhook refuses the pod",
    fix="write it as {right}",
)
NO_ENVOY_PORT = Message(
    "IS319",
    "{option}: {text!r} is no port that Envoy could listen on",
    help="one port, 1 to 65535",
)
NOBODY_NAMED = Message("IS329", "{option}: {text!r} names nobody", help="a number, or several: 1337,0")
NO_ADDRESSES = Message(
    "IS330",
    "{option}: {text!r} is no range of addresses: Istio's webhook refuses the pod",
    help="write it as 10.0.0.0/8",
)
GIVEN_TWICE = Message(
    "IS331",
    "{option} is given twice, as {first!r} and as {second!r}",
    help="give it once, with all that it is to hold",
)
SAME_PORT = Message(
    "IS332",
    "proxy_port and inbound_capture_port are both {port}: Envoy takes each direction on a port of its own",
    help="give them two ports",
)
NO_OPTION_NAMED = Message(
    "IS318",
    "Istio has no option without a name, as in {text!r}; to accept none, leave the argument out",
    help="names of options with commas between them: excludeInboundPorts,proxy_uid",
)

# Releases and their rules.
NO_RELEASE = Message("IS321", "{version!r} is not a release of Istio; write it as 1.8.3", help=IN_THE_TEXT)
RELEASE_TOO_OLD = Message(
    "IS322",
    "the rules of Istio {version} are not described; the oldest described is 1.5.0",
    help="tests of your own can judge such rules; no expectation can",
)
NO_FAMILY = Message("IS323", "family is 4 or 6, not {family!r}", help=IN_THE_TEXT)
NO_RANGE = Message(
    "IS324",
    "{option}: {text!r} is no range in CIDR; Istio refuses it since 1.27",
    help="write it as 10.0.0.0/8",
)
EMPTY_MEMBER = Message(
    "IS325",
    "{option}: {text!r} has an empty member; istio-iptables of {release} hands it on, "
    "and iptables-restore refuses every rule",
    help="leave out the comma too many",
)
CHAIN_NOT_MADE = Message(
    "IS326",
    "iptables-restore refuses `-A {chain} {rule}`: no rule is in {target}, "
    "so istio-init does not make that chain",
    help=_RULES_OF_RELEASE,
)
RULE_REFUSED = Message("IS327", "iptables-restore refuses `{rule}`: {problem}", help=_RULES_OF_RELEASE)
RANGE_PASSED_OVER = Message(
    "IS328",
    "{option}: {text!r} is no range in CIDR; istio-init of {release} passes it over with a line in its log",
    help="write it as 10.0.0.0/8; Istio's webhook refuses the pod, and since 1.27 istio-init does",
)

# Pods.
TRUTH_UNKNOWN = Message("IS341", "{name}: {value!r} is neither true nor false", help="true or false")
NO_POD = Message(
    "IS342",
    "this is no pod as the API server returns it: kind {kind!r}",
    help="kubectl get pod NAME -o json prints one",
)
NOT_INJECTED = Message(
    "IS343",
    "pod {pod} has no istio-proxy container: it is not injected",
    help="label its namespace istio-injection=enabled and restart the workload",
)
NO_FLAG = Message(
    "IS344",
    "{program} has no flag {flag}: it ends on it, and makes no rule",
    help="give the options by name; a newer release may have flags that are not described here",
)
FLAG_WITHOUT_VALUE = Message(
    "IS345", "{program} {flag} lacks its value: it ends on it, and makes no rule", help=IN_THE_TEXT
)
NO_NAT_TABLE = Message(
    "IS346",
    "no IPv{family} rules were read, so there is no nat table to judge",
    help="read the pod's tables of that family too",
)
NO_ROUTING_RULE = Message(
    "IS347", "ip rule printed what is no rule: {line!r}", help="the pod's `ip` prints another form: report it"
)
NO_ENVOY_ANSWER = Message(
    "IS348",
    "not the JSON object that Envoy's admin interface answers",
    help="ask /listeners?format=json and /config_dump at port 15000 of the pod",
)
ENVOY_SAID_NOTHING = Message(
    "IS349",
    "not the JSON object that Envoy's admin interface answers: nothing",
    cause="Envoy's admin port did not answer",
    help="is the sidecar ready, and its admin port 15000?",
)
ONLY_HELP = Message("IS350", "{program} {flag} prints its help, and makes no rule", help=IN_THE_TEXT)
