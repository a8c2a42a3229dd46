"""What the installed plugin costs a run of pytest that does not use it, beside pytest itself.

The import: one process imports pytest and then what the plugin's entry point names, on one clock. The start:
pytest in an empty folder with this plugin alone and with none, in turn (user and system time of the child,
from wait4). A median of ratios each.

    python benchmarks/plugin_import.py [PAIRS]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from measure import Row, milliseconds

PLUGIN = "pytest_istio_sidecar.plugin"
IMPORT = f"""
from importlib import import_module
from time import process_time
begin = process_time()
import pytest
middle = process_time()
for name in import_module({PLUGIN!r}).pytest_plugins:
    import_module(name)
print(middle - begin, process_time() - middle)
"""
OF_THE_IMPORT, OF_A_START = 0.08, 1.15
PAIRS = 40
NO_TESTS_COLLECTED = 5


def rows(pairs: int = PAIRS) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        seconds_of_imports(folder)  # compiles what is not compiled yet
        imports = [seconds_of_imports(folder) for _ in range(pairs)]
        seconds_of_start(folder, "-p", PLUGIN)
        starts = [(seconds_of_start(folder), seconds_of_start(folder, "-p", PLUGIN)) for _ in range(pairs)]
    pytest, plugin = (statistics.median(column) for column in zip(*imports, strict=True))
    share = statistics.median(ours / theirs for theirs, ours in imports)
    yield Row(
        work="import the plugin, in a run that does not use it",
        measured=milliseconds(plugin),
        against=f"import pytest: {milliseconds(pytest)}",
        ratio=share,
        target=f"≤ {OF_THE_IMPORT} × the time",
        holds=share <= OF_THE_IMPORT,
    )
    bare, loaded = (statistics.median(column) for column in zip(*starts, strict=True))
    longer = statistics.median(with_it / without for without, with_it in starts)
    yield Row(
        work="start pytest with the plugin, and collect nothing",
        measured=milliseconds(loaded),
        against=f"without: {milliseconds(bare)}",
        ratio=longer,
        target=f"≤ {OF_A_START:.2f} × the time",
        holds=longer <= OF_A_START,
    )


def seconds_of_imports(folder: str) -> tuple[float, float]:
    """CPU time of importing pytest, and of importing the plugin after it."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT],
        cwd=folder, env=_environment(), stdout=subprocess.PIPE, text=True, timeout=60, check=True,
    )  # fmt: skip
    first, second = map(float, done.stdout.split())
    return first, second


def seconds_of_start(folder: str, *arguments: str) -> float:
    """CPU time of one start of pytest in an empty folder."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=folder,
            env=_environment(),
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != NO_TESTS_COLLECTED:
            output.seek(0)
            sys.exit(f"pytest ended with status {process.returncode}:\n{output.read()}")
    return usage.ru_utime + usage.ru_stime


def _environment() -> dict[str, str]:
    """No plugin but ours; and users have compiled modules: a shell that forbids them is not asked."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


if __name__ == "__main__":
    for row in rows(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS):
        print(f"{row.work}: {row.measured}; {row.against}; ratio {row.ratio:.3f} (target {row.target})")
