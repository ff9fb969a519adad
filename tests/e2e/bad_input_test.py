"""Whatever a client sends gets a 4xx with a clear message, and the server lives on."""
import json
import random
import socket

from cluster import PREFILL_DECODE, STORIES, Cluster, manifest, need

need(STORIES)
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
GOOD = {"model": "default", "prompt": "Once", "max_tokens": 4}
# The ends of each field's range.
ENDS = {"temperature": [0, 1e-300, 1e-38, 2], "top_p": [1e-30, 1], "top_k": [-1, 0, 2**31 - 1], "min_p": [0, 1e-300, 1], "repetition_penalty": [0.01, 100], "presence_penalty": [-2, 2],
        "frequency_penalty": [-2, 2], "logprobs": [0, 20], "n": [16], "seed": [-2**63, 2**64 - 1], "logit_bias": [{"1": -100}, {str(i): 100 for i in range(512)}],
        "stop_token_ids": [[1] * 1024], "stop": [["x" * 256] * 16], "cache_salt": ["", "x" * 256], "min_tokens": [4], "prompt": [[0], [511], "\0"], "model": ["default"]}


def check_bodies(c):
    deep = "[" * 2000 + "]" * 2000
    bodies = ["", "{", "null", "[]", "7", "\"x\"", deep, '{"prompt":' + deep + "}", b"{\"prompt\":\"\xff\xfe\"}", b"\x00", "{}", '{"model":"default"}', '{"prompt":"x" "y"}']
    for body in bodies:
        r = c.post(TEXT, body)
        error = r.json()["error"]
        assert 400 <= r.status < 500 and error["message"] and "type" in error and "code" in error and "param" in error, (body[:40], r.status, r.body)
        assert error["code"] is None or isinstance(error["code"], str), error


def check_fields(c):
    bad = {"max_tokens": [-1, 0, 1.5, "x", 10**30], "temperature": [-1, 3, "hot", 1e400], "top_p": [-0.1, 1.1, "x"], "top_k": [-5, 0.5], "n": [0, -1, 17, "2"],
           "logprobs": [-1, 1000, "x"], "seed": ["x", 0.5], "stop": [7, [7], ["a"] * 17, "x" * 1000], "logit_bias": [7, {"x": 1}, {"1": "y"}, {"1": 1000}, {"99999999": 1}],
           "stop_token_ids": [7, ["x"], [-1]], "min_tokens": [-1, "x"], "stream": ["yes", 1], "prompt": [7, {}, [], [["x"]], [-1], [10**12], [1, "x"]], "model": [7, "nope"],
           "repetition_penalty": [0, -1, "x"], "min_p": [-1, 2], "presence_penalty": [-3, 3], "frequency_penalty": ["x"], "stream_options": [7, "x"]}
    for field, values in bad.items():
        for value in values:
            r = c.post(TEXT, json.dumps(dict(GOOD, **{field: value})).replace("Infinity", "1e999"))
            assert 400 <= r.status < 500, (field, value, r.status, r.body)
            message = r.json()["error"]["message"]
            assert message and (field in message or field == "model"), (field, value, message)
    assert c.post(TEXT, dict(GOOD, model="nope")).status == 404
    for messages in ([], 7, [7], [{}], [{"role": "user"}], [{"role": 7, "content": "x"}], [{"role": "user", "content": 7}]):
        r = c.post(CHAT, {"model": "default", "messages": messages})
        assert 400 <= r.status < 500, (messages, r.status, r.body)


def check_extremes(c):
    """What the gateway lets through, the workers take: the ends of each range are answered."""
    for field, values in ENDS.items():
        for value in values:
            r = c.post(TEXT, dict(GOOD, **{field: value}))
            assert r.status == 200, (field, value, r.status, r.body)
    assert c.post(TEXT, dict(GOOD, repetition_penalty=1e-30)).status == 400


def check_combinations(c, seed):
    """Values that are taken one by one, together: an answer or a clear refusal, and never anything else."""
    rng = random.Random(seed)
    print("seed %d" % seed)
    more = dict(ENDS, prompt=["", "Once", [5] * 500, ["a", [7, 8]], [[1], [2, 3]]], echo=[True], stream=[True], ignore_eos=[True], max_tokens=[1, 8, 10**9], min_tokens=[1, 8],
                stop_token_ids=[list(range(512)), [2]], stop=["", [" ", "\n"], "e"], n=[1, 16], best_of=[1, 16], return_token_ids=[True], include_stop_str_in_output=[True],
                skip_special_tokens=[False], stream_options=[{"include_usage": True, "continuous_usage_stats": True}], temperature=[0, 1e-6, 2], top_k=[1, 511, 512, 513])
    for _ in range(400):
        body = dict(GOOD, **{field: rng.choice(more[field]) for field in rng.sample(sorted(more), rng.randrange(2, 7))})
        r = c.post(TEXT, body)
        assert r.status in (200, 400), (body, r.status, r.body)
        if r.status == 400:
            assert r.json()["error"]["message"], (body, r.body)
        elif body.get("stream"):
            assert r.body.rstrip().endswith(b"data: [DONE]") and b'"error"' not in r.body, (body, r.body[-300:])
        else:
            assert len(r.json()["choices"]) >= 1, (body, r.body)


def check_lengths(c):
    long = c.post(TEXT, dict(GOOD, prompt=[5] * 600))
    assert long.status == 400 and long.json()["error"]["code"] == "context_length_exceeded", long.body
    fits = c.post(TEXT, dict(GOOD, prompt=[5] * 508, max_tokens=4))
    assert fits.status == 200, fits.body
    assert c.post(TEXT, dict(GOOD, prompt=[5] * 509, max_tokens=4)).status == 400
    for piece in ("7", "\u6f22", "<s>"):
        r = c.post(TEXT, dict(GOOD, prompt=piece * 1000000))
        assert r.status == 400 and "at least" in r.json()["error"]["message"], (piece, r.status, r.body[:300])
    for megabytes in (9, 24):  # is told why, although it sends on
        huge = c.post(TEXT, json.dumps(dict(GOOD, prompt="a" * (megabytes << 20))))
        assert huge.status == 413 and huge.json()["error"]["message"], (megabytes, huge.status, huge.body[:200])
    unknown = c.post(TEXT, dict(GOOD, no_such_field={"a": 1}))
    assert unknown.status == 200, unknown.body
    assert c.metric("baton_unknown_fields_total") >= 1


def raw(c, data):
    host, port = c.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=5) as s:
        s.sendall(data)
        got = b""
        while b"\r\n\r\n" not in got:
            piece = s.recv(4096)
            if not piece:
                break
            got += piece
    return int(got.split(b" ")[1]) if got.startswith(b"HTTP/1.") else None


def check_framing(c):
    post = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
    cases = [post + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", post + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", b"GET /live HTTP/1.1\nHost: x\n\n",
             b"GET /live HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", b"GET /live HTTP/1.1\r\nHost: x\r\nA: b\0\r\n\r\n", b"GET /live HTTP/1.1\r\n\r\n",
             b"GET /live HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"GET /live HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 17000 + b"\r\n\r\n",
             post + b"Content-Length: 99999999999\r\n\r\n", post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", post + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n",
             post + b"Content-Length: -1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    for data in cases:
        status = raw(c, data)
        assert status is not None and 400 <= status < 506 and status != 500, (data[:80], status)
    assert raw(c, b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n") == 200


def check_noise(c, seed):
    rng = random.Random(seed)
    print("seed %d" % seed)
    text = json.dumps(dict(GOOD, temperature=0.5, stop=["a"], logit_bias={"5": 1})).encode()
    for _ in range(300):
        body = bytearray(text)
        for _ in range(rng.randrange(1, 6)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        r = c.post(TEXT, bytes(body))
        assert r.status < 500, (bytes(body), r.status, r.body)


with Cluster(STORIES, manifest(PREFILL_DECODE)) as c:
    pids = {p["name"]: p["pid"] for p in c.ps()}
    for check in (check_bodies, check_fields, check_extremes, check_lengths, check_framing):
        check(c)
        print("passed %s" % check.__name__, flush=True)
    check_combinations(c, 6)
    check_noise(c, 5)
    assert pids == {p["name"]: p["pid"] for p in c.ps()}, "a process died"
    assert c.generate("Once", 4)[0]
    c.wait_idle()
print("passed")
