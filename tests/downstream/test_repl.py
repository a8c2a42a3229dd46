"""The assertions outside a test: in a REPL, where pytest is not even imported."""

import subprocess
import sys

TYPED = """
from pytest_istio_sidecar import assert_not_redirected, assert_redirected, expected_ruleset, inbound
rules = expected_ruleset("1.8.3")
assert_redirected(rules, inbound(80), to=15006)
assert_not_redirected(rules, inbound(22))
import sys
print("pytest" in sys.modules)
assert_redirected(rules, inbound(22))
"""


def test_an_assertion_tells_its_verdict_without_pytest():
    typed = subprocess.run(
        [sys.executable, "-c", TYPED], capture_output=True, text=True, timeout=60, check=False
    )
    assert typed.stdout == "False\n"
    assert typed.returncode == 1
    assert "BypassError: inbound tcp 22 " in typed.stderr
    assert "<- decides" in typed.stderr
