#!/usr/bin/env python3
"""Holds the libraries that deploy/docker/Dockerfile installs against those that the binary is linked with.

usage: check_image.py ROOT BINARY    prints the packages that are missing or too many; exit code 1 when there is any, 77 without dpkg
"""
import os
import re
import shutil
import subprocess
import sys

root, binary = sys.argv[1:]
if not shutil.which("dpkg-query"):
    print("SKIPPED: no dpkg-query here")
    sys.exit(77)


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def package_of(library):
    """dpkg knows a file by the path that its package gave it, with /usr or without."""
    real = os.path.realpath(library)
    for path in (real, real.removeprefix("/usr"), "/usr" + real, library):
        found = subprocess.run(["dpkg-query", "-S", path], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.split(":")[0]
    sys.exit("no package has %s" % library)


def needs(package, seen):
    """The package and what it depends on."""
    if package in seen:
        return seen
    seen.add(package)
    depends = subprocess.run(["dpkg-query", "-W", "-f=${Depends}", package], capture_output=True, text=True).stdout
    for name in re.findall(r"(?:^|, )([a-z0-9.+-]+)", depends):
        needs(name, seen)
    return seen


with open(os.path.join(root, "deploy/docker/Dockerfile"), encoding="utf-8") as f:
    image = f.read().split("FROM ")[-1]
listed = set(re.search(r"--no-install-recommends([^&]*)&&", image).group(1).replace("\\", " ").split())
linked = {package_of(path) for path in re.findall(r"=> (/\S+)", output("ldd", binary))}
installed = set().union(*(needs(p, set()) for p in listed))
wrong = ["missing: " + p for p in sorted(linked - installed)] + ["not linked: " + p for p in sorted(listed - linked)]
print("\n".join(wrong))
sys.exit(1 if wrong else 0)
