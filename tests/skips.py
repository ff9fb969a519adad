#!/usr/bin/env python3
"""What the last run of ctest skipped, whole tests and those inside of programs that passed, and why.

usage: skips.py BUILD_FOLDER    with BATON_REQUIRE_ALL=1: exit code 1 when something was skipped that not only a GPU was missing for
"""
import os
import re
import sys

TEST = re.compile(r"^\d+/\d+ Test: (.*)$")
SCRIPT = re.compile(r"^SKIPPED: (.*)$")
GTEST = re.compile(r"^(?:\S+:\d+|unknown file): Skipped$")
GTEST_ENDS = re.compile(r"^\[  SKIPPED \] (\S+?),? ")
MISSING_GPU = "NVIDIA driver"  # so says kernels/cuda/device_memory.cc


def skipped(log):
    """(program, test or "", reason) of everything that a log of ctest says was skipped. A reason may have several lines."""
    program, reason = "", None
    for line in log:
        line = line.rstrip("\n")
        if test := TEST.match(line):
            program, reason = test[1], None
        elif said := SCRIPT.match(line):
            yield program, "", said[1]
        elif GTEST.match(line):
            reason = []
        elif reason is not None and (end := GTEST_ENDS.match(line)):
            yield program, end[1], " ".join(reason)
            reason = None
        elif reason is not None and line:
            reason.append(line)


def main():
    path = os.path.join(sys.argv[1], "Testing/Temporary/LastTest.log")
    if not os.path.exists(path):
        print("no test has run")
        return 1
    with open(path, encoding="utf-8", errors="replace") as f:
        found = sorted(set(skipped(f)), key=lambda s: (s[2], s))
    if not found:
        print("nothing was skipped")
        return 0
    print("%d tests or parts of tests were skipped:" % len(found))
    for program, test, reason in found:
        print("  %s %s: %s" % (program, test, reason) if test else "  %s: %s" % (program, reason))
    wanted = [s for s in found if MISSING_GPU not in s[2]]
    if os.environ.get("BATON_REQUIRE_ALL") != "1" or not wanted:
        return 0
    print("BATON_REQUIRE_ALL=1: %d of them could have run here" % len(wanted))
    return 1


sys.exit(main())
