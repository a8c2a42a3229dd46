"""What is said of listings, rules and packets that cannot be meant: IS2.

Knows the words. Does not know when they are said.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import IN_THE_TEXT, Message

_SAVE_AGAIN = "save it again, and compare with what the pod prints now"
_EDITED = "give the text as iptables printed it: it was edited, or put together from several"
_HEADLESS = "the beginning of the text is missing"
_SEVERAL = "it is more than one listing"
_ON_ITS_OWN = "give that of each family, back end and -S table on its own"

# The whole text.
TEXT_TOO_LONG = Message(
    "IS201",
    "the text has {length:,} characters; more than {limit:,} are not read",
    help="no pod has so many rules: look at what the text is",
)
TEXT_EMPTY = Message(
    "IS202",
    "the text is empty",
    cause="the command printed nothing: it failed, or this back end holds no table",
    fix="read its standard error and exit status",
)
LIST_EMPTY = Message(
    "IS203",
    "the text is empty; a listing names at least one chain, even without rules",
    cause="the command printed nothing: it failed, or its standard output went elsewhere",
    help="read its standard error and exit status",
)
BINARY = Message("IS204", "this is binary data, not text", help="give what iptables-save prints")
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
    "IS281",
    "there is no table in it, and no version of nft",
    cause="nft prints nothing where it has no right to look, and where nf_tables holds nothing",
    fix="take the JSON: nft -j list ruleset prints its own version even then",
)
NFT_NO_JSON = Message(
    "IS282",
    "this is no JSON: {problem}",
    cause="the output was not wholly stored; or a table has flags, at which nft 1.0.6 may break off",
    fix="take the text, where that does not happen: nft list ruleset",
)
NFT_NO_LISTING = Message(
    "IS283",
    "this is no listing of nft: {problem}",
    help="give what nft -j list ruleset prints, or nft list ruleset",
)
NFT_WORD = Message(
    "IS284",
    "nft prints no such text: {problem}",
    help="give what nft list ruleset prints, whole and as it was",
)
NFT_NO_CHAIN = Message(
    "IS285",
    "chain {chain} of table {table} is not in the text: part of the listing is missing",
    help="list the whole ruleset: nft -j list ruleset",
)
NFT_TWICE = Message(
    "IS286",
    "{what} stands twice",
    cause=_SEVERAL,
    fix="give each listing on its own",
)
NFT_CIRCLE = Message(
    "IS287",
    "chains of table {table} jump in a circle: {chains}",
    cause="packets reach it from {start}; the kernel refuses such rules, "
    "so this is no listing of what it holds",
    help=_EDITED,
)

# What is asked of rules.
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
