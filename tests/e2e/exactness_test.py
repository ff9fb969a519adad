"""Design I1 through HTTP: the same 50 prompts give the same token ids and the same logprobs, bit for bit, however they are served.

Logprobs travel as shortest round-trip decimals, so equal text means equal bits. Model: SmolLM2 when it is at hand, else stories260K
with prompts that fit its context.
"""
import concurrent.futures
import os
import random
import time
import urllib.request

from cluster import ANY, PREFILL_DECODE, SMOLLM2, STORIES, Cluster, manifest, need, pools

small = not os.path.exists(SMOLLM2)
MODEL = need(STORIES) if small else SMOLLM2
VOCAB, LONGEST = (500, 480) if small else (49000, 2000)
if small:
    print("SmolLM2 is not at hand (%s): stories260K instead" % SMOLLM2)
SEED = int(os.environ.get("BATON_SEED", "20260121"))
print("seed %d (BATON_SEED replays)" % SEED)


def prompts():
    rng = random.Random(SEED)
    lengths = [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 100, 127, 128, 129, 200, 255, 256, 257, 258, 300, 400, 511, 512, 513, 700,
               1000, 2000]
    out = [[rng.randrange(20, VOCAB) for _ in range(min(n, LONGEST))] for n in lengths]
    shared = [rng.randrange(20, VOCAB) for _ in range(min(320, LONGEST - 80))]
    while len(out) < 50:  # shared prefixes that end inside, at and behind a block
        cut = rng.choice([16, 30, 64, 100, 256, 257, 320])
        out.append(shared[:cut] + [rng.randrange(20, VOCAB) for _ in range(rng.randrange(1, 40))])
    return out


PROMPTS = prompts()
SAMPLED = {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "seed": 7}


refused = 0  # who waits for room for longer than admission lets it is refused, on a loaded machine; what is served is exact all the same


def ask(c, prompt, **fields):
    global refused
    patience = time.monotonic() + 60
    while True:
        try:
            ids, r = c.generate(prompt, 8, logprobs=3, **fields)
            break
        except RuntimeError as e:
            if not str(e).startswith("429 ") or time.monotonic() > patience:
                raise
            refused += 1
            time.sleep(0.2)
    lp = r.json()["choices"][0]["logprobs"]
    return ids, lp["token_logprobs"], lp["top_logprobs"], r.headers["x-baton-path"]


def ask_all(c, at_once, order_seed=0, first=len(PROMPTS), **fields):
    """Answers to the first prompts in the order of PROMPTS, asked in a shuffled order, `at_once` at a time."""
    order = list(range(first))
    random.Random(order_seed).shuffle(order)
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        futures = {i: pool.submit(ask, c, PROMPTS[i], **fields) for i in order}
    return [futures[i].result() for i in range(first)]


def compare(name, got, want, path):
    for i, (g, w) in enumerate(zip(got, want)):
        assert g[0] == w[0], "%s: prompt %d (%d tokens): ids %s, want %s" % (name, i, len(PROMPTS[i]), g[0], w[0])
        assert g[1:3] == w[1:3], "%s: prompt %d (%d tokens): logprobs differ: %s, want %s" % (name, i, len(PROMPTS[i]), g[1:3], w[1:3])
    if path:
        assert all(g[3] == path for g in got), "%s: paths %s" % (name, {g[3] for g in got})
    print("equal: %s" % name, flush=True)


start = time.monotonic()
with Cluster(MODEL, manifest(pools(ANY, resources={"cpu": 1}))) as c:
    baseline = ask_all(c, 1)
    compare("warm prefix cache, alone", ask_all(c, 1), baseline, "local")
    compare("warm, 16 at a time", ask_all(c, 16, 1), baseline, "local")
    sampled = ask_all(c, 1, 0, **SAMPLED)
    compare("sampled, 16 at a time", ask_all(c, 16, 2, **SAMPLED), sampled, "local")
with Cluster(MODEL, manifest(pools(ANY, resources={"cpu": 2}, batch={"tokens": 64, "sequences": 8}))) as c:
    compare("2 threads, chunks of at most 64, cold, 8 at a time", ask_all(c, 8, 3), baseline, "local")
with Cluster(MODEL, manifest(pools(ANY, resources={"cpu": 3}))) as c:
    # More threads than most test machines have cores: every barrier is a context switch, so only the short prompts.
    compare("3 threads, cold, all at once", ask_all(c, 18, 4, first=18), baseline, "local")
blocks = 60 if small else 190  # too few for all: the youngest are preempted and computed again
per_block = 16 * (5 * 2 * 4 * 8 * 2 if small else 23040)
with Cluster(MODEL, manifest(pools(ANY, kv={"memory": max(blocks * per_block, 1 << 18)}))) as c:
    compare("a pool of %d blocks, all at once" % blocks, ask_all(c, 50, 5), baseline, "local")
# What such a pool has no room for is kept in host memory, and comes back from there.
with Cluster(MODEL, manifest(pools(ANY, kv={"memory": max(blocks * per_block, 1 << 18), "hostMemory": "1Gi"}))) as c:
    for order in (5, 6):
        compare("the same with host memory, all at once", ask_all(c, 50, order), baseline, "local")
    compare("the same, sampled", ask_all(c, 50, 7, **SAMPLED), sampled, "local")
    c.wait_idle()
    text = urllib.request.urlopen("http://%s/metrics" % c.workers()[0]["metrics_address"]).read().decode()
    said = {name: c.metric("baton_kv_host_%s" % name, text) for name in
            ("blocks", "copied_blocks_total", "hit_tokens_total", "wait_seconds_total", "lost_blocks_total", "fetches_failed_total")}
    print("host memory: %s" % said)
    assert said["blocks"] > blocks and said["hit_tokens_total"] > 0, said
for transport in ("local", "socket", "am"):
    with Cluster(MODEL, manifest(pools(PREFILL_DECODE, resources={"cpu": 1}), transfer={"transport": transport})) as c:
        compare("prefill and decode apart, lane %s, cold, alone" % transport, ask_all(c, 1, 6), baseline, "remote-prefill")
        compare("prefill and decode apart, lane %s, warm, 16 at a time" % transport, ask_all(c, 16, 7), baseline, "remote-prefill")
        compare("prefill and decode apart, lane %s, sampled" % transport, ask_all(c, 16, 8, **SAMPLED), sampled, "remote-prefill")
        c.wait_idle()
print("all equal in %.0f s, %d refusals for want of room" % (time.monotonic() - start, refused))
