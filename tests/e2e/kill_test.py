"""kill -9 of either worker during a stream: it goes on, everybody else lives, the worker comes back as a new life."""
from cluster import PATIENT, PREFILL_DECODE, STORIES, Cluster, RunningStream, manifest, need

need(STORIES)


# While a death is not noticed: the dead worker was chosen, or the other one told of the broken link first, or the kernel had not killed it yet.
NOT_NOTICED = {"fallback:transfer-failed", "fallback:prefill-failed", "fallback:no-link", "remote-prefill"}

LOST = "baton_workers_lost_total"


def life(cluster, name):
    """The incarnation of a worker that takes requests, as the coordinator sees it; None while there is none."""
    return next((w["incarnation"] for w in cluster.get("/admin/v1/workers").json() if w["name"] == name and w["state"] == "ready"), None)


def due(dead, before, path_meanwhile):
    """The verdicts that are right for a request, by the life of the victim before it (as published, which is now and then) and the one that was killed."""
    if before == dead:
        return NOT_NOTICED | {path_meanwhile}
    if before is not None:
        return {"remote-prefill"}
    return {path_meanwhile, "remote-prefill"}


def check(victim, survivor, path_meanwhile):
    with Cluster(STORIES, manifest(PREFILL_DECODE, gateway=PATIENT)) as c:
        want, _ = c.generate("Lily likes cats and dogs", 12)
        want_long, _ = c.generate("Once upon a time", 450, ignore_eos=True)
        before = {p["name"]: p["pid"] for p in c.ps()}

        def ask(dead, lost):
            """Asks again when more than the victim was lost since the round began (`lost` then): the machine did not run for longer than a lease."""
            for attempt in range(5):
                seen = life(c, victim)
                ids, r = c.generate("Lily likes cats and dogs", 12)
                right = due(dead, seen, path_meanwhile)
                assert ids == want, (ids, want)
                if r.headers["x-baton-path"] in right:
                    return
                assert c.metric(LOST) > lost + 1 and attempt < 4, (r.headers, right)
                print("asked again: a lease ended", flush=True)
                c.wait_until(lambda: life(c, victim) is not None and life(c, survivor) is not None, 10, "both workers are back")

        for round_number in range(3):
            lost = c.metric(LOST)
            stream = RunningStream(c)
            assert stream.flowing.wait(20)
            dead = life(c, victim)
            c.kill(victim)
            ask(dead, lost)  # perhaps before anybody noticed
            assert stream.over(80), "the stream hangs after %s died" % victim
            assert not stream.error and stream.ids == want_long, (stream.error, len(stream.ids))
            c.wait_until(lambda: life(c, victim) != dead, 5, "the death of %s is noticed" % victim)
            ask(dead, lost)  # while it is away, or just back
            c.wait_until(lambda: life(c, victim) is not None, 10, "%s is back" % victim)
            ask(dead, lost)  # its new life is paired at once, and whoever comes sooner waits for that
            now = {p["name"]: p["pid"] for p in c.ps()}
            assert now[victim] != before[victim] and now[survivor] == before[survivor] and now["coordinator"] == before["coordinator"]
            before = now
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
