"""What checks say: verdicts and notices, IS1; what prevents a verdict, or cannot be asked, IS4.

Knows the words. Does not know when they are said.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import IN_THE_TEXT, Message

_RULES_CHANGED = (
    "`istio-sidecar compare` shows which rules are not Istio's; take them out, or restart the pod so that "
    "istio-init writes its own again"
)
_OPTIONS = "see which option or annotation of the pod lets it by, and take that away or allow the bypass"
_READ_MORE = "read the tables whole: iptables-save of both families and both back ends, as root"
_NOTICE = "a notice fails nothing: look whether it is meant"

# Verdicts on packets.
WRONG_PORT = Message("IS101", "{packet} is sent to :{port} instead of :{wanted}{pod}", help=_RULES_CHANGED)
DROPPED = Message("IS102", "{packet} is {outcome}{pod}", help=_RULES_CHANGED)
REACHED_PAST_ENVOY = Message("IS103", "{packet} reaches the application without Envoy{pod}", help=_OPTIONS)
LEFT_PAST_ENVOY = Message("IS104", "{packet} leaves the application without Envoy{pod}", help=_OPTIONS)
NOT_UNTOUCHED = Message("IS105", "{packet} {outcome}, but should pass untouched{pod}", help=_RULES_CHANGED)
SENT_ELSEWHERE = Message(
    "IS106", "{packet} is sent to {destination}, which is not Envoy{port}{pod}", help=_RULES_CHANGED
)
NOT_EXCLUDED = Message(
    "IS107",
    "{packet} ({purpose}) is captured, but should be excluded{pod}",
    help="exclude the port (traffic.sidecar.istio.io/excludeInboundPorts), or do not expect it to be",
)
NOT_REVIEWED = Message(
    "IS108",
    "{packet} gets by without Envoy{port}, and is not reviewed{options}{pod}",
    help="the line fix has what to write on the project's list; or take the annotation away",
)
ASKED_FOR = Message(
    "IS109", "{packet} gets by without Envoy{port}, as the pod asks for it ({options})", help=_NOTICE
)
REVIEWED = Message(
    "IS110", "{packet} gets by without Envoy{port}{asked}; reviewed until {until}: {why}", help=_NOTICE
)
NO_IPV6_RULES = Message(
    "IS111",
    "{option}: {text} changes nothing: the pod has no IPv6 rules, so that all IPv6 gets by without Envoy",
    help="ISTIO_DUAL_STACK, or an IPv6 address as the pod's first, has IPv6 captured",
)

# Verdicts on pods.
SIDECAR_MISSING = Message(
    "IS181",
    "{pod} has no sidecar, though it should: {why}",
    fix="{fix}",
    help="what asks for a sidecar has to be there when the pod is made: restart the workload",
)
NO_RULE_OF_ISTIO = Message(
    "IS182",
    "{pod} has a sidecar, and no rule of Istio's that would send it any traffic",
    help="see the log of istio-init, or of istio-cni on the node; restart the pod",
)
IPV6_LEFT_ALONE = Message(
    "IS112",
    "all IPv6 gets by without Envoy, as the pod's first address is no IPv6 one (enable_ipv6: false){pod}",
    help="ISTIO_DUAL_STACK, or an IPv6 address as the pod's first, has IPv6 captured",
)
TAKEN_FOR_ENVOY = Message(
    "IS113",
    "what {who} {id} sends is taken for Envoy's, whose {who} is {template} by the template "
    "({option}: {id}); nothing that was read tells that only the sidecar runs so",
    help="look whom the pod's other containers run as",
)

# Verdicts on rules.
NONE_COMES = Message(
    "IS121", "no {protocol} packet comes from {source} to {target}{pod}", help=_RULES_CHANGED
)
NOT_ALL_COME = Message(
    "IS122",
    "not every {protocol} packet comes from {source} to {target}: {packet} does not{pod}",
    help=_RULES_CHANGED,
)
NO_REDIRECT = Message("IS123", "{chain} does not redirect tcp to :{port}{pod}", help=_RULES_CHANGED)
NO_CHAIN = Message(
    "IS124",
    "the {table} table has no chain {chain}{pod}",
    help="read the other back end too; is the pod injected, and by istio-init rather than ambient or CNI?",
)
DEAD_RULE = Message("IS125", "{chain} rule {number} is dead{pod}: {reason}", help=_NOTICE)
RULE_WOKEN = Message("IS126", "{rule} matches packets, but should match none", help=_RULES_CHANGED)
NOT_ISTIOS = Message(
    "IS127", "{chains}{pod} {verb} not Istio {version}'s: {differences}{effect}", help=_RULES_CHANGED
)
REPLICA_DIFFERS = Message(
    "IS128",
    "{replica} has other rules than {pod}",
    help="restart the workload, so that all its pods are injected alike",
)
NO_POLICY_ROUTE = Message(
    "IS129",
    "TPROXY marks IPv{family} packets with {mark:#x}, and no policy route keeps them in the pod{pod}",
    help="the commands of the line fix, in the pod's network namespace; or restart the pod",
)

LED_ASTRAY = Message(
    "IS130",
    "rules and routes of the namespace lead packets elsewhere than Istio {version} means{pod}",
    help="find out who added the lines of routing, and take them out: ip rule del, ip route del",
)

# Verdicts on listeners and the agent.
NOT_LISTENING = Message(
    "IS141", "Envoy does not listen on :{port}", help="is the sidecar ready? `istioctl proxy-status` tells"
)
OTHER_DIRECTION = Message(
    "IS142", "Envoy listens on :{port} for {direction} traffic, not {wanted}", help="expect the other port"
)
NOT_TAKEN = Message(
    "IS143",
    "{packet} is sent to {destination}, where {reason}{pod}",
    help="give rules and Envoy the same ports: istio-init's options against the bootstrap's",
)
UNFED = Message(
    "IS144", "no rule sends traffic to Envoy's {direction} listener on :{port}{pod}", help=_NOTICE
)
SERVED_ALL_THE_SAME = Message(
    "IS145",
    "{packet} is not redirected, and comes to Envoy all the same: it listens on {port}{pod}",
    help=_NOTICE,
)
AGENT_SILENT = Message(
    "IS146", "{packet} is left to the agent, which does not listen there{pod}", help=_NOTICE
)
DNS_UNANSWERED = Message(
    "IS147", "DNS by {protocol} is sent to {destination}, where nothing listens{pod}", help=_NOTICE
)

NOT_ENVOYS = Message(
    "IS148",
    "a socket on Envoy's port {port} is not Envoy's: {socket}{pod}",
    help="find the process that holds it (ss -ltnp in the pod): it takes connections meant for Envoy",
)
MAY_BE_SHARED = Message(
    "IS149",
    "{count} sockets share {address}: that all are of Envoy's workers was not seen{pod}",
    help="a notice fails nothing: read as root where the processes can be seen (--istio-reader=node)",
)

# Verdicts on real requests.
OTHER_LISTENER = Message(
    "IS161", "{request} was captured by the {direction} listener{pod}", help=_RULES_CHANGED
)
WITHOUT_ENVOY = Message("IS162", "{request} was answered by {peer} without Envoy{pod}", help=_OPTIONS)
SEEN_BY_NOBODY = Message(
    "IS163",
    "{request} was not seen by Envoy, and nobody answered it{pod}",
    help="look at what the pod answers there, and at NetworkPolicies",
)
CAPTURED = Message("IS164", "{request} was {outcome}{pod}", help=_RULES_CHANGED)

# What prevents a verdict.
NO_RULES_READ = Message("IS401", "{packet}: no IPv{family} rules were read{pod}", help=_READ_MORE)
IPV6_UNTOLD = Message(
    "IS417",
    "whether IPv6 is to go through Envoy cannot be told{pod}: no rule of Istio's was read of ip6tables, "
    "and nobody said whether there should be any",
    fix="say that there should not, as where the pod's first address is an IPv4 one: enable_ipv6=false "
    "(--istio-option, --option); else enable_ipv6=true",
)
NOT_TOLD = Message("IS402", "{packet}: the rules read do not tell what becomes of it{pod}", help=_READ_MORE)
HOST_NOT_STATED = Message(
    "IS416",
    "whether `{rule}`{place} lets packets by depends on the pod's own addresses and interfaces, which nobody "
    "stated{pod}",
    fix="state them as `ip address` prints them in the pod: --interface eth0=10.244.0.7/24 (with "
    "pytest --istio-interface; in Python host=Host(interfaces=…))",
)
NEITHER_TELLS = Message(
    "IS403",
    "{packet}: neither side tells what becomes of it",
    help="the expected rules have a condition that is not modelled: report it",
)
BYPASS_NOT_TOLD = Message(
    "IS404", "{packet}: the rules read do not tell whether it gets by{pod}", help=_READ_MORE
)
NOTHING_READ = Message("IS405", "no IPv{family} rules were read, so they cannot be compared", help=_READ_MORE)
OTHER_MODE = Message(
    "IS406",
    "these rules cannot be compared with istio-init's: {mode}",
    help="what the pod is captured by is not judged; its rules can be traced all the same",
)
NO_ISTIO_CHAIN = Message(
    "IS407",
    "no chain of Istio's is in these rules: there is no release to guess",
    help="read the other back end too",
)
NOBODY_ANSWERED = Message(
    "IS408",
    "{request} was answered by nobody{pod}, so it proves nothing",
    help="send it to a port that something answers on",
)
NOTHING_SHOWS = Message(
    "IS409",
    "{request}: nothing shows whether Envoy saw it{pod}",
    help="--istio-traffic, and a reader that sees the connections of the pod",
)
TABLE_NOT_READ = Message(
    "IS415",
    "{question} cannot be told: table {table} was not read, or not all of it{pod}",
    fix="give {program}-save, which is whole, or {program} -t {table} -S as well",
)

OPTED_OUT = Message(
    "IS411",
    "{pod} is not to have a sidecar: {why}",
    note="nothing of this pod was checked, as there is nothing to prove",
    fix="name another workload, or take that out of the pod template",
)
IS_AMBIENT = Message(
    "IS412",
    "{pod} is in ambient mode: ztunnel on its node captures its traffic, and no sidecar",
    note="nothing of this pod was checked, as there is no sidecar to judge",
    fix="name a workload with a sidecar",
)
NATIVE_NOT_READ = Message(
    "IS413",
    "no rule of Istio's was found in iptables of {pod}, and nf_tables' own tables were not read",
    cause="{release} can write its rules there (nativeNftables), where iptables does not show them",
    fix="let `nft list ruleset` be read: give what it prints as well (native:FILE), or read the pod with "
    "--istio-reader=node or debug, where nft is installed",
    note="whether the pod has rules was not seen",
)
BACK_END_NOT_READ = Message(
    "IS418",
    "no rule of Istio's was found in what was read of {pod}, and not both back ends of iptables were read",
    cause="a pod's rules are in one of the two, legacy or nf_tables, and a listing of the other shows none",
    fix="give both: {reason}",
    note="whether the pod has rules was not seen",
)
IS_GATEWAY = Message(
    "IS414",
    "{pod} is a gateway: its istio-proxy is a router, and captures no traffic",
    note="nothing of this pod was checked, as there is no sidecar to judge",
    fix="name a workload with a sidecar",
)

# What cannot be asked.
NO_ENTRY_TO_NAT = Message(
    "IS421", "packets enter nat at PREROUTING or OUTPUT, not at {chain}", help=IN_THE_TEXT
)
NOTHING_EXPECTED = Message(
    "IS422",
    "nothing to compare with: no ruleset is expected",
    help='give the rules of a release: expected_ruleset("1.8.3")',
)
SEVERAL_EXPECTED = Message("IS423", "rules of one back end are expected, not of several", help=IN_THE_TEXT)
FIELD_EMPTY = Message("IS424", "{field!r} has no value: leave it out, or name one", help=IN_THE_TEXT)
NO_FIELD = Message(
    "IS425", "{field!r} is no field of a bypass; known are {known} and other protocols", help=IN_THE_TEXT
)
BYPASS_SHORT = Message(
    "IS426", "{text!r} is no bypass: {wanted} is missing; write it as {examples}", help=IN_THE_TEXT
)
NO_BYPASS = Message(
    "IS427",
    "{text!r} is no bypass: {word!r} where {wanted} should be{form}; write it as {examples}",
    help=IN_THE_TEXT,
)

_FORM = """write each as
[[bypass]]
what = "inbound tcp 8443"
why = "scraped in clear text by the platform's monitoring"
until = 2027-01-31
and where they are meant, pod = "default/httpbin-*" and family = 4; `bypass = []` is a list of none"""

NO_LIST = Message("IS431", "{source} is no list of reviewed bypasses", fix=_FORM)
NO_ENTRY = Message(
    "IS432", "{place} needs what, why and until, may have pod and family, and nothing else", fix=_FORM
)
ENTRY_VALUE = Message("IS433", "{place}: {key} is {value!r}", fix=_FORM)
LIST_NOT_READ = Message("IS434", "{place}: {problem}", help=IN_THE_TEXT)

# What an assertion is given.
NO_PACKET_GIVEN = Message(
    "IS441",
    "{value!r} is no packet; write it as inbound(80), or outbound('198.51.100.7', 443)",
    help=IN_THE_TEXT,
)
NO_PORT_GIVEN = Message("IS442", "port {value!r}: expected a whole number from 1 to 65535", help=IN_THE_TEXT)
NO_DIRECTION = Message("IS443", "direction {value!r}: expected inbound or outbound", help=IN_THE_TEXT)
NO_TABLE_GIVEN = Message(
    "IS445",
    "a table is given as {kind}: expected one of a ruleset's, as in parse_iptables(text).nat",
    help=IN_THE_TEXT,
)
OTHER_TABLE_GIVEN = Message(
    "IS446",
    "this is asked of table {wanted}, where alone rules redirect, and table {table} is given",
    help="give the table {wanted} of the same ruleset",
)
