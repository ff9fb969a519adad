"""kill -9 and SIGSTOP of each rank of a prefill and a decode group, before the grant, in the transfer, at the last layer and while decoding: the other
group lives, the stream ends exact or with an error, the next request is exact, all blocks come back. The phase is hit for certain: the receiving ranks
wait in it (cli/pause_point.h) until the signal is sent.
    hand_over_faults_test.py [--runs N] [--model FILE] [--tokens N] [--victims NAME,...] [--faults kill,stop,freeze] [--phases NAME,...] [--seed N]
Without --runs one run of each fault and phase with one rank of each group; with it N runs with each rank, and a table in Markdown. `freeze` stops
all processes for FROZEN seconds, one of the groups first, as a machine that is paused: the stream is whole and nobody dies.

The longest pause of each run is the longest that a client had nothing, be it the stream or the next request. tests/e2e/witness.py says what it was made
of: without the time that its processes waited for a core or were stopped by somebody else it must be within the design's timers. A run that somebody
disturbed by stopping processes (not the victim's), or by killing the supervisor, is repeated."""
import argparse
import os
import random
import signal
import statistics
import time

import guardian
from cluster import ANY, PREFILL_DECODE, STORIES, Cluster, RunningStream, manifest, need, pools
from witness import Witness

parser = argparse.ArgumentParser()
parser.add_argument("--runs", type=int, default=0)
parser.add_argument("--model", default=STORIES)
parser.add_argument("--tokens", type=int, default=0)
parser.add_argument("--victims", default="")
parser.add_argument("--faults", default="kill,stop,freeze")
parser.add_argument("--phases", default="grant,transfer,last_layer,decode")
parser.add_argument("--seed", type=int, default=int(os.environ.get("BATON_SEED", random.randrange(1 << 30))))
options = parser.parse_args()
need(options.model)
print("seed %d (BATON_SEED replays), %s" % (options.seed, os.path.basename(options.model)), flush=True)
rng = random.Random(options.seed)

STORY = options.model == STORIES
PREFILL, DECODE = ("prefill-0", "prefill-0.1") + (() if STORY else ("prefill-0.2",)), ("decode-0", "decode-0.1")  # tensor 2 or 3; pipeline 2
TOKENS = options.tokens or (150 if STORY else 64)
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "freeze": signal.SIGSTOP}
PAUSE = 0.5  # seconds; below every deadline of a hand-over
FROZEN = 4.0  # seconds; longer than a dead worker's and a lost rank's silence and than a lease
TIMERS = 12.0  # seconds; base/timers.h: the longest that a piece may take (10), and a stopped rank's silence and beat before it
DISTURBED = 1.0  # seconds
WORDS = "Lily Tom cat dog ball tree bird park red big sun rain box cake fish hat".split()

pause_file = os.path.join(guardian.folder("baton-pause-"), "pause")
os.environ["BATON_TEST_PAUSE"] = pause_file


def pause_at(phase):
    with open(pause_file + ".new", "w") as f:
        f.write("%s %d" % (phase, 1000 * PAUSE) if phase else "")
    os.replace(pause_file + ".new", pause_file)


def take_hit():
    """When a rank came to the pause point, as time.time(); waits for it, but not longer than a request may take to get there."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        if os.path.exists(pause_file + ".hit"):
            at = os.stat(pause_file + ".hit").st_mtime
            os.remove(pause_file + ".hit")
            return at
        time.sleep(0.002)
    raise AssertionError("no rank came to the pause point")


def fresh_prompt():
    """Nobody holds its blocks: all of it is handed over."""
    return " ".join(rng.choice(WORDS) for _ in range(40 if STORY else 120)) + "."


class Row:
    def __init__(self):
        self.runs = self.hit = self.whole = self.error = self.disturbed = 0
        self.ended, self.served, self.pauses = [], [], []

    def add(self, hit, error, ended, served, pause):
        self.runs += 1
        self.hit += hit
        self.whole += error is None
        self.error += error is not None
        self.ended.append(ended)
        self.served.append(served)
        self.pauses.append(pause)

    def longest(self):
        return max(self.pauses, key=lambda p: p.seconds)


class Disturbed(Exception):
    """Somebody stopped processes of the test, or killed its supervisor."""


def signal_in_phase(stream, phase, pid, sig):
    """Sends the signal; when it was, and whether the phase was still on."""
    if phase == "decode":
        assert stream.flowing.wait(30) and stream.tokens > 0, stream.error
        time.sleep(rng.uniform(0, 0.003 if STORY else 0.1))
        os.kill(pid, sig)
        return time.monotonic(), stream.ended is None
    hit = take_hit()
    time.sleep(rng.uniform(0, PAUSE / 2))
    os.kill(pid, sig)
    return time.monotonic(), time.time() - hit < PAUSE


def serve_next(cluster, prompt, want, witness):
    """Asks until it is answered; every answer is exact. Begin and end of the longest attempt."""
    attempts, begun = [], time.monotonic()
    while True:
        at = time.monotonic()
        assert at - begun < 60, "the next request is not served"
        witness.progress("the next request")
        try:
            ids, _ = cluster.generate(prompt, 20, ignore_eos=True)
            assert ids == want, ("other tokens", ids, want)
            return max(attempts + [(at, time.monotonic())], key=lambda a: a[1] - a[0])
        except (RuntimeError, OSError):
            attempts.append((at, time.monotonic()))
            time.sleep(0.02)
        finally:
            witness.done("the next request")


def new_lives(cluster, mine, before):
    now = {p["name"]: p for p in cluster.ps()}
    return all(n in now and now[n]["pid"] not in (0, before[n]) and now[n]["state"] == "ready" for n in mine)


def freeze(pids):
    """All of them, one after the other as it comes, and on again."""
    for number, pause in ((signal.SIGSTOP, FROZEN), (signal.SIGCONT, 0)):
        rng.shuffle(pids)
        for pid in pids:
            os.kill(pid, number)
        time.sleep(pause)


def check_stream(stream, want):
    assert stream.over(30), "the stream hangs"
    assert stream.ids == want[:len(stream.ids)], ("other tokens", stream.ids, want)
    assert stream.error or stream.ids == want, "it ended after %d tokens without an error" % len(stream.ids)


def check_lives(cluster, mine, before):
    cluster.wait_until(lambda: new_lives(cluster, mine, before), 60, "the group is back")
    now = cluster.processes()
    assert all(now[n] == before[n] for n in before if n not in mine), ("somebody else died too", before, now)
    cluster.wait_idle(10)


def longest_pause(stream, begun, attempt, witness, known):
    """The longest of the stream's, from one event to the next, and the next request's. Of `known` it is known that they were stopped."""
    events = [begun] + stream.times + [stream.ended]
    begin, end = max(list(zip(events, events[1:])) + [attempt], key=lambda p: p[1] - p[0])
    return witness.made_of(begin, end, known)


def one(cluster, alone, what, witness):
    """What Row.add() takes."""
    victim, phase, fault = what
    prompt, after = fresh_prompt(), fresh_prompt()
    want = alone.generate(prompt, TOKENS, ignore_eos=True)[0]
    want_after = alone.generate(after, 20, ignore_eos=True)[0]
    before = cluster.processes()
    pause_at("" if phase == "decode" else phase)
    begun = time.monotonic()
    stream = RunningStream(cluster, prompt, TOKENS, errors=(RuntimeError, OSError), progress=lambda: witness.progress("the stream"))
    at, hit = signal_in_phase(stream, phase, before[victim], SIGNALS[fault])
    pause_at("")
    if fault == "freeze":
        freeze(list(before.values()))
    attempt = serve_next(cluster, after, want_after, witness)
    served = time.monotonic() - at
    check_stream(stream, want)
    witness.done("the stream")
    assert fault != "freeze" or not stream.error, stream.error
    mine = () if fault == "freeze" else PREFILL if victim in PREFILL else DECODE
    check_lives(cluster, mine, before)
    if os.path.exists(pause_file + ".hit"):
        os.remove(pause_file + ".hit")
    pause = longest_pause(stream, begun, attempt, witness, before if fault == "freeze" else (victim,))
    check_pause(pause, FROZEN if fault == "freeze" else 0)
    return hit, stream.error, max(0, stream.ended - at), served, pause


def check_pause(pause, known):
    if pause.seconds > 5:
        print("long: %s" % str(pause), flush=True)
    assert pause.seconds - pause.waited - pause.stopped - known < TIMERS, pause


HEAD = ("| fault | victim | phase | runs | in the phase | streams whole / error | ended s, p50 / max | next answer s, p50 / max "
        "| longest pause s: all, of it no core | wrong tokens |\n|---|---|---|---|---|---|---|---|---|---|")


def table_row(fault, victim, phase, r):
    return "| %s | %s | %s | %d | %d | %d / %d | %.2f / %.2f | %.2f / %.2f | %.2f, %.2f | 0 |" % (
        fault, victim, phase, r.runs, r.hit, r.whole, r.error, statistics.median(r.ended), max(r.ended), statistics.median(r.served), max(r.served),
        r.longest().seconds, r.longest().waited)


parts = pools(PREFILL_DECODE)
parts["prefill"]["parallel"] = {"tensor": len(PREFILL)}
parts["decode"]["parallel"] = {"pipeline": 2}
victims = options.victims.split(",") if options.victims else PREFILL + DECODE
rows = {}


def try_one(cluster, alone, what, row):
    begun, failure, known = time.monotonic(), None, cluster.processes() if what[2] == "freeze" else (what[0],)
    with Witness(cluster.processes) as witness:
        try:
            result = one(cluster, alone, what, witness)
        except AssertionError as e:
            failure = e
        made = witness.made_of(begun, time.monotonic(), known)
    killed = failure and not os.path.exists("/proc/%d" % cluster.processes()["supervisor"])
    if killed or max(made.stopped, made.late) > DISTURBED:
        raise Disturbed("%s; %s" % (failure, made)) from failure
    if failure:
        raise AssertionError("%s, run %d: %s; %s" % (what, row.runs + 1, failure, made)) from failure
    row.add(*result)


def victims_of(fault, phase):
    both = rng.choice(PREFILL), rng.choice(DECODE)
    if fault == "freeze":
        return both if options.runs else both[phase == "decode":][:phase in ("transfer", "decode")]
    return victims if options.runs else both


def many(alone, victim, phase, fault, runs):
    """A cluster of its own for every five: the supervisor lets who dies again and again wait."""
    row = rows[fault, victim, phase] = Row()
    while row.runs < runs:
        with Cluster(options.model, manifest(parts)) as c:
            try:
                for _ in range(min(5, runs - row.runs)):
                    try_one(c, alone, (victim, phase, fault), row)
            except Disturbed as e:
                print("repeated: %s" % e, flush=True)
                row.disturbed += 1
                assert row.disturbed < 5, "somebody stops processes again and again"
    print(table_row(fault, victim, phase, row), flush=True)


print(HEAD, flush=True)
with Cluster(options.model, manifest(pools(ANY))) as alone:
    for fault in options.faults.split(","):
        for phase in options.phases.split(","):
            for victim in victims_of(fault, phase):
                many(alone, victim, phase, fault, max(1, options.runs))
print("passed: %d of %d signals hit their phase" % (sum(r.hit for r in rows.values()), sum(r.runs for r in rows.values())))
assert any(r.hit for r in rows.values())
