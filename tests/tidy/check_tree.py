#!/usr/bin/env python3
"""Holds the tree against the rules a reader relies on: who includes whom, sizes, banned names, folder READMEs.

usage: check_tree.py ROOT    prints one line a mistake; exit code 1 when there is any
"""
import os
import re
import sys

ROOT = sys.argv[1]
PRODUCT = ("base", "text", "kernels", "transport", "worker", "coordinator", "cli")
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
BANNED_NAME = re.compile(r"\b(class|struct|enum class)\s+\w*(Manager|Util|Utils|Helper|Common|Impl|Info|Misc|Handler)\b")
# Words of a library that may stand in these folders only.
OWN_FOLDER = {
    re.compile(r"\bu(cp|cs|ct)_\w+\("): ("transport/data",),
    re.compile(r"\bgrpc::"): ("transport/rpc", "cli"),
    re.compile(r"\bnccl[A-Z]\w+\("): ("transport/collectives",),
    re.compile(r"\bcuda[A-Z]\w+\("): ("kernels/cuda",),
    re.compile(r"steady_clock::now|system_clock::now|random_device|sleep_for"): (
        "base", "cli", "kernels", "text", "transport/rpc", "transport/data", "worker/model", "coordinator/gateway"),
}
NO_IF_FORESTS = re.compile(r"^\s*#\s*if(def|ndef)?\s+.*(CUDA|UCX|NCCL|AVX|__x86)")
LIMITS = {".h": 300, ".cc": 800}
FUNCTION_LIMIT = 70


def folder_of(path, table):
    """The longest entry of the table that holds the file; kernels/cpu/... belongs to kernels."""
    parts = path.split("/")[:-1]
    while parts:
        name = "/".join(parts)
        if name in table:
            return name
        parts.pop()
    return None


def read_table():
    table = {}
    for line in open(os.path.join(ROOT, "tests/tidy/include_table.txt")):
        line = line.split("#")[0].strip()
        if line:
            name, _, allowed = line.partition(":")
            table[name] = set(allowed.split()) | {name}
    return table


def sources():
    for top in PRODUCT:
        for folder, _, files in os.walk(os.path.join(ROOT, top)):
            for f in sorted(files):
                if f.endswith((".h", ".cc", ".cu", ".cuh")):
                    yield os.path.relpath(os.path.join(folder, f), ROOT)


def long_functions(lines):
    """(line, length) of bodies that start with '{' at the end of an unindented line and end with '}' in column 0."""
    start = None
    for i, line in enumerate(lines):
        if start is None and line[:1] not in ("", " ", "#", "/", "}") and line.rstrip().endswith("{"):
            if not re.match(r"(namespace|class|struct|enum|extern|union)\b", line) and "(" in line:
                start = i
        elif start is not None and line.startswith("}"):
            if i - start + 1 > FUNCTION_LIMIT:
                yield start + 1, i - start + 1
            start = None


def check_file(path, table, mistakes):
    lines = open(os.path.join(ROOT, path), encoding="utf-8").read().split("\n")
    folder = folder_of(path, table)
    if folder is None:
        mistakes.append(f"{path}:1: no entry of tests/tidy/include_table.txt holds this folder")
        return
    extension = os.path.splitext(path)[1]
    if len(lines) > LIMITS.get(extension, 800):
        mistakes.append(f"{path}:1: {len(lines)} lines, want {LIMITS[extension]} at most: split it")
    if extension == ".h" and not lines[0].startswith("#pragma once"):
        mistakes.append(f"{path}:1: a header starts with #pragma once")
    for number, line in enumerate(lines, 1):
        include = INCLUDE.match(line)
        if include and include[1].split("/")[0] in PRODUCT:
            target = folder_of(include[1], table)
            if target not in table[folder]:
                mistakes.append(f"{path}:{number}: {folder} may not include {include[1]} (tests/tidy/include_table.txt)")
        if BANNED_NAME.search(line):
            mistakes.append(f"{path}:{number}: a name that says nothing: {line.strip()}")
        if NO_IF_FORESTS.match(line):
            mistakes.append(f"{path}:{number}: devices are split by file, not by #if")
        code = line.split("//")[0]
        for words, folders in OWN_FOLDER.items():
            if words.search(code) and not path.startswith(folders):
                mistakes.append(f"{path}:{number}: {words.search(code)[0]} may stand in {', '.join(folders)} only")
    for number, length in long_functions(lines):
        mistakes.append(f"{path}:{number}: a function of {length} lines, want {FUNCTION_LIMIT} at most")


def check_readmes(table, mistakes):
    for folder in table:
        path = os.path.join(ROOT, folder, "README.md")
        if not os.path.isdir(os.path.join(ROOT, folder)):
            continue
        if not os.path.exists(path):
            mistakes.append(f"{folder}/README.md: missing; say purpose, reading order, threads")
        elif len(open(path).read().split("\n")) > 45:
            mistakes.append(f"{folder}/README.md: longer than 40 lines")


def check_documents(mistakes):
    """Every file a document names exists."""
    for document in ("README.md", "docs/life_of_a_request.md"):
        path = os.path.join(ROOT, document)
        if not os.path.exists(path):
            mistakes.append(f"{document}: missing")
            continue
        for number, line in enumerate(open(path), 1):
            for name in re.findall(r"`((?:%s|deploy|docs|tests|benchmarks)/[\w./-]+)`" % "|".join(PRODUCT), line):
                if not os.path.exists(os.path.join(ROOT, name)):
                    mistakes.append(f"{document}:{number}: names {name}, which is not there")


def main():
    table = read_table()
    mistakes = []
    count = 0
    for path in sources():
        count += 1
        check_file(path, table, mistakes)
    check_readmes(table, mistakes)
    check_documents(mistakes)
    for m in mistakes:
        print(m)
    print(f"{count} files, {len(mistakes)} mistakes")
    return 1 if mistakes or count == 0 else 0


sys.exit(main())
