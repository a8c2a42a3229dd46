"""What the installed plugin makes a project import that never uses it: everybody with the plugin
installed pays for this list at every start of pytest. benchmarks/plugin_import.py tells the price."""

import os
import subprocess
import sys

import pytest

OWN = {
    "pytest_istio_sidecar",
    "pytest_istio_sidecar.errors",
    "pytest_istio_sidecar.failure",
    "pytest_istio_sidecar.plugin.fixtures",
    "pytest_istio_sidecar.environments",
    "pytest_istio_sidecar.environments.choices",
    "pytest_istio_sidecar.environments.option",
    "pytest_istio_sidecar.plugin.collector",
    "pytest_istio_sidecar.plugin.options",
    "pytest_istio_sidecar.plugin",
    "pytest_istio_sidecar.plugin.hooks",
    "pytest_istio_sidecar.plugin.settings",
    "pytest_istio_sidecar.plugin.terminal",
    "pytest_istio_sidecar.plugin.markers",
    "pytest_istio_sidecar.plugin.messages",
    "pytest_istio_sidecar.plugin.workers",
    "pytest_istio_sidecar.plugin.workloads",
    "pytest_istio_sidecar.plugin.claims",
}

CONFTEST = """
import sys
from pathlib import Path

def pytest_unconfigure():
    Path("modules").write_text("\\n".join(sys.modules))
"""


@pytest.fixture
def imported_by_a_run(tmp_path):
    """The names in sys.modules at the end of a pytest session of one passing test."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_passes.py").write_text("def test_passes(): pass")
    (tmp_path / "pytest.ini").write_text("[pytest]")
    # Of the plugins installed here another one may import what ours does, and hide it.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COVERAGE_"))
    }
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return set((tmp_path / "modules").read_text().split())

    return run


def test_the_plugin_imports_these_modules_at_start_and_no_others(imported_by_a_run):
    added = imported_by_a_run("-p", "pytest_istio_sidecar.plugin") - imported_by_a_run()
    own = {name for name in added if name.partition(".")[0] == "pytest_istio_sidecar"}
    assert own == OWN
    assert added - own == set()
