#!/usr/bin/env python3
"""Draws the all-reduce times of `baton bench collectives -o json` as an SVG: microseconds over bytes, both logarithmic.

usage: plot.py REPORT.json > all_reduce.svg
"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, TOP = 640, 400, 70, 30
COLOURS = {"memory": "#888888", "shm": "#1f77b4", "socket": "#d62728", "socket-tls": "#7f1d1d"}


def main():
    rows = json.load(open(sys.argv[1]))["rows"]
    lines = {}
    for r in rows:
        if r["op"] in ("all_reduce", "store_load"):
            lines.setdefault((r["lane"], r["ranks"]), []).append((r["bytes"], r["p50_us"]))
    xs = [math.log2(x) for line in lines.values() for x, _ in line]
    ys = [math.log10(y) for line in lines.values() for _, y in line]
    x0, x1, y0, y1 = min(xs), max(xs), math.floor(min(ys)), math.ceil(max(ys))

    def at(x, y):
        return (LEFT + (math.log2(x) - x0) / (x1 - x0) * (WIDTH - LEFT - 130),
                TOP + (y1 - math.log10(y)) / (y1 - y0) * (HEIGHT - TOP - 50))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="18">all-reduce, median of a call in microseconds, over bytes</text>']
    for power in range(y0, y1 + 1):
        x, y = at(2 ** x0, 10 ** power)
        out.append(f'<path d="M{x:.0f} {y:.0f}H{WIDTH - 130}" stroke="#ddd"/>'
                   f'<text x="{x - 8:.0f}" y="{y + 4:.0f}" text-anchor="end">{10 ** power:g}</text>')
    for size in sorted({x for line in lines.values() for x, _ in line}):
        x, y = at(size, 10 ** y0)
        label = f"{size // 2**20}M" if size >= 2**20 else f"{size // 1024}K" if size >= 1024 else str(size)
        out.append(f'<text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle">{label}</text>')
    for (lane, ranks), line in sorted(lines.items()):
        points = [at(x, y) for x, y in sorted(line)]
        dash = "" if ranks == 2 else f' stroke-dasharray="{ranks} {ranks}"'
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        name = "raw store-load" if lane == "memory" else lane
        out.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[lane]}" stroke-width="2"{dash}/>'
                   f'<text x="{points[-1][0] + 6:.0f}" y="{points[-1][1] + 4:.0f}" fill="{COLOURS[lane]}">{name}, {ranks} ranks</text>')
    print("\n".join(out + ["</svg>"]))


main()
