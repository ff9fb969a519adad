"""Design I1 over ranks that are processes of one machine: every shape of a worker, and prefill and decode workers of every shape, give the tokens and
the logprobs of one process, bit for bit. The table is here (TABLES); between hosts it is in tests/cli/shapes_on_hosts_test.cc.

    shapes_test.py [NAME ...]    of some models only
"""
import concurrent.futures
import os
import re
import sys
import time

from cluster import ANY, PREFILL_DECODE, SMOLLM2, STORIES, Cluster, manifest, pools, skip

TINYLLAMA = os.environ.get("BATON_TINYLLAMA", "")
GRID = [(tensor, pipeline) for tensor in (1, 2, 4) for pipeline in (1, 2)]


class Table:
    """Shapes are (tensor, pipeline). `alone`: workers that do both halves; `pairs`: (prefill, decode)."""

    def __init__(self, variable, path, memory, prompts, tokens, alone, pairs):
        self.variable, self.path, self.memory, self.prompts, self.tokens = variable, path, memory, prompts, tokens
        self.alone, self.pairs = alone, pairs


TABLES = {
    "stories260K": Table(  # 4 KV heads, 5 layers
        "BATON_SHARED", STORIES, "8Mi", ["Once upon a time", "Lily likes cats and dogs", "Tom had a red ball. " * 20], 24,
        alone=[shape for shape in GRID if shape != (1, 1)],  # that one is what all are compared with
        pairs=[(shape, shape) for shape in GRID] + [
            ((1, 1), (4, 1)), ((4, 1), (1, 1)), ((2, 1), (1, 2)), ((1, 2), (2, 1)), ((2, 2), (4, 1)), ((4, 2), (2, 2)), ((1, 2), (4, 2))]),
    "SmolLM2": Table(  # 3 KV heads, 30 layers
        "BATON_SMOLLM2", SMOLLM2, "32Mi", ["Once upon a time there was a lighthouse keeper who", "Count: one two three four five six seven. " * 6], 8,
        alone=[(3, 1), (3, 2)],
        pairs=[((3, 1), (3, 1)), ((3, 1), (1, 2)), ((1, 2), (3, 1))]),
    "TinyLlama": Table(  # 4 KV heads, 22 layers
        "BATON_TINYLLAMA", TINYLLAMA, "64Mi", ["Once upon a time there was a lighthouse keeper who", "Count: one two three four five six seven. " * 6], 6,
        alone=[(4, 1)],
        pairs=[((2, 1), (2, 1)), ((2, 1), (1, 2)), ((1, 2), (2, 1)), ((1, 1), (4, 1))]),
}
# In the order in which they are asked for: what a prompt's KV is computed for, then what finds it in the cache. Ranks send the likeliest tokens to
# rank 0 (greedy, top-k), send it all logits (logprobs), draw together, or change logits before any of it.
WAYS = [{}, {"logprobs": 5}, {"temperature": 0.9, "seed": 5, "logprobs": 2}, {"temperature": 0.8, "seed": 11, "top_k": 20},
        {"temperature": 1.0, "seed": 3, "top_p": 0.9, "logprobs": 0, "echo": True}, {"temperature": 1.5, "seed": 5},
        {"temperature": 0.8, "seed": 6, "top_p": 0.9, "min_p": 0.01},
        {"temperature": 1.0, "seed": 7, "presence_penalty": 0.7, "frequency_penalty": 0.3, "logit_bias": {"100": 3}},
        {"repetition_penalty": 1.3, "min_tokens": 5}, {"temperature": 1.2, "seed": 8, "top_k": 30, "top_p": 0.95, "frequency_penalty": 0.5}]
LANES = ("local", "socket")  # of KV, in turn


def check_grid(table):
    senders, receivers = {a for a, b in table.pairs if a != b}, {b for a, b in table.pairs if a != b}
    assert senders == receivers == set(GRID), "every shape hands over to another, and is handed over to"


def answers(c, table, path):
    """Greedy and drawn, with logprobs and without, one by one and all together."""
    def ask(case):
        prompt, way = case
        ids, reply = c.generate(prompt, table.tokens, ignore_eos=True, **way)
        assert path is None or reply.headers["x-baton-path"] == path, reply.headers
        choice = reply.json()["choices"][0]
        assert len(ids) == table.tokens and bool(choice.get("logprobs")) == ("logprobs" in way), choice
        return ids, choice.get("logprobs")  # as text they are shortest round-trip decimals: equal means equal bits

    cases = [(prompt, way) for prompt in table.prompts for way in WAYS]
    one_by_one = [ask(case) for case in cases]
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        assert list(pool.map(ask, cases)) == one_by_one, "together they are others"
    return one_by_one


def parts_of(table, prefill, decode):
    if decode is None:
        return pools(ANY, kv={"memory": table.memory}, parallel=parallel(prefill))
    parts = pools(PREFILL_DECODE, kv={"memory": table.memory})
    parts["prefill"]["parallel"], parts["decode"]["parallel"] = parallel(prefill), parallel(decode)
    return parts


def parallel(shape):
    return {"tensor": shape[0], "pipeline": shape[1]}


def check_worker(c, worker, shape):
    """It is one worker to the coordinator, and all its ranks are there."""
    ranks = [p for p in c.ps() if p["name"] == worker or p["name"].startswith(worker + ".")]
    count = shape[0] * shape[1]
    assert [p.get("rank", 0) for p in ranks] == list(range(count)) and all(p["state"] == "ready" for p in ranks), ranks
    assert count == 1 or "%d ranks over shm" % count in ranks[0]["device"], ranks[0]
    if shape[1] > 1:  # cut where measuring says: anywhere
        stages = re.search(r"([0-9 +]+) layers, ", ranks[0]["device"])[1].split("+")
        assert len(stages) == shape[1] and min(map(int, stages)) >= 1, ranks[0]


def check(table, name, prefill, decode, lane, want):
    begun = time.monotonic()
    with Cluster(table.path, manifest(parts_of(table, prefill, decode), transfer={"transport": lane})) as c:
        got = answers(c, table, "local" if decode is None else "remote-prefill")
        assert got == want, "%s: %s to %s over %s" % (name, prefill, decode, lane)
        workers = [("any-0", prefill)] if decode is None else [("prefill-0", prefill), ("decode-0", decode)]
        assert len(c.workers()) == len(workers), "a group is one worker to the coordinator"
        for worker, shape in workers:
            check_worker(c, worker, shape)
        c.wait_idle(5)
    shape = "%dx%d" % prefill if decode is None else "prefill %dx%d, decode %dx%d over %s" % (prefill + decode + (lane,))
    print("passed: %s, %s has the tokens and logprobs of one process (%.1f s)" % (name, shape, time.monotonic() - begun), flush=True)


def check_model(name, table):
    with Cluster(table.path, manifest(parts_of(table, (1, 1), None))) as c:
        want = answers(c, table, "local")
    for shape in table.alone:
        check(table, name, shape, None, "auto", want)
    for number, (prefill, decode) in enumerate(table.pairs):
        check(table, name, prefill, decode, LANES[number % 2], want)


check_grid(TABLES["stories260K"])
chosen = sys.argv[1:] or list(TABLES)
there = [name for name in chosen if os.path.exists(TABLES[name].path)]
for name in chosen:
    if name not in there:
        print("SKIPPED: ranks of %s: %s names no file of it" % (name, TABLES[name].variable))
if not there:
    skip("no model is there")
for name in there:
    check_model(name, TABLES[name])
