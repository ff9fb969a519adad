"""kill -9 and SIGSTOP of each rank of a prefill and a decode group, before the grant, in the transfer, at the last layer and while decoding: the other
group lives, the stream ends exact or with an error, the next request is exact, all blocks come back. The phase is hit for certain: the receiving ranks
wait in it (cli/pause_point.h) until the signal is sent.
    hand_over_faults_test.py [--runs N] [--model FILE] [--victims NAME,...] [--faults kill,stop] [--seed N]
Without --runs one run of each fault and phase with one rank of each group; with it N runs with each rank, and a table in Markdown."""
import argparse
import os
import random
import signal
import statistics
import tempfile
import time

from cluster import ANY, PREFILL_DECODE, STORIES, Cluster, RunningStream, manifest, need, pools

parser = argparse.ArgumentParser()
parser.add_argument("--runs", type=int, default=0)
parser.add_argument("--model", default=STORIES)
parser.add_argument("--victims", default="")
parser.add_argument("--faults", default="kill,stop")
parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
options = parser.parse_args()
need(options.model)
print("seed %d, %s" % (options.seed, os.path.basename(options.model)), flush=True)
rng = random.Random(options.seed)

STORY = options.model == STORIES
PREFILL, DECODE = ("prefill-0", "prefill-0.1") + (() if STORY else ("prefill-0.2",)), ("decode-0", "decode-0.1")  # tensor 2 or 3; pipeline 2
TOKENS = 150 if STORY else 64
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
PHASES = ("grant", "transfer", "last_layer", "decode")
PAUSE = 0.5  # seconds; below every deadline of a hand-over
WORDS = "Lily Tom cat dog ball tree bird park red big sun rain box cake fish hat".split()

pause_file = os.path.join(tempfile.mkdtemp(prefix="baton-pause-"), "pause")
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
        self.runs = self.hit = self.whole = self.error = 0
        self.ended, self.served, self.attempt = [], [], []


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


def serve_next(cluster, prompt, want, row):
    """Asks until it is answered; every answer is exact. Notes the longest that one attempt took."""
    longest, begun = 0, time.monotonic()
    while True:
        at = time.monotonic()
        assert at - begun < 60, "the next request is not served"
        try:
            ids, _ = cluster.generate(prompt, 20, ignore_eos=True)
            longest = max(longest, time.monotonic() - at)
            assert ids == want, ("other tokens", ids, want)
            row.attempt.append(longest)
            return
        except (RuntimeError, OSError):
            longest = max(longest, time.monotonic() - at)
            time.sleep(0.02)


def new_lives(cluster, mine, before):
    now = {p["name"]: p for p in cluster.ps()}
    return all(n in now and now[n]["pid"] not in (0, before[n]) and now[n]["state"] == "ready" for n in mine)


def one(cluster, alone, victim, phase, fault, row):
    prompt, after = fresh_prompt(), fresh_prompt()
    want = alone.generate(prompt, TOKENS, ignore_eos=True)[0]
    want_after = alone.generate(after, 20, ignore_eos=True)[0]
    before = {p["name"]: p["pid"] for p in cluster.ps()}
    pause_at("" if phase == "decode" else phase)
    stream = RunningStream(cluster, prompt, TOKENS, errors=(RuntimeError, OSError))
    at, hit = signal_in_phase(stream, phase, before[victim], SIGNALS[fault])
    pause_at("")
    serve_next(cluster, after, want_after, row)
    row.served.append(time.monotonic() - at)
    stream.join(200)
    assert not stream.is_alive(), "the stream hangs"
    assert stream.ids == want[:len(stream.ids)], ("other tokens", stream.ids, want)
    assert stream.error or stream.ids == want, "it ended after %d tokens without an error" % len(stream.ids)
    mine = PREFILL if victim in PREFILL else DECODE
    cluster.wait_until(lambda: new_lives(cluster, mine, before), 60, "the group is back")
    now = {p["name"]: p["pid"] for p in cluster.ps()}
    assert all(now[n] == before[n] for n in before if n not in mine), ("somebody else died too", before, now)
    cluster.wait_idle(10)
    if os.path.exists(pause_file + ".hit"):
        os.remove(pause_file + ".hit")
    row.runs += 1
    row.hit += hit
    row.whole += stream.error is None
    row.error += stream.error is not None
    row.ended.append(max(0, stream.ended - at))


HEAD = ("| fault | victim | phase | runs | in the phase | streams whole / error | ended s, p50 / max | next answer s, p50 / max | longest attempt s | wrong tokens |\n"
        "|---|---|---|---|---|---|---|---|---|---|")


def table_row(fault, victim, phase, r):
    return "| %s | %s | %s | %d | %d | %d / %d | %.2f / %.2f | %.2f / %.2f | %.2f | 0 |" % (
        fault, victim, phase, r.runs, r.hit, r.whole, r.error, statistics.median(r.ended), max(r.ended), statistics.median(r.served), max(r.served), max(r.attempt))


parts = pools(PREFILL_DECODE)
parts["prefill"]["parallel"] = {"tensor": len(PREFILL)}
parts["decode"]["parallel"] = {"pipeline": 2}
victims = options.victims.split(",") if options.victims else PREFILL + DECODE
rows = {}


def many(alone, victim, phase, fault, runs):
    """A cluster of its own for every five: the supervisor lets who dies again and again wait."""
    row = rows[fault, victim, phase] = Row()
    while row.runs < runs:
        with Cluster(options.model, manifest(parts)) as c:
            for _ in range(min(5, runs - row.runs)):
                try:
                    one(c, alone, victim, phase, fault, row)
                except AssertionError as e:
                    raise AssertionError("%s of %s in %s, run %d: %s" % (fault, victim, phase, row.runs + 1, e)) from e
    print(table_row(fault, victim, phase, row), flush=True)


print(HEAD, flush=True)
with Cluster(options.model, manifest(pools(ANY))) as alone:
    for fault in options.faults.split(","):
        for phase in PHASES:
            for victim in victims if options.runs else (rng.choice(PREFILL), rng.choice(DECODE)):
                many(alone, victim, phase, fault, max(1, options.runs))
print("passed: %d of %d signals hit their phase" % (sum(r.hit for r in rows.values()), sum(r.runs for r in rows.values())))
assert any(r.hit for r in rows.values())
