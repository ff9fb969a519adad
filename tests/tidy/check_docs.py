#!/usr/bin/env python3
"""Holds the words of documents, comments, alerts and dashboards against the tree: files, metrics, manifest keys and flags that they name are there.

usage: check_docs.py ROOT    prints one line a mistake; exit code 1 when there is any
"""
import glob
import os
import re
import subprocess
import sys

os.chdir(sys.argv[1])
PRODUCT = ("base", "text", "kernels", "transport", "worker", "coordinator", "cli")
TOPS = "|".join(PRODUCT + ("deploy", "tests", "benchmarks", "docs"))
SOURCE = re.compile(r"(?<![\w/.-])((?:%s)/[\w/.-]+\.(?:h|cc|cu|cuh|py|sh|md|yaml|proto|txt))\b" % TOPS)
QUOTED = re.compile(r"`((?:%s)/[\w/.*-]+?)/?`" % TOPS)
RECORD = re.compile(r"docs/adr/(\d{4})")
METRIC = re.compile(r"\bbaton_[a-z0-9_]+_(?:total|seconds|bytes|second|ratio|blocks|depth|entries|flight|tokens|info|left|state)\b")
SERIES = re.compile(r"\bbaton_[a-z0-9_]+")  # in deploy/: every word that looks like a metric
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
ELSEWHERE = {"docs/gguf.md": "ggml's", "cli/local_manifest.h": "made by the build", "text/opticks.txt": "in shared/models"}


def tracked():
    try:
        names = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split("\n")
        return [n for n in names if n and os.path.isfile(n)]
    except (OSError, subprocess.CalledProcessError):  # an exported tree
        return [os.path.relpath(os.path.join(d, f)) for d, _, files in os.walk(".") for f in files if "/build/" not in d + "/"]


def read(name):
    with open(name, encoding="utf-8", errors="replace") as f:
        return f.read()


def missing_paths(name, text):
    named = set(SOURCE.findall(text)) | set(QUOTED.findall(text) if name.endswith(".md") else ())
    for path in sorted(named - set(ELSEWHERE)):
        if not glob.glob(path) and not glob.glob(path + ".*") and not RECORD.match(path):
            yield "%s: names %s, which is not there" % (name, path)
    for number in sorted(set(RECORD.findall(text))):
        if not glob.glob("docs/adr/%s-*" % number):
            yield "%s: names docs/adr/%s, which is not there" % (name, number)


def wrong_processes(texts):
    """Rows `| question | process | metric |`: the process has these metrics (has_metric() of base/metric.h)."""
    rows = re.findall(r'\{Metric::(\w+),[^"]*"(baton_\w+)"', texts["base/metric_catalog.h"])
    keys = [key for key, name in rows]
    counted_by_workers = set(keys[keys.index("kSteps"):keys.index("kSequencesWaiting") + 1])
    of = {name: "both" if key in ("kBuildInfo", "kKvBlocks", "kCertificateLeft") else "worker" if key in counted_by_workers else "coordinator" for key, name in rows}
    for process, cell in re.findall(r"^\|[^|]*\| (coordinator|worker|both) \|(.*)\|$", texts["docs/operations.md"], re.M):
        for metric in METRIC.findall(cell):
            if of.get(metric, process) != process:
                yield "docs/operations.md: %s is a metric of %s, not of %s" % (metric, of[metric], process)


def check():
    names = tracked()
    texts = {n: read(n) for n in names if n.endswith((".md", ".h", ".cc", ".cu", ".cuh", ".py", ".yaml", ".txt", ".json"))}
    catalog = set(re.findall(r'"(baton_\w+)"', texts["base/metric_catalog.h"]))
    yield from wrong_processes(texts)
    flags = set(FLAG.findall(texts["cli/main.cc"])) | set(FLAG.findall(read("baton"))) | {"--help", "--version"}
    for name, text in texts.items():
        yield from missing_paths(name, text)
        if not name.endswith((".md", ".yaml")) and not name.startswith("deploy/"):
            continue
        words = SERIES if name.startswith("deploy/") else METRIC
        for metric in sorted(set(words.findall(text)) - catalog):
            if re.sub(r"_(bucket|sum|count)$", "", metric) not in catalog:
                yield "%s: names the metric %s, which base/metric_catalog.h has not" % (name, metric)
        for command in re.findall(r"^\s*(?:\./)?baton (?:serve|ps|down|chat|logs|validate|coordinator|worker|bench \w+)[^|#;&\n]*", text, re.M):
            for flag in sorted(set(FLAG.findall(command)) - flags):
                yield "%s: `%s`: cli/main.cc has no %s" % (name, command.strip(), flag)
    readers = texts["cli/cluster/manifest.cc"] + texts["cli/cluster/network_manifest.cc"]
    for key in sorted(set(re.findall(r'\b(?:string|integer|boolean|bytes|duration|choice|object|objects|strings)\("(\w+)"', readers))):
        if not re.search(r"\b%s\b" % key, texts["docs/manifest.md"]):
            yield "docs/manifest.md: does not tell of %s, which the manifest may have" % key


mistakes = list(check())
for mistake in mistakes:
    print(mistake)
sys.exit(1 if mistakes else 0)
