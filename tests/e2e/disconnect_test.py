"""1,000 clients that leave at random stages: one second later nothing is held anywhere."""
import concurrent.futures
import json
import os
import random
import socket
import time

from cluster import PREFILL_DECODE, STORIES, Cluster, manifest, need

need(STORIES)
SEED = int(os.environ.get("BATON_SEED", "11"))
REQUESTS = 1000
print("seed %d (BATON_SEED replays)" % SEED)


def open_files(c):
    """Without asking anybody: a question is a connection, too."""
    return {name: len(os.listdir("/proc/%d/fd" % pid)) for name, pid in c.processes().items()}


def leave(c, i):
    """Sends request i and hangs up somewhere: inside the head, the body, before the answer, inside the stream, or not at all."""
    rng = random.Random(SEED * 100003 + i)
    body = json.dumps({"model": "default", "prompt": [rng.randrange(20, 500) for _ in range(rng.randrange(1, 300))], "max_tokens": rng.randrange(1, 150),
                       "stream": rng.random() < 0.6, "ignore_eos": True, "n": rng.choice([1, 1, 1, 2])}).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    host, port = c.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=60) as s:
        stage = rng.random()
        if stage < 0.15:
            s.sendall(request[: rng.randrange(1, len(request))])
            return
        s.sendall(request)
        if stage < 0.5:
            time.sleep(rng.random() * 0.05)
        elif stage < 0.9:
            want = rng.randrange(1, 4000)
            while want > 0:
                got = s.recv(min(want, 4096))
                if not got:
                    break
                want -= len(got)
        else:
            while s.recv(65536):
                pass
        if rng.random() < 0.3:  # RST instead of FIN
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")


def say_no_more(c, stream):
    """The answer to a client that closes its sending side behind the request."""
    body = json.dumps({"model": "default", "prompt": "Once", "max_tokens": 200, "stream": stream, "ignore_eos": True}).encode()
    host, port = c.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=60) as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        s.shutdown(socket.SHUT_WR)
        got = b""
        while piece := s.recv(65536):
            got += piece
    return got


with Cluster(STORIES, manifest(PREFILL_DECODE)) as c:
    c.generate("warm", 4)
    assert b'"completion_tokens":200' in say_no_more(c, False) and say_no_more(c, True).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    c.wait_idle()
    files = open_files(c)
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        for f in [pool.submit(leave, c, i) for i in range(REQUESTS)]:
            f.result()
    c.wait_idle(1)
    c.wait_until(lambda: c.metric("baton_requests_in_flight") == 0, 1, "no request in flight")
    assert c.metric("baton_ledger_entries") == 0, "ledger entries left"
    c.wait_until(lambda: all(n <= files[name] for name, n in open_files(c).items()), 2,
                 lambda: "no file descriptor more than before: %s, then %s" % (files, open_files(c)))
    ids, r = c.generate("Once upon a time", 8)
    assert len(ids) == 8 and r.headers["x-baton-path"] == "remote-prefill"
    left = c.metric("baton_client_disconnects_total")
    assert left > 200, left
    print("passed: %d disconnects" % left)
