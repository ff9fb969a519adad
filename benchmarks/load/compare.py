#!/usr/bin/env python3
"""Holds the results of scenarios.sh against what other servers reached, scaled to this machine.

usage: compare.py FOLDER        FORM.json, gateway.json and ceilings.json are read; a table in Markdown is printed

The figures of llama.cpp b11434 and vLLM 0.32.0 (CPU) are of SmolLM2-135M on 2 cores of a Zen 4 with the ceilings below, one run each: differences under
15 % are noise. Rates of one stream go with the memory's read rate, everything else with the float peak.
"""
import json
import os
import sys

REFERENCE = {"f32_ops_s": 235e9, "read_bytes_s": 64e9}
FORMS = ("one_any", "two_any", "prefill_decode", "prefill_decode_shared")

# scenario, figure, unit, best of the others, who, how it scales (rate, time, none), must, aim; must and aim are factors of the other's figure, or
# plain bounds with "=". At least for rates, at most for times.
BARS = [
    ("S1", "output_tok_s", "tok/s", 161, "llama.cpp Q4_0", "memory rate", "1.2", "1.8"),
    ("S1", "ttft_p50_ms", "ms", 107, "vLLM bf16", "time", "1", "0.5"),
    ("S2", "output_tok_s", "tok/s", 162, "vLLM bf16", "rate", "1.3", "2"),
    ("S2", "ttft_p50_ms", "ms", 527, "vLLM bf16, budget 256", "time", "1", "0.5"),
    ("S3", "output_tok_s", "tok/s", 423, "vLLM bf16", "rate", "1.3", "2"),
    ("S3", "ttft_p50_ms", "ms", 1296, "vLLM bf16", "time", "1", "0.5"),
    ("S4", "itl_p99_ms", "ms", 297, "vLLM bf16, budget 256", "none", "=80", "=40"),
    ("S4", "itl_max_ms", "ms", 311, "vLLM bf16, budget 256", "none", "=160", "=80"),
    ("S4", "long_ttft_p50_ms", "ms", 1345, "vLLM bf16", "time", "1.5", "1"),
    ("S5", "cold_ttft_ms", "ms", 810, "vLLM bf16", "time", "1", "0.5"),
    ("S5", "warm_ttft_p50_ms", "ms", 129, "llama.cpp Q4_0", "time", "0.5", "0.25"),
    ("S5", "at_once_ttft_mean_ms", "ms", 943, "vLLM bf16", "time", "0.5", "0.25"),
    ("S6", "storm_s", "s", 8.0, "vLLM bf16", "time", "1", "0.5"),
    ("S6", "next_over_idle", "", 1.33, "vLLM bf16", "none", "=1.2", "=1.05"),
    ("S6", "cpu_s_in_2_s_after", "s", 0.0, "llama.cpp", "none", "=0.04", "=0.01"),
    ("S7", "differ_again", "", 0, "vLLM bf16", "none", "=0", "=0"),
    ("S7", "differ_at_once", "", 7, "vLLM bf16", "none", "=0", "=0"),
    ("idle", "cpu_cores", "cores", 0.0, "llama.cpp", "none", "=0.02", "=0.005"),
    ("idle", "worker_rss_mib", "MiB", 922, "llama.cpp Q4_0", "none", "=1024", "=1024"),
    ("start", "ready_ms", "ms", 700, "llama.cpp Q4_0", "none", "=2000", "=1000"),
    ("start", "first_token_ms", "ms", 700, "llama.cpp Q4_0", "none", "=2000", "=1000"),
    ("hand-over", "added_to_ttft_ms", "ms", 68, "vLLM + NIXL", "none", "=10", "=1"),
    ("hand-over", "gap_in_steps", "steps", None, "", "none", "=2", "=1.2"),
]
GATEWAY_BARS = [
    ("G", "cpu_ms_per_request_loaded", "ms", 1.05, "Dynamo", "none", "=1.0", "=0.5"),
    ("G", "cpu_ms_per_request_alone", "ms", 2.7, "Dynamo", "none", "=2.7", "=1.0"),
    ("G", "cpu_ms_per_request_paced", "ms", None, "", "none", "=2.0", "=1.0"),
    ("G", "added_ttft_ms", "ms", 0.25, "smg (forwards only)", "none", "=1.0", "=0.3"),
    ("G", "second_request_ttft_p50_ms", "ms", 0.63, "smg (forwards only)", "none", "=2.0", "=1.0"),
]


def read(folder, name):
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    with open(path) as f:
        return json.load(f)


def scales(folder):
    """How much faster this machine is than the reference: (compute, memory)."""
    engine = read(folder, "ceilings.json")
    if not engine:
        return 1.0, 1.0
    c = engine["ceilings"]
    return c["f32_ops_s"] / REFERENCE["f32_ops_s"], c["read_bytes_s"] / REFERENCE["read_bytes_s"]


def hand_over(scenarios):
    """What S1 says of it: prefill reports the first token, so only the reservation can stand before it; the gap from token 1 to 2 in decode steps."""
    s1 = next((s for s in scenarios if s["scenario"] == "S1"), None)
    if s1 is None or "remote-prefill" not in s1["paths"]:
        return {}
    stages = s1["stages_ms"]
    known = sum(stages[k]["p50"] for k in ("queue_ms", "worker_queue_ms", "prefill_ms") if k in stages)
    return {"added_to_ttft_ms": max(0.0, s1["ttft_ms"]["p50"] - known), "gap_in_steps": s1["second_token_ms"]["p50"] / max(s1["itl_ms"]["p50"], 1e-9)}


def figures(form):
    out = {s["scenario"]: s["summary"] for s in form["scenarios"]}
    out["start"] = form.get("start", {})
    out["hand-over"] = hand_over(form["scenarios"])
    return out


def bound(spec, other, how, compute, memory):
    if spec.startswith("="):
        return float(spec[1:])
    scale = {"rate": compute, "memory rate": memory, "time": 1 / compute, "none": 1}[how]
    return other * scale * float(spec)


def show(value):
    return "-" if value is None else ("%.0f" if abs(value) >= 100 else "%.3g") % value


def row(bar, value, compute, memory):
    scenario, figure, unit, other, who, how, must, aim = bar
    if value is None:
        return None
    at_least = "rate" in how
    limits = [bound(spec, other or 0, how, compute, memory) for spec in (must, aim)]
    good = [(value >= limit) if at_least else (value <= limit) for limit in limits]
    verdict = "aim" if good[1] else "must" if good[0] else "**missed**"
    scaled = None if other is None else other * {"rate": compute, "memory rate": memory, "time": 1 / compute, "none": 1}[how]
    ratio = "" if not scaled else "%.2f" % (value / scaled)
    return "| %s | %s%s | %s | %s %s | %s | %s %s | %s %s | %s |" % (
        scenario, figure, " (%s)" % unit if unit else "", show(value), show(scaled), who, ratio, ">=" if at_least else "<=", show(limits[0]),
        ">=" if at_least else "<=", show(limits[1]), verdict)


def table(title, bars, values, compute, memory):
    rows = [row(b, values.get(b[0], {}).get(b[1]), compute, memory) for b in bars]
    print("\n### %s\n" % title)
    print("| | figure | Baton | other, scaled | ratio | must | aim | reached |\n|---|---|---|---|---|---|---|---|")
    print("\n".join(r for r in rows if r))


def noise(form):
    """What else ran meanwhile: shares of the machine's time."""
    wall = sum(p["seconds"] for s in form["scenarios"] for p in s["phases"]) * form["machine"]["cores"]
    other = sum(p["others_cpu_s"] + p["steal_s"] for s in form["scenarios"] for p in s["phases"])
    client = max((p["client_cpu_share"] for s in form["scenarios"] for p in s["phases"]), default=0)
    return "others used %.1f %% of the machine, the client at most %.1f %% of a core" % (100 * other / max(wall, 1e-9), 100 * client)


def main():
    folder = sys.argv[1]
    compute, memory = scales(folder)
    print("Scaled by this run's ceilings: compute x %.2f, memory x %.2f of the reference machine." % (compute, memory))
    for name in FORMS:
        form = read(folder, name + ".json")
        if form:
            table("%s: %s (%s)" % (name, form["model"], noise(form)), BARS, figures(form), compute, memory)
            failed = sum(s["failed"] for s in form["scenarios"])
            if failed:
                print("\n%d requests failed." % failed)
    gateway = read(folder, "gateway.json")
    if gateway:
        table("gateway", GATEWAY_BARS, figures(gateway), compute, memory)


main()
