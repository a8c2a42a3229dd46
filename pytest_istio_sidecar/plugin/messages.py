"""What is said of options of pytest, and of a marker, that cannot be meant: IS90.

Knows the words. Does not know when they are said.
"""

from __future__ import annotations

from pytest_istio_sidecar.failure import IN_THE_TEXT, Message

TABLE_MISSING = Message(
    "IS901", "--istio-environment=file needs a listing: --istio-table FILE", help=IN_THE_TEXT
)
TABLE_WITHOUT_FILE = Message(
    "IS902",
    "--istio-table is for --istio-environment=file; the environment is {environment}",
    help=IN_THE_TEXT,
)
OPTION_UNUSABLE = Message("IS903", "{option}={text}: {problem}", help=IN_THE_TEXT)
OPTION_OF_POD = Message(
    "IS906",
    "--istio-option is for the environments embedded and file; in {environment} the pod tells it",
    help="leave it out: the pod's own options are read",
)
NO_REPORT = Message("IS907", "--istio-report={name}: expected a file ending in {known}", help=IN_THE_TEXT)
PLUGINS_DIFFER = Message(
    "IS910",
    "{ours}={value} and pytest-kind's {theirs}={other} say something different",
    help="give one of them, or the same to both",
)
TAKE_DOWN_INTERRUPTED = Message("IS914", "interrupted while it was taken down", help="istio-sidecar clean")
KEEP_DIFFERS = Message(
    "IS911",
    "--istio-keep={keep} and pytest-kind's --keep-cluster say something different",
    help="give one of them",
)
SETUP_ELSEWHERE = Message(
    "IS916",
    "--istio-embedded-setup is for --istio-environment=embedded; the environment is {environment}",
    help="leave it out: nothing of the kind is run in a pod of a cluster",
)
NO_SPECIFIER = Message(
    "IS913",
    "{test}: @pytest.mark.{marker}({arguments}): expected one specifier such as '>=1.8,<1.13'",
    help=IN_THE_TEXT,
)
WORKLOAD_NOT_TOLD = Message(
    "IS915",
    "several workloads are named, and this test does not tell which of them it is about",
    cause="it asks by getfixturevalue, or is a TestCase's: such a test is not run once for each",
    fix="give the test the argument {fixture}, or name one --istio-workload",
)
