"""How long `import hfld_lite` and `hfld --help` take against `import torch`.

    python tests/benchmarks/bench_start.py

Each is a process of its own; the three take turns, and the least time of each counts, since a
machine that does other work only adds to it.
"""

import subprocess
import sys
import time

ROUNDS, TARGET = 10, 1.3
HELP = """
import sys
from hfld_lite.app.cli import main
sys.argv[1:] = ["--help"]
main()
"""
PROGRAMS = {
    "import torch": "import torch",
    "import hfld_lite": "import hfld_lite",
    "hfld --help": HELP,
}


def seconds(program: str) -> float:
    """The time of one process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> int:
    """Print the ratios; 1 if one is above the target."""
    least = {name: float("inf") for name in PROGRAMS}
    for _ in range(ROUNDS):
        for name, program in PROGRAMS.items():
            least[name] = min(least[name], seconds(program))
    ratios = {name: found / least["import torch"] for name, found in least.items()}
    for name, ratio in ratios.items():
        print(f"{name:17} {least[name]:5.2f} s, {ratio:.2f} x (target {TARGET} x)")
    return int(max(ratios.values()) > TARGET)


if __name__ == "__main__":
    sys.exit(main())
