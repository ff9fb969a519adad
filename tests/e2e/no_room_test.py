"""No room for another process: a start says so, and a supervisor tries again until there is room."""
import os
import subprocess
import tempfile

from cluster import BINARY, PREFILL_DECODE, STORIES, Cluster, manifest, need

need(STORIES)
NO_FORK = os.path.join(tempfile.mkdtemp(prefix="baton-e2e-"), "no-fork")
PRELOADED = {"LD_PRELOAD": need(os.environ.get("BATON_FORK_REFUSED", "the library fork_refused")), "BATON_TEST_NO_FORK": NO_FORK}


def set_room(room):
    os.remove(NO_FORK) if room else open(NO_FORK, "w").close()


def gauges_of(cluster, worker):
    """What the coordinator's metrics say of a worker."""
    lines = (line.rsplit(" ", 1) for line in cluster.get("/metrics").body.decode().splitlines() if '="%s"' % worker in line)
    return {name: float(value) for name, value in lines}


set_room(False)
with tempfile.TemporaryDirectory(prefix="baton-e2e-") as home:
    r = subprocess.run([BINARY, "serve", STORIES, "--port", "0"], env=dict(os.environ, BATON_HOME=home, **PRELOADED), capture_output=True, text=True, timeout=60)
    assert r.returncode != 0 and "fork: Resource temporarily unavailable" in r.stderr, r
set_room(True)
print("passed: a start without room")

os.environ.update(PRELOADED)
with Cluster(STORIES, manifest(PREFILL_DECODE)) as c:
    log = os.path.join(c.home, "state/logs/supervisor.log")
    want, _ = c.generate("Lily likes cats", 8)
    before = c.process("decode-0")["pid"]
    there = gauges_of(c, "decode-0")
    assert len(there) >= 11 and there['baton_worker_state{state="ready",worker="decode-0"}'] == 1, there
    set_room(False)
    c.kill("decode-0")

    def said():
        with open(log) as f:
            return f.read().count('"process could not be started","name":"decode-0","why":"no process could be started: fork: Resource temporarily unavailable')

    c.wait_until(lambda: said() >= 2, 20, "it was tried more than once")
    # Nothing that was true of a worker stays in the metrics when it is gone.
    now = gauges_of(c, "decode-0")
    assert now.keys() == there.keys() and set(now.values()) == {0.0}, (there, now)
    set_room(True)
    c.wait_until(lambda: any(w["name"] == "decode-0" and w["state"] == "ready" for w in c.workers()), 20, "decode-0 is back")
    assert c.process("decode-0")["pid"] != before
    assert c.generate("Lily likes cats", 8)[0] == want
    c.wait_idle(3)
print("passed: a restart without room")
