"""Measure headrace against nginx, SeaweedFS and JuiceFS, and keep what was found.

Every case writes one JSON file to benchmarks/results; the table and the plots are made from those
files, so cases can be run apart. See docs/guides/benchmarks.md for the method.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path

from cases import CASES
from harness.bench import Bench
from report.table import write_report


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", action="append", metavar="CASE", help="run this case (repeat for more)")
    parser.add_argument("--quick", action="store_true", help="small objects sets and few rounds: a check, not a figure")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    parser.add_argument("--rounds", type=int, help="rounds per case (default 7, quick 3)")
    parser.add_argument("--seconds", type=float, help="length of one run (default 0.7, quick 0.3)")
    parser.add_argument("--folder", type=Path, help="where servers keep their data (default: the system's)")
    parser.add_argument("--no-realtime", action="store_true", help="do not use SCHED_FIFO")
    parser.add_argument("--report", action="store_true", help="only make the table and plots anew")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the wanted cases; 1 when one could not be carried out. A missed target is a result, not a failure."""
    options = parse(arguments)
    warnings.filterwarnings("ignore", message="Unverified HTTPS request")
    if options.list:
        for name, case in CASES.items():
            print(f"{name:12} {(case.__doc__ or '').splitlines()[0]}")
        return 0
    unknown = [name for name in options.only or [] if name not in CASES]
    if unknown:
        print(f"no such case: {', '.join(unknown)}; the cases are {', '.join(CASES)}", file=sys.stderr)
        return 2
    missing = [] if options.report else [tool for tool in ("cc", "nginx", "fio") if shutil.which(tool) is None]
    if missing:
        print(
            f"not installed: {', '.join(missing)}. Run: apt-get install gcc libc6-dev libssl-dev nginx fio",
            file=sys.stderr,
        )
        return 2
    failed = [] if options.report else run_cases(options)
    print(f"table: {write_report(quick=options.quick)}")
    for name in failed:
        print(f"{name}: could not be measured, see above", file=sys.stderr)
    return 1 if failed else 0


def run_cases(options: argparse.Namespace) -> list[str]:
    """Run the cases and save their outcomes; returns the names of those that broke."""
    failed = []
    with Bench(
        quick=options.quick,
        folder=options.folder,
        realtime=not options.no_realtime,
        rounds=options.rounds or (3 if options.quick else 7),
        seconds=options.seconds or (0.3 if options.quick else 0.7),
    ) as bench:
        for name in options.only or CASES:
            start = time.monotonic()
            print(f"{name} ...", flush=True)
            try:
                outcome = CASES[name](bench)
            except Exception:  # one server that will not start must not lose the other cases
                traceback.print_exc()
                failed.append(name)
                continue
            bench.save(name, outcome)
            for target in outcome.targets:
                verdict = "met  " if target["met"] else "SHORT"
                print(f"  {verdict} {target['what']}: {target['figure']} (wanted {target['wanted']})")
            print(f"  {time.monotonic() - start:.0f} seconds", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
