#!/usr/bin/env python3
"""baton bench transfer -o json | plot.py > transfer.svg: GB/s over the size of a piece, one line a lane."""
import json
import math
import sys

COLOURS = {"memcpy": "#888888", "memcpy_nt": "#bbbbbb", "rawsocket": "#c08040",
           "local": "#1f6fb4", "socket": "#2a9d4a", "socket-tls": "#176b30", "am": "#b03060", "get": "#d08a1d", "get-emulated": "#d08a1d"}
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 400, 60, 50, 20, 110


def size_text(n):
    return "%d MiB" % (n >> 20) if n >= 1 << 20 else "%d KiB" % (n >> 10) if n >= 1024 else "%d B" % n


def main():
    rows = json.load(sys.stdin)["rows"]
    lanes = {}
    for row in rows:
        lanes.setdefault(row["lane"], []).append((row["piece_bytes"], row["gb_s"]))
    sizes = sorted({row["piece_bytes"] for row in rows})
    top = math.ceil(max(row["gb_s"] for row in rows) / 5) * 5
    span = max(math.log2(sizes[-1] / sizes[0]), 1)
    x = lambda n: LEFT + (WIDTH - LEFT - RIGHT) * math.log2(n / sizes[0]) / span
    y = lambda rate: HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * rate / top
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">'
           % (WIDTH, HEIGHT), '<rect width="100%" height="100%" fill="white"/>']
    for tick in range(0, top + 1, 5):
        out.append('<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#e0e0e0"/>'
                   % (LEFT, WIDTH - RIGHT, y(tick), y(tick)))
        out.append('<text x="%d" y="%.1f" text-anchor="end">%d</text>' % (LEFT - 6, y(tick) + 4, tick))
    for size in sizes:
        out.append('<text x="%.1f" y="%d" text-anchor="middle">%s</text>' % (x(size), HEIGHT - BOTTOM + 18, size_text(size)))
    out.append('<text x="%d" y="%d" text-anchor="middle">bytes of a piece</text>' % ((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10))
    out.append('<text x="14" y="%d">GB/s</text>' % (TOP - 4))
    taken = []
    for lane, points in sorted(lanes.items(), key=lambda item: -item[1][-1][1]):
        colour = COLOURS.get(lane, "black")
        out.append('<polyline fill="none" stroke="%s" stroke-width="2" points="%s"/>'
                   % (colour, " ".join("%.1f,%.1f" % (x(n), y(rate)) for n, rate in points)))
        label = y(points[-1][1])
        while any(abs(label - other) < 13 for other in taken):
            label += 13
        taken.append(label)
        out.append('<text x="%d" y="%.1f" fill="%s">%s</text>' % (WIDTH - RIGHT + 6, label + 4, colour, lane))
    out.append("</svg>")
    print("\n".join(out))


if __name__ == "__main__":
    main()
