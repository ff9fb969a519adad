#!/usr/bin/env python3
"""How much of a 1,000-token prompt's hand-over is seen: a prefill and a decode worker, cold prompts one at a time, per lane.

Prints, in milliseconds, medians: prefill, the whole transfer (first offer to last verified piece), what of it came after prefill was
done (exposed), and the goal 1.2 x (start-up + last layer), where start-up is the pair's latency for the offer and the answer and the
last layer its bytes at the pair's rate, both as the workers measured them (/metrics). Environment: BATON_BINARY, BATON_SMOLLM2.
"""
import os
import random
import re
import statistics
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/e2e"))
from cluster import PREFILL_DECODE, SMOLLM2, Cluster, manifest, need, pools  # noqa: E402

TOKENS, ASKED, LAYERS, LAYER_BYTES_A_TOKEN = 1000, 15, 30, 768  # SmolLM2-135M, KV in bf16


def gauge(text, name):
    return [float(value) for value in re.findall(r"^%s\{[^}]*\} ([0-9.e+-]+)$" % name, text, re.M) if float(value) > 0]


def main():
    model = need(SMOLLM2)
    rng = random.Random(1)
    print("%-8s %10s %10s %10s %22s" % ("lane", "prefill", "transfer", "exposed", "1.2 x (start + layer)"))
    for lane in ("local", "socket", "am"):
        with Cluster(model, manifest(pools(PREFILL_DECODE, resources={"cpu": 1}), transfer={"transport": lane})) as c:
            seen = []
            for i in range(ASKED + 1):
                prompt = [rng.randrange(20, 49000) for _ in range(TOKENS)]
                _, reply = c.generate(prompt, 4)
                if i > 0:  # the first one wakes the memory up
                    seen.append(reply.json()["timings"])
            metrics = c.get("/metrics").body.decode()
        middle = {key: statistics.median(t[key] for t in seen) for key in ("prefill_ms", "transfer_ms", "transfer_exposed_ms")}
        rates, latencies = gauge(metrics, "baton_kv_link_bytes_per_second"), gauge(metrics, "baton_kv_link_latency_seconds")
        goal = 1200 * (2 * max(latencies) + TOKENS * LAYER_BYTES_A_TOKEN / min(rates)) if rates and latencies else float("nan")
        print("%-8s %10.1f %10.1f %10.2f %22.2f" % (lane, middle["prefill_ms"], middle["transfer_ms"], middle["transfer_exposed_ms"], goal),
              flush=True)


if __name__ == "__main__":
    main()
