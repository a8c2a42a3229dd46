"""What is said of listings, rules and packets that cannot be meant: IS2.

Knows the words. Does not know when they are said.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import IN_THE_TEXT, Message

_SAVE_AGAIN = "save it again, and compare with what the pod prints now"
_EDITED = "give the text as iptables printed it: it was edited, or put together from several"
_HEADLESS = "the beginning of the text is missing"
_SEVERAL = "it is more than one listing"
_ON_ITS_OWN = "give that of each family, back end and -S table on its own, or all of it to parse_rules"

# The whole text.
TEXT_TOO_LONG = Message(
    "IS201",
    "the text has {length:,} characters; more than {limit:,} are not read",
    help="no pod has so many rules: look at what the text is",
)
TEXT_EMPTY = Message(
    "IS202",
    "the text is empty",
    cause="the command printed nothing: this back end holds no table, or the command failed",
    fix="give the output of the other back end too; the folder that `istio-sidecar read` writes has both, "
    "and what is empty there is known to be so",
)
LIST_EMPTY = Message(
    "IS203",
    "the text is empty; a listing names at least one chain, even without rules",
    cause="the command printed nothing: it failed, or its standard output went elsewhere",
    help="read its standard error and exit status",
)
BINARY = Message(
    "IS204", "this is binary data or UTF-16, not text of iptables", help="give what iptables-save prints"
)
NO_TABLE_IN_IT = Message(
    "IS205",
    "there is no table, chain or rule in it",
    help="give the output of iptables-save, or of iptables -t nat -S",
)
NO_LISTING = Message(
    "IS206",
    "this is no listing of iptables -L, which starts with `Chain NAME (...)`",
    help="give the output of iptables -L, or parse it with parse_iptables",
)
CUT_OFF = Message(
    "IS207",
    "table {table} has no COMMIT: the text is cut off",
    cause="the command was stopped, or its output not wholly stored",
    fix="save it again",
)
BREAKS_OFF = Message("IS208", "the text breaks off after the first line of chain {chain}", help=_SAVE_AGAIN)
BOTH_BACK_ENDS = Message(
    "IS209", "the text holds listings of both back ends", cause=_SEVERAL, fix=_ON_ITS_OWN
)
BOTH_FAMILIES = Message("IS210", "the text holds listings of both families", cause=_SEVERAL, fix=_ON_ITS_OWN)
NOT_IP6TABLES = Message(
    "IS211",
    "the text is of iptables, but was to be read as one of ip6tables",
    help="leave out what says IPv6 (family=6, ip6:), or give the output of ip6tables-save",
)
NOT_WHOLE = Message(
    "IS212",
    "iptables cannot show this table, so the listing is not whole",
    help="read with a newer iptables-nft-save, for example from the node",
)
TABLE_NOT_NAMED = Message(
    "IS213",
    "the table is not named, and these chains may be of several",
    cause="iptables -S prints no table's name, and -S CHAIN not all its chains",
    fix="use iptables-save -t nat, or iptables -t nat -S without a chain",
)

# One line of it.
NO_LINE = Message(
    "IS214", "this is no line of iptables-save", help="keep standard error apart from standard output"
)
LINE_TOO_LONG = Message(
    "IS215", "the line has {length:,} characters; {program} prints none so long", help=_EDITED
)
RULE_NOT_READ = Message("IS216", "{reason}", help=_EDITED)
COMMIT_ALONE = Message("IS217", "COMMIT without a table", cause=_HEADLESS, fix="save it again")
COMMIT_MISSING = Message("IS218", "table {table} has no COMMIT before this line", help=_SAVE_AGAIN)
TABLE_IN_S = Message("IS219", "a table in -S", help=_EDITED)
NO_TABLE_NAME = Message("IS220", "this is no table's name", help=_EDITED)
TABLE_TWICE = Message("IS221", "table {table} stands twice", cause=_SEVERAL, fix=_ON_ITS_OWN)
CHAIN_LINE_SHORT = Message("IS222", "a chain's line lacks its name or policy", help=_EDITED)
CHAIN_OUTSIDE = Message("IS223", "a chain outside of a table", cause=_HEADLESS, fix="save it again")
NO_POLICY = Message("IS224", "{policy} is no policy", help="a built-in chain's is ACCEPT or DROP")
NO_CHAIN_NAME = Message("IS225", "{name!r} is no chain's name", help=_EDITED)
CHAIN_TWICE = Message("IS226", "chain {chain} stands twice", cause=_SEVERAL, fix=_ON_ITS_OWN)
LISTED_TWICE = Message(
    "IS227",
    "chain {chain} is listed twice: this is more than one table, or one table more than once; "
    "give each listing on its own",
    help=IN_THE_TEXT,
)
ODD_NAMES = Message(
    "IS228",
    "more than {limit} chains have a name with a blank or a leading quote",
    help="no release of Istio makes such a chain: look at what the text is",
)
RULE_OUTSIDE = Message("IS229", "a rule outside of a table", help=_SAVE_AGAIN)
CHAIN_NOT_DECLARED = Message(
    "IS230", "chain {chain} is not declared before its rule", cause=_HEADLESS, fix="save it again"
)
POLICY_COUNTERS = Message("IS231", "a policy is followed by what is none of its counters", help=_EDITED)
WORDS_OF_COMMAND = Message("IS232", "{command} lacks a word, or has one too many", help=_EDITED)
COMMAND_NOT_LISTED = Message(
    "IS233",
    "{command} stands in no listing; only -A, -N and -P do",
    help="give what is loaded, not the commands that load it",
)
COLUMNS_NOT_NAMED = Message(
    "IS234", "after the first line of chain {chain} its columns should be named", help=_EDITED
)
CHAIN_NOT_LISTED = Message(
    "IS235",
    "chain {chain} is not in the text: part of the listing is missing",
    help="list the whole table, without naming a chain",
)
CIRCLE_LISTED = Message(
    "IS236",
    "chains jump in a circle: {chains}",
    cause="packets reach it from {start}; the kernel refuses such rules, "
    "so this is no listing of what it holds",
    help=_EDITED,
)
NO_SOCKETS = Message(
    "IS237", "/proc/net/{protocol} printed what is no list of sockets: {heading!r}", help="read it with cat"
)
NO_SOCKET = Message(
    "IS238", "/proc/net/{protocol} printed what is no socket: {line!r}", help="read it with cat"
)

# A listing of nft.
NFT_EMPTY = Message(
    "IS291",
    "there is no table in it, and no version of nft",
    cause="nft prints nothing where it has no right to look, and where nf_tables holds nothing",
    fix="take the JSON: nft -j list ruleset prints its own version even then",
)
NFT_NO_JSON = Message(
    "IS292",
    "this is no JSON: {problem}",
    cause="the output was not wholly stored; or a table has flags, at which nft 1.0.6 may break off",
    fix="take the text, where that does not happen: nft list ruleset",
)
NFT_NO_LISTING = Message(
    "IS293",
    "this is no listing of nft: {problem}",
    help="give what nft -j list ruleset prints, or nft list ruleset",
)
NFT_WORD = Message(
    "IS294",
    "nft prints no such text: {problem}",
    help="give what nft list ruleset prints, whole and as it was",
)
NFT_NO_CHAIN = Message(
    "IS295",
    "chain {chain} of table {table} is not in the text: part of the listing is missing",
    help="list the whole ruleset: nft -j list ruleset",
)
NFT_TWICE = Message(
    "IS296",
    "{what} stands twice",
    cause=_SEVERAL,
    fix="give each listing on its own",
)
NFT_CIRCLE = Message(
    "IS297",
    "chains of table {table} jump in a circle: {chains}",
    cause="packets reach it from {start}; the kernel refuses such rules, "
    "so this is no listing of what it holds",
    help=_EDITED,
)
# A text of any form: a log, a paste, several listings.
NOTHING_BEGINS = Message(
    "IS271",
    "no listing of rules begins in this text",
    fix="give what iptables-save, iptables -S or -L, or nft list ruleset prints, or the log of istio-init",
)
NO_LINE_OF_TABLE = Message(
    "IS272",
    "this line stands inside a table of iptables-save, and is none of its lines",
    help="take it out, if it is another program's; if it stands for lines that are missing, save it again",
)
BELONGS_TO_NONE = Message(
    "IS273",
    "this line looks like part of a listing, and the listing's beginning is missing",
    cause="only some lines of it were copied, or something stands between them",
    fix="give the listing whole, from its first line to its last",
)
SOMEBODY_CUT = Message(
    "IS274",
    "lines were left out here, so what the rules do cannot be told",
    cause="somebody shortened the listing, or a page did",
    fix="give the listing whole, from its first line to its last",
)
FILTERED = Message(
    "IS275",
    "this command lets some lines of the listing through only",
    cause="the rules that it leaves out decide as well",
    fix="give what the command prints without the filter behind it",
)
TRIMMED = Message(
    "IS276",
    "the line of chain {chain} itself is missing, so that others may be missing too",
    cause="some lines of a listing were picked, as grep does",
    fix="give the listing whole, from its first line to its last",
)
REFERENCES = Message(
    "IS277",
    "chain {chain} has {said} references, and {seen} of the rules shown go there: rules are missing",
    cause="some lines of a listing were left out",
    fix="give the listing whole, from its first line to its last",
)
SEVERAL_PODS = Message(
    "IS278",
    "the text holds rules from several places: {names}",
    cause="a log of several pods or containers, whose rules are not one pod's",
    fix="give the lines of one pod and one container",
)
TWO_STATES = Message(
    "IS279",
    "table {table} of IPv{family} stands at lines {first} and {second}, each time with other rules",
    cause="listings of two moments, two pods or two back ends, and nothing says which is of which",
    fix="give each on its own, with legacy: or nft: in front of the file's name if they are of two back ends",
)
RESTORE_FAILED = Message(
    "IS280",
    "iptables-restore failed, so that nothing of its input was loaded",
    cause="the log says so; the pod had no rules of this run",
    fix="see why istio-init failed, and read what the pod has now",
)
TOO_MANY_COMMANDS = Message(
    "IS281",
    "these commands change more rules than are followed",
    help="give what iptables-save prints after them",
)
TOO_MANY_LISTINGS = Message(
    "IS285",
    "the text holds more than {limit} listings, and so is none of one pod",
    help="give the part that is of one pod",
)
NATIVE_CUT_OFF = Message(
    "IS283",
    "the listing of nft that begins here has no end: a brace is not closed",
    cause="the command was stopped, or its output not wholly stored",
    fix="list the ruleset again",
)
NFT_LACKS = Message(
    "IS298",
    "iptables shows rules of IPv{family} in table {table}, and nft's listing beside it has no such table",
    cause="nft's listing is of some tables only, of another pod or of another moment",
    fix="give what nft list ruleset prints, of the same pod and whole",
)
LOADED_AFTER = Message(
    "IS284",
    "a listing of IPv{family} at line {first} is followed by commands at line {second}",
    cause="the listing may be of before or after them, and nothing says which",
    fix="give the listing alone, if it is the later one",
)

# What is asked of rules.
TOO_MANY_APART = Message(
    "IS286",
    "these rules tell more packets apart than can be followed: it ends at {at}",
    cause="each condition on a part of a mark or of an address may double what is told apart: masks that "
    "have nothing to do with each other, many rules that each set one bit",
    fix="ask for single packets, which are followed however many rules there are: istio-sidecar trace, "
    "assert_redirected",
    note="whether anything gets by without Envoy was not seen",
)
NO_SUCH_CHAIN = Message("IS251", "table {table} has no chain {chain}; it has {chains}", help=IN_THE_TEXT)
CIRCLE = Message(
    "IS252",
    "table {table}: chains jump in a circle through {chain}",
    help="no kernel loads such rules: correct the ruleset that was put together",
)
OTHER_FAMILY = Message(
    "IS253",
    "rules expected of IPv{expected} cannot complete a listing of IPv{listed}",
    help="give the rules expected of the listing's family",
)
CHAIN_NOT_READ = Message(
    "IS254",
    "whether table {table} has a chain {chain} is not known: the table was not read, or not all of it",
    fix="give {program}-save, which is whole, or {program} -t {table} -S as well",
)

# A packet and its host.
NO_HOOK = Message("IS261", "hook {hook!r}: a packet enters at PREROUTING or OUTPUT", help=IN_THE_TEXT)
FAMILIES_DIFFER = Message(
    "IS262",
    "source {source} and destination {destination} differ in family",
    help="give both addresses of one family",
)
NO_NUMBER = Message(
    "IS263", "{field} {value!r}: expected a whole number from 0 to {highest}", help=IN_THE_TEXT
)
NO_STATE = Message("IS264", "state {state!r}: expected one of {known}", help=IN_THE_TEXT)
NO_PROTOCOL_NAME = Message(
    "IS265", "protocol {protocol!r}: expected a number or one of {known}", help=IN_THE_TEXT
)
NO_PROTOCOL_NUMBER = Message("IS266", "protocol {protocol!r}: expected 1 to 255", help=IN_THE_TEXT)
NO_ADDRESS = Message(
    "IS267", "{field} {value!r} is not an address; write it as 192.0.2.10 or 2001:db8::1", help=IN_THE_TEXT
)
NO_INTERFACE_ADDRESS = Message(
    "IS268", "interface address: {problem}; write it as 192.0.2.10/24", help=IN_THE_TEXT
)
NO_INTERFACE_FORM = Message(
    "IS259", "{text!r} is no interface with an address; write it as eth0=192.0.2.10/24", help=IN_THE_TEXT
)
NO_RULES_GIVEN = Message(
    "IS444",
    "rules are given as {kind}: expected a table, a ruleset or the rules of a pod",
    help="parse_iptables makes a ruleset of a listing; the fixtures pod_rules and iptables_nat have a pod's",
)
NO_POLICY_RULE = Message(
    "IS269",
    "{line!r} is no policy rule in the form of ip-rule(8)",
    help="the pod's `ip` prints another form: report it",
)
NO_ROUTE = Message(
    "IS270",
    "{line!r} is no route in the form of ip-route(8)",
    help="the pod's `ip` prints another form: report it",
)
