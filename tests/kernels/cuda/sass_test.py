#!/usr/bin/env python3
"""Which machine code the compiler made: every kernel library has code for its architectures, and the kernels that are
built on tensor cores have their instructions (a kernel that silently lost them would still be right, and slow).

usage: sass_test.py CUOBJDUMP LIBRARY ARCHITECTURES KERNEL=INSTRUCTION,... ...
       ARCHITECTURES: sm_80,sm_90a; KERNEL: part of a kernel's name; in every architecture
"""
import re
import subprocess
import sys

cuobjdump, library, architectures = sys.argv[1:4]
architectures = architectures.split(",")
wanted = [(kernel, i) for a in sys.argv[4:] for kernel, _, all_of in [a.partition("=")] for i in all_of.split(",")]
text = subprocess.run([cuobjdump, "-sass", library], capture_output=True, text=True, check=True).stdout

code = {}  # (architecture, kernel) -> text
architecture = kernel = None
for line in text.split("\n"):
    if match := re.match(r"\s*(?:code for|arch =) (sm_\w+)", line):
        architecture, kernel = match[1], None
    elif match := re.match(r"\s*Function : (\S+)", line):
        kernel = match[1]
        code[architecture, kernel] = []
    elif kernel is not None:
        code[architecture, kernel].append(line)

mistakes = []
for a in architectures:
    if not any(key[0] == a for key in code):
        mistakes.append(f"no code for {a}")
for name, instruction in wanted:
    for a in architectures:
        found = {k: "\n".join(lines) for (arch, k), lines in code.items() if arch == a and name in k}
        if not found:
            mistakes.append(f"{a}: no kernel is called {name}")
        for k, body in found.items():
            count = len(re.findall(rf"\b{instruction}\b", body))
            local = len(re.findall(r"\b(?:LDL|STL)\b", body))
            print(f"{a} {k}: {count} {instruction}, {local} accesses to local memory")
            if count == 0:
                mistakes.append(f"{a}: {k} has no {instruction}")
            if local > 0:
                mistakes.append(f"{a}: {k} keeps registers in local memory")
for m in mistakes:
    print(m)
sys.exit(1 if mistakes else 0)
