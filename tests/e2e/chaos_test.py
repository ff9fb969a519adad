"""Everything at once, seeded: random requests and clients of every manner, while processes are killed and stopped at random moments.

Whoever gets a whole answer gets the right one; afterwards nothing is held, nobody is left over, descriptors and memory are where they were.
"""
import concurrent.futures
import json
import os
import random
import signal
import socket
import threading
import time

from cluster import ANY, PREFILL_DECODE, STORIES, Cluster, manifest, need, pools

need(STORIES)
SEED = int(os.environ.get("BATON_SEED", "20261122"))
ROUNDS = int(os.environ.get("BATON_TEST_ROUNDS", "12"))
print("seed %d (BATON_SEED replays)" % SEED, flush=True)
ASKED = [{"model": "default", "prompt": p, "max_tokens": n, "temperature": t, "seed": 3, "ignore_eos": True, "return_token_ids": True}
         for p in ("Once upon a time", "Lily likes cats and dogs. " * 8, [7] * 300, "Tom had a red ball. " * 12) for n in (1, 40, 190) for t in (0, 1)]


class Odd(Exception):
    """What no fault excuses."""


def ask(c, body, manner, rng):
    """One client. Returns the token ids of a whole answer; None for one that left, or was told that something broke."""
    text = json.dumps(dict(body, stream=manner != "unary")).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(text)
    host, port = c.address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=60) as s:
            if manner == "cut":
                s.sendall((head + text)[: rng.randrange(1, len(head + text))])
                return None
            s.sendall(head + text)
            if manner == "half":
                s.shutdown(socket.SHUT_WR)
            if manner == "mute":
                time.sleep(rng.random())
                return None
            got = b""
            while piece := s.recv(65536):
                got += piece
                if manner == "leave" and rng.random() < 0.3:
                    return None
    except OSError:
        return None  # the coordinator was killed
    return read(got, manner)


def read(got, manner):
    while got.startswith(b"HTTP/1.1 100"):
        got = got.partition(b"\r\n\r\n")[2]
    head, _, body = got.partition(b"\r\n\r\n")
    if manner == "unary" or not head.startswith(b"HTTP/1.1 200"):
        status = int(head.split(b" ")[1]) if head else 0
        if status in (0, 429, 503, 504):
            return None
        if status != 200 or not body:
            raise Odd(head)
        length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")).split(b":")[1])
        return json.loads(body)["choices"][0]["token_ids"] if len(body) == length else None
    if not body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
        return None
    lines = [line[6:] for line in body.split(b"\r\n") for line in line.split(b"\n") if line.startswith(b"data: {")]
    return [i for line in lines for choice in json.loads(line)["choices"] for i in choice.get("token_ids", [])]


def load(c, want, stop, seed, counts):
    rng = random.Random(seed)
    while not stop.is_set():
        i = rng.randrange(len(ASKED))
        manner = rng.choice(["unary", "stream", "stream", "half", "leave", "mute", "cut"])
        ids = ask(c, ASKED[i], manner, rng)
        if ids is not None and ids != want[i]:
            raise Odd("%s, %s: got %s, want %s" % (ASKED[i], manner, ids, want[i]))
        counts["whole" if ids is not None else "other"] += 1


def harm(c, rng):
    name = rng.choice([n for n in c.processes() if n != "supervisor"])
    pid = c.processes()[name]
    try:
        if rng.random() < 0.5:
            os.kill(pid, signal.SIGKILL)
            return "kill -9 of " + name
        pause = rng.choice([0.1, 0.9, 2.5])
        os.kill(pid, signal.SIGSTOP)
        time.sleep(pause)
        os.kill(pid, signal.SIGCONT)
        return "%s stopped for %.1f s" % (name, pause)
    except ProcessLookupError:
        return name + " was gone"


def whole(c):
    """All processes up, and a request goes its ordinary way."""
    try:
        rows = c.ps()
        return all(r["state"] == "ready" for r in rows) and c.get("/ready").status == 200 and c.request("POST", "/v1/completions", ASKED[0], timeout=5).status == 200
    except (OSError, ValueError, KeyError):
        return False


def held(c):
    """Descriptors and resident KiB of each process that has lived through everything."""
    out = {}
    for name, pid in c.processes().items():
        with open("/proc/%d/status" % pid) as f:
            rss = next(int(line.split()[1]) for line in f if line.startswith("RssAnon"))
        out[name, pid] = (len(os.listdir("/proc/%d/fd" % pid)), rss)
    return out


def children(c):
    """Processes of this home, by their command line."""
    out = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/environ" % pid, "rb") as f:
                if ("BATON_HOME=%s" % c.home).encode() in f.read().split(b"\0"):
                    out.add(int(pid))
        except OSError:
            pass
    return out


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def check(name, text, want):
    rng = random.Random("%d %s" % (SEED, name))
    counts = {"whole": 0, "other": 0}
    with Cluster(STORIES, text) as c:
        for _ in range(2):
            assert [c.request("POST", "/v1/completions", b).json()["choices"][0]["token_ids"] for b in ASKED] == want, name
        for number in range(ROUNDS):
            stop = threading.Event()
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                clients = [pool.submit(load, c, want, stop, rng.random(), counts) for _ in range(8)]
                time.sleep(rng.random() * 0.5)
                done = harm(c, rng)
                time.sleep(rng.random())
                stop.set()
                for f in clients:
                    f.result()
            c.wait_until(lambda: whole(c), 30, "%s: all is well again after %s" % (name, done))
            c.wait_idle(10)
            c.wait_until(lambda: c.metric("baton_requests_in_flight") == 0 and c.metric("baton_ledger_entries") == 0, 10, "%s: nothing in flight after %s" % (name, done))
            print("%s: %s: %s" % (name, done, counts), flush=True)
            assert c.metric("baton_replay_mismatches_total") == 0
        assert counts["whole"] > 10 * ROUNDS, counts
        flat(c, want, rng, counts)
        assert children(c) == set(c.processes().values()), (children(c), c.processes())
        mine = children(c)
        c.command("down")
        c.wait_until(lambda: not any(alive(pid) for pid in mine), 2, "nobody is left over after down")


def flat(c, want, rng, counts):
    """The same load twice, without faults: what the second round adds is a leak."""
    seen = []
    for _ in range(3):
        stop = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(load, c, want, stop, rng.random(), counts) for _ in range(8)]
            time.sleep(3)
            stop.set()
            for f in clients:
                f.result()
        c.wait_idle(10)
        time.sleep(2.5)  # connections that were refused linger
        seen.append(held(c))
    for process, (files, rss) in seen[2].items():
        assert files <= seen[1][process][0] + 1, "%s: %d descriptors, then %d" % (process, seen[1][process][0], files)
        assert rss <= seen[1][process][1] + 8 * 1024, "%s: %d KiB, then %d" % (process, seen[1][process][1], rss)
    print("flat: %s" % {p[0]: [s[p] for s in seen] for p in seen[2]}, flush=True)


with Cluster(STORIES, manifest(pools(ANY, kv={"memory": "64Mi"}))) as c:
    WANT = [c.request("POST", "/v1/completions", b).json()["choices"][0]["token_ids"] for b in ASKED]
check("prefill and decode, two each", manifest(pools(PREFILL_DECODE, replicas=2, kv={"memory": "8Mi"})), WANT)
check("two groups", manifest({"prefill": {"role": "prefill", "parallel": {"tensor": 2}, "kv": {"memory": "8Mi"}},
                              "decode": {"role": "decode", "parallel": {"pipeline": 2}, "kv": {"memory": "8Mi"}}}, transfer={"transport": "socket"}), WANT)
