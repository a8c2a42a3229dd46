"""The CPU time that the installed plugin adds to a start of pytest, for a project that does not use it.

Starts pytest in an empty folder with this plugin alone and with none, in turn, and takes the median of
the differences in user and system time (of the child process, from wait4). Target: at most 10 ms.

    python benchmarks/plugin_import.py [PAIRS]
"""

import os
import statistics
import subprocess
import sys
import tempfile

TARGET_MS = 10.0
PLUGIN = ("-p", "pytest_istio_sidecar.plugin.hooks")
NO_TESTS_COLLECTED = 5


def cpu_ms(folder: str, *arguments: str) -> float:
    """CPU time of one start of pytest in an empty folder, in milliseconds."""
    environment = dict(os.environ, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    # Users have compiled modules; a shell that forbids them would have us time the compiler.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != NO_TESTS_COLLECTED:
            output.seek(0)
            sys.exit(f"pytest ended with status {process.returncode}:\n{output.read()}")
    return (usage.ru_utime + usage.ru_stime) * 1000


def main(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cpu_ms(folder, *PLUGIN)  # compiles what is not compiled yet
        times = [(cpu_ms(folder), cpu_ms(folder, *PLUGIN)) for _ in range(pairs)]
    added = [loaded - bare for bare, loaded in times]
    bare = statistics.median(pair[0] for pair in times)
    low, middle, high = statistics.quantiles(added, n=4)
    print(f"pytest alone        {bare:8.1f} ms")
    print(f"the plugin adds     {middle:8.1f} ms (quartiles {low:.1f} to {high:.1f}; target {TARGET_MS:.0f})")
    print(f"ratio               {1 + middle / bare:8.3f}    ({pairs} pairs)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
