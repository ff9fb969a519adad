"""SmolLM2 through HTTP with prefill and decode apart, on the reference backend: tokens and logprobs against float64 goldens.

Bounds are the float32 ones of ../shared/models/README.md: logits within 2e-4 (here logprobs: within 4e-4), every token equal
where the golden margin is at least 0.02. They are what tells a wrong formula from rounding.
"""
import json
import os
import time

from cluster import PREFILL_DECODE, SHARED, SMOLLM2, Cluster, manifest, need, pools

need(SMOLLM2)
with open(need(os.path.join(SHARED, "models/golden/smollm2-135m-q4_1.json"))) as f:
    CASES = json.load(f)["cases"]
LONGEST = 2000 if os.environ.get("BATON_SLOW") else 110
TOLERANCE, MARGIN = 4e-4, 0.02


def ask(c, case):
    fields = {"model": "default", "max_tokens": len(case["greedy_ids"]), "temperature": 0, "return_token_ids": True}
    if case["kind"] == "chat":
        r = c.post("/v1/chat/completions", dict(fields, messages=case["messages"], logprobs=True, top_logprobs=5))
        assert r.status == 200, r.body
        choice = r.json()["choices"][0]
        return r, choice["token_ids"], [[t["logprob"] for t in e["top_logprobs"]] for e in choice["logprobs"]["content"]]
    r = c.post("/v1/completions", dict(fields, prompt=case["prompt_ids"], logprobs=5))
    assert r.status == 200, r.body
    choice = r.json()["choices"][0]
    lp = choice["logprobs"]  # a map by text: parts of characters share a spelling, then only the chosen token is compared
    return r, choice["token_ids"], [sorted(t.values(), reverse=True) if len(t) == 5 else [own]
                                    for own, t in zip(lp["token_logprobs"], lp["top_logprobs"])]


def check(case, ids, logprobs):
    assert len(logprobs) >= sum(t != 2 for t in ids) > 0, (case["name"], len(logprobs), ids)
    worst = 0.0
    for i, (token, step) in enumerate(zip(ids, case["steps"])):
        want = [logit - step["logsumexp"] for _, logit in step["top5"]]
        if i < len(logprobs):  # an end token has no text and no entry
            worst = max([worst] + [abs(g - w) for g, w in zip(logprobs[i][:5], want)])
        if token != step["next"]:
            assert step["margin"] < MARGIN, "%s: step %d: token %d, want %d (margin %g)" % (case["name"], i, token, step["next"], step["margin"])
            break
    else:
        text_ids = [t for t in case["greedy_ids"] if t != 2]
        assert [t for t in ids if t != 2] == text_ids, "%s: %s, want %s" % (case["name"], ids, text_ids)
    assert worst <= TOLERANCE, "%s: a logprob is off by %g" % (case["name"], worst)
    return worst


cases = [c for c in CASES if len(c["prompt_ids"]) <= LONGEST]
print("%d of %d cases (BATON_SLOW=1 runs the long ones too)" % (len(cases), len(CASES)))
reference = pools(PREFILL_DECODE, device="reference", kv={"memory": "512Mi", "dtype": "f32"})
with Cluster(SMOLLM2, manifest(reference)) as c:
    for case in cases:
        start = time.monotonic()
        r, ids, logprobs = ask(c, case)
        assert r.headers["x-baton-path"] == "remote-prefill", r.headers
        if case["kind"] == "chat":
            usage = r.json()["usage"]
            assert usage["prompt_tokens"] == len(case["prompt_ids"]), (case["name"], usage)
        print("%-18s worst logprob error %.1e (%.1f s)" % (case["name"], check(case, ids, logprobs), time.monotonic() - start), flush=True)
with Cluster(SMOLLM2) as c:  # as users run it: the chat answers make sense
    r = c.post("/v1/chat/completions", {"model": "default", "temperature": 0, "max_tokens": 40,
                                        "messages": [{"role": "user", "content": "Why is the sky blue?"}]})
    text = r.json()["choices"][0]["message"]["content"]
    assert "scatter" in text, text
print("passed; the int8 backend says: %s" % text)
