"""kill -9 and SIGSTOP of each rank of a group while it idles, computes a prompt and decodes: streams go on exactly, nobody hangs, the coordinator lives, the
group is back as a new life with all blocks, and the next answer is exact. A stopped rank is never continued: its group does without.
    rank_faults_test.py [RUNS=1] [SEED]     runs of each (shape, rank, phase, fault); prints how long streams paused and when the group was back"""
import os
import random
import signal
import statistics
import sys
import time

from cluster import ANY, PATIENT, STORIES, Cluster, RunningStream, manifest, need, pools
from witness import Witness

MODEL = os.environ.get("BATON_SMOLLM2") or STORIES
need(MODEL)
RUNS = int(sys.argv[1]) if len(sys.argv) > 1 else 1
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else int(os.environ.get("BATON_SEED", random.randrange(1 << 30)))
print("seed %d (BATON_SEED replays), %d runs of each, %s" % (SEED, RUNS, os.path.basename(MODEL)), flush=True)
random.seed(SEED)

SHORT = "Once upon a time"
LONG = "Lily likes cats and dogs. " * (150 if MODEL != STORIES else 4)
PREFILL_SECONDS = 0.5 if MODEL != STORIES else 0.01
FAULTS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def begin(cluster, phase, witness):
    """A stream in the wanted phase; none when idle."""
    if phase == "idle":
        return None
    stream = RunningStream(cluster, LONG if phase == "prefill" else SHORT, errors=(RuntimeError, OSError), progress=lambda: witness.progress("the stream"))
    if phase == "decode":
        assert stream.flowing.wait(30)
    time.sleep(random.uniform(0, PREFILL_SECONDS))
    return stream


def one(cluster, names, victim, phase, fault, want, witness):
    before = {n: cluster.process(n)["pid"] for n in names}
    gateway = cluster.process("coordinator")["pid"]
    stream = begin(cluster, phase, witness)
    at = time.monotonic()
    os.kill(before[victim], FAULTS[fault])

    def new_life():
        now = {n: cluster.process(n) for n in names}
        return all(now[n]["pid"] not in (0, before[n]) and now[n]["state"] == "ready" for n in names)

    cluster.wait_until(new_life, 60, "the group is back after %s of %s in %s" % (fault, victim, phase))
    back = time.monotonic() - at
    if stream is not None:
        assert stream.over(80), "the stream hangs after %s of %s in %s: %s" % (fault, victim, phase, witness.made_of(at, time.monotonic(), (victim,)))
        witness.done("the stream")
        assert not stream.error and stream.ids == want[stream.prompt], (stream.error, stream.ids, want[stream.prompt])
    assert cluster.process("coordinator")["pid"] == gateway
    assert cluster.generate(SHORT, 20)[0] == want[SHORT][:20]
    cluster.wait_idle(10)
    return stream and not stream.error, longest_pause(stream, at), back


def longest_pause(stream, at):
    """Of what the client got from the fault on."""
    times = [at] + [t for t in stream.times if t > at] + [stream.ended] if stream else [at, at]
    return max(b - a for a, b in zip(times, times[1:]))


with Cluster(MODEL, manifest(pools(ANY))) as c:
    want = {p: c.generate(p, 450, ignore_eos=True)[0] for p in (SHORT, LONG)}

TENSOR = 2 if MODEL == STORIES else 3  # what divides its heads
for tensor, pipeline in ((1, 2), (TENSOR, 1)):
    shape = {"tensor": tensor, "pipeline": pipeline}
    names = ["any-0" if r == 0 else "any-0.%d" % r for r in range(tensor * pipeline)]
    with Cluster(MODEL, manifest(pools(ANY, parallel=shape), gateway=PATIENT)) as c, Witness(c.processes) as witness:
        assert c.generate(SHORT, 20)[0] == want[SHORT][:20]
        for fault in FAULTS:
            whole, pauses, back = [], [], []
            for victim in names if RUNS > 1 else (names[0], names[-1]):
                for phase in ("idle", "prefill", "decode"):
                    for _ in range(RUNS):
                        w, p, b = one(c, names, victim, phase, fault, want, witness)
                        back.append(b)
                        if w is not None:
                            whole.append(w)
                            pauses.append(p)
            print("passed: %s, tensor %d pipeline %d, %d runs: %d of %d streams whole, pauses of %.2f s at the median, %.2f s at most; back after %.2f and %.2f s"
                  % (fault, tensor, pipeline, len(back), sum(whole), len(whole), statistics.median(pauses), max(pauses), statistics.median(back), max(back)),
                  flush=True)
