"""TinyLlama (BATON_TINYLLAMA, a GGUF file): prefill and decode groups of different shapes hand its KV over, and the tokens are those of one process."""
import os

from cluster import ANY, PREFILL_DECODE, Cluster, manifest, pools, skip

MODEL = os.environ.get("BATON_TINYLLAMA", "")
if not os.path.exists(MODEL):
    skip("TinyLlama is not here: BATON_TINYLLAMA names its GGUF file (tests/golden/local_models_test.cc says where it comes from)")
SMALL = {"memory": "64Mi"}
PROMPTS = ["Once upon a time there was a lighthouse keeper who", "Count: one two three four five six seven eight nine ten eleven " * 4]


def answers(cluster, remote):
    out = []
    for prompt in PROMPTS:
        for fields in ({}, {"temperature": 0.8, "seed": 11}):
            ids, reply = cluster.generate(prompt, 12, ignore_eos=True, **fields)
            assert not remote or reply.headers["x-baton-path"] == "remote-prefill", reply.headers
            out.append(ids)
    return out


def parallel(prefill, decode):
    parts = pools(PREFILL_DECODE, kv=SMALL)
    for name, (tensor, pipeline) in (("prefill", prefill), ("decode", decode)):
        parts[name]["parallel"] = {"tensor": tensor, "pipeline": pipeline}
    return manifest(parts)


with Cluster(MODEL, manifest(pools(ANY, kv=SMALL))) as c:
    want = answers(c, remote=False)
for prefill, decode in (((2, 1), (1, 2)), ((1, 2), (2, 1)), ((1, 1), (4, 1))):  # it has 4 KV heads
    with Cluster(MODEL, parallel(prefill, decode)) as c:
        assert answers(c, remote=True) == want, (prefill, decode)
        c.wait_idle(5)
    print("passed: prefill %dx%d, decode %dx%d has the tokens of one process" % (prefill + decode), flush=True)
