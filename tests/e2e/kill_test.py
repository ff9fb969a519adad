"""kill -9 of either worker during a stream: a clean error at once, everybody else lives, the worker comes back as a new life."""
import threading
import time

from cluster import PREFILL_DECODE, STORIES, Cluster, manifest, need

need(STORIES)


class Stream(threading.Thread):
    """A long stream in the background; notes its tokens, how it ended and when."""

    def __init__(self, cluster):
        super().__init__()
        self.cluster = cluster
        self.tokens, self.error, self.ended = 0, None, None
        self.flowing = threading.Event()
        self.start()

    def run(self):
        try:
            body = {"model": "default", "prompt": "Once upon a time", "max_tokens": 450, "ignore_eos": True, "temperature": 0, "return_token_ids": True}
            for _, event in self.cluster.stream("/v1/completions", body):
                if "error" in event:
                    self.error = event["error"]
                    break
                for choice in event["choices"]:
                    self.tokens += len(choice.get("token_ids") or [])
                if self.tokens >= 3:
                    self.flowing.set()
        except RuntimeError as e:
            self.error = str(e)
        self.ended = time.monotonic()
        self.flowing.set()


def check(victim, survivor, path_meanwhile):
    with Cluster(STORIES, manifest(PREFILL_DECODE)) as c:
        want, _ = c.generate("Lily likes cats and dogs", 12)
        before = {p["name"]: p["pid"] for p in c.ps()}
        for round_number in range(3):
            stream = Stream(c)
            assert stream.flowing.wait(20)
            killed = time.monotonic()
            c.kill(victim)
            stream.join(10)
            assert not stream.is_alive(), "the stream hangs after %s died" % victim
            if victim.startswith("decode") and stream.tokens < 450:
                assert stream.error and stream.ended - killed < 3, (stream.error, stream.ended - killed)
            ids, r = c.generate("Lily likes cats and dogs", 12)  # while it is away, or just back
            assert ids == want and r.headers["x-baton-path"] in (path_meanwhile, "fallback:transfer-failed", "fallback:prefill-failed", "fallback:no-link", "remote-prefill"), r.headers
            c.wait_until(lambda: all(w["state"] == "ready" for w in c.workers()) and len(c.workers()) == 2, 10, "%s is back" % victim)
            now = {p["name"]: p["pid"] for p in c.ps()}
            assert now[victim] != before[victim] and now[survivor] == before[survivor] and now["coordinator"] == before["coordinator"]
            before = now

            def paired():
                ids, r = c.generate("Lily likes cats and dogs", 12)
                assert ids == want
                return r.headers["x-baton-path"] == "remote-prefill"

            c.wait_until(paired, 5, "the new life is paired")
            c.wait_idle(3)
        print("passed: kill -9 of %s, 3 times" % victim, flush=True)


check("decode-0", "prefill-0", "fallback:no-decode-worker")
check("prefill-0", "decode-0", "fallback:no-prefill-worker")

with Cluster(STORIES, manifest(PREFILL_DECODE)) as c:
    want, _ = c.generate("Tom had a red ball", 12)
    long = "Once upon a time there was a little girl. " * 6
    c.generate(long, 2)
    c.kill("coordinator")

    def serves():
        try:
            return c.generate("Tom had a red ball", 12)[0] == want
        except (OSError, RuntimeError):
            return False

    c.wait_until(serves, 15, "the coordinator is back on its port with its workers")
    c.wait_until(lambda: all(w["state"] == "ready" for w in c.workers()) and len(c.workers()) == 2, 10, "both workers joined again")
    _, r = c.generate(long, 2)
    assert int(r.headers["x-baton-cached-tokens"]) > 0, "the workers' prefix caches outlive the coordinator: %s" % r.headers
    print("passed: kill -9 of the coordinator")
