"""Workers of several ranks (tensor, pipeline): kill -9 of any rank ends the life of the whole group, which is back as a new one with the tokens of one
process. Every shape: shapes_test.py."""
import os
import re
import resource
import signal
import subprocess
import tempfile
import time
import urllib.request

from cluster import ANY, BINARY, PATIENT, STORIES, Cluster, RunningStream, manifest, need, pools

need(STORIES)
PROMPTS = ["Once upon a time", "Lily likes cats and dogs"]
SMALL = {"memory": "8Mi"}


def group(tensor, pipeline, replicas=1):
    return manifest(pools(ANY, parallel={"tensor": tensor, "pipeline": pipeline}, kv=SMALL, replicas=replicas), gateway=PATIENT)


def stage_layers(cluster):
    """[3, 2] of "cpu avx2, 1 thread on core 0, 3 + 2 layers, 2 ranks over shm"."""
    return [int(n) for n in re.search(r"([0-9 +]+) layers, ", cluster.process("any-0")["device"])[1].split("+")]


def layers_metric(cluster, rank):
    text = urllib.request.urlopen("http://%s/metrics" % cluster.workers()[0]["metrics_address"]).read().decode()
    return int(re.search(r'^baton_rank_layers\{rank="%d"\} (\d+)$' % rank, text, re.M)[1])


with Cluster(STORIES, manifest(pools(ANY, kv=SMALL))) as c:
    want = [c.generate(p, 40)[0] for p in PROMPTS]
    want_long = c.generate(PROMPTS[0], 450, ignore_eos=True)[0]

for named in ([1, 4], [4, 1]):
    with Cluster(STORIES, manifest(pools(ANY, parallel={"pipeline": 2, "stageLayers": named}, kv=SMALL))) as c:
        assert [c.generate(p, 40)[0] for p in PROMPTS] == want, named
        assert stage_layers(c) == named and [layers_metric(c, r) for r in (0, 1)] == named, c.process("any-0")
        before = {n: c.process(n)["pid"] for n in ("any-0", "any-0.1")}
        c.kill("any-0.1")  # a new life has the same stages
        c.wait_until(lambda: all(c.process(n)["pid"] not in (0, before[n]) and c.process(n)["state"] == "ready" for n in before), 20, "a new life")
        assert c.generate(PROMPTS[1], 40)[0] == want[1] and stage_layers(c) == named
        c.wait_idle(3)
    print("passed: stages of %d + %d layers, named, have the tokens of one process" % tuple(named), flush=True)


# Measuring makes steps, and a step pins the thread that makes it: not the one that starts all others.
with Cluster(STORIES, group(1, 2)) as c:
    for name in ("any-0", "any-0.1"):
        assert os.sched_getaffinity(c.process(name)["pid"]) == os.sched_getaffinity(0), name
    print("passed: only engine threads are pinned after measuring")

with Cluster(STORIES, group(2, 2)) as c:
    names = ["any-0", "any-0.1", "any-0.2", "any-0.3"]
    for victim in names + ["any-0.3"]:
        before = {n: c.process(n)["pid"] for n in names}
        stream = RunningStream(c, errors=(RuntimeError, OSError))
        assert stream.flowing.wait(20)
        killed = time.monotonic()
        c.kill(victim)
        assert stream.over(80), "the stream hangs after %s died" % victim
        # It goes on in the next life of the group.
        assert not stream.error and stream.ids == want_long, (stream.error, stream.tokens)
        print("kill -9 of %s: longest pause of the stream %.2f s" % (victim, max(b - a for a, b in zip(stream.times, stream.times[1:]))), flush=True)

        def new_life():
            now = {n: c.process(n) for n in names}
            return all(now[n]["pid"] not in (0, before[n]) and now[n]["state"] == "ready" for n in names)

        c.wait_until(new_life, 20, "the group is back as a new life")
        assert c.generate(PROMPTS[1], 40)[0] == want[1]
        c.wait_idle(3)
        print("passed: kill -9 of %s, back %.2f s later" % (victim, time.monotonic() - killed), flush=True)

with Cluster(STORIES, group(2, 1)) as c:
    before = {n: c.process(n)["pid"] for n in ("any-0", "any-0.1")}
    c.kill("any-0.1", signal.SIGSTOP)
    stream = RunningStream(c, errors=(RuntimeError, OSError))  # needs the rank that is stopped
    assert stream.over(80), "the stream hangs while a rank is stopped"
    assert not stream.error and stream.ids == want_long, (stream.error, stream.tokens)
    c.wait_until(lambda: all(c.process(n)["pid"] not in (0, before[n]) and c.process(n)["state"] == "ready" for n in before), 20, "a new life")
    assert c.generate(PROMPTS[1], 40)[0] == want[1]
    text = urllib.request.urlopen("http://%s/metrics" % c.workers()[0]["metrics_address"]).read().decode()
    for rank in ("0", "1"):
        assert 'baton_rank_steps_total{rank="%s"}' % rank in text, text
    print("passed: SIGSTOP of a rank ends the group, which is back without it")

# A rank that dies while it loads, here by the limit on the size of files (its KV pool): the other one is not to blame, and says so. Nobody waits for long.
with tempfile.TemporaryDirectory(prefix="baton-e2e-") as home:
    path = os.path.join(home, "manifest.yaml")
    with open(path, "w") as f:
        f.write(manifest(pools(ANY, parallel={"tensor": 2}, kv=SMALL), model={"source": STORIES}))

    def start(rank, **options):
        command = [BINARY, "worker", "--manifest", path, "--pool", "any", "--rank", str(rank), "--join", "127.0.0.1:1", "--rendezvous", "unix:@baton-groups-test-%d" % os.getpid()]
        return subprocess.Popen(command, env=dict(os.environ, BATON_HOME=home), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)

    def no_room():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    ranks = [start(0), start(1, preexec_fn=no_room)]
    said = [r.communicate(timeout=60)[0] for r in ranks]
    codes = [r.returncode for r in ranks]
    assert codes == [4, -signal.SIGXFSZ], (codes, said)
    assert "rank 1 of the group is gone" in said[0], said[0]
    print("passed: a rank that dies while it loads takes the blame")

# The same under a supervisor, whose start fails: the stage of four layers has four times the pool of the other one, and only it does not fit.
with tempfile.TemporaryDirectory(prefix="baton-e2e-") as home:
    path = os.path.join(home, "manifest.yaml")
    with open(path, "w") as f:
        f.write(manifest(pools(ANY, parallel={"pipeline": 2, "stageLayers": [1, 4]}, kv={"memory": "256Mi"})))

    def room_for_one():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (160 << 20, 160 << 20))

    command = [BINARY, "serve", STORIES, "-f", path, "--port", "0", "--detach"]
    r = subprocess.run(command, env=dict(os.environ, BATON_HOME=home), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, preexec_fn=room_for_one)
    assert r.returncode == 3 and "any-0.1 ended while starting by signal %d" % signal.SIGXFSZ in r.stderr, r
    print("passed: a start that fails names the rank that is to blame")

# What a pool of few blocks has no room for is kept in host memory, each rank's part by itself, and comes back from there.
STORY = "Once upon a time there was a %s who lived in a %s with a big %s. One day it went out to find %s, but it only found %s. "
WORDS = "dog cat bird frog girl boy bear tree house box".split()
TURNED = [WORDS[i:] + WORDS[:i] for i in range(len(WORDS))]
LONG = ["".join(STORY % tuple(words[k : k + 5]) for k in (0, 3, 5)) for words in TURNED]
with Cluster(STORIES, manifest(pools(ANY, kv=SMALL))) as c:
    want_long = [c.generate(p, 20)[0] for p in LONG]
for parallel in ({"tensor": 2}, {"pipeline": 2, "stageLayers": [2, 3]}, {"tensor": 2, "pipeline": 2, "stageLayers": [4, 1]}):
    with Cluster(STORIES, manifest(pools(ANY, parallel=parallel, kv={"memory": "256Ki", "hostMemory": "8Mi"}))) as c:
        def host_metrics():
            text = urllib.request.urlopen("http://%s/metrics" % c.workers()[0]["metrics_address"]).read().decode()
            return {name: c.metric("baton_kv_host_%s" % name, text) for name in ("blocks", "hit_tokens_total", "fetches_failed_total")}

        for turn in range(2):
            for again in range(2):
                assert [c.generate(p, 20)[0] for p in LONG] == want_long, (parallel, turn, again)
                c.wait_idle(3)
            said = host_metrics()
            assert said["hit_tokens_total"] > 0 and said["fetches_failed_total"] == 0 and said["blocks"] > 50, (parallel, turn, said)
            if turn == 0:  # what the lost life kept is gone with it
                before = {n: c.process(n)["pid"] for n in ("any-0", "any-0.1")}
                c.kill("any-0.1")
                c.wait_until(lambda: all(c.process(n)["pid"] not in (0, before[n]) and c.process(n)["state"] == "ready" for n in before), 20, "a new life")
    print("passed: host memory in a group of %s: %s" % (parallel, said), flush=True)

with Cluster(STORIES, group(2, 1, replicas=2)) as c:  # each may prefill for the other
    for _ in range(4):
        ids, r = c.generate(PROMPTS[0], 40)
        assert ids == want[0] and r.headers["x-baton-path"] in ("local", "remote-prefill"), r.headers
    print("passed: two groups side by side")
