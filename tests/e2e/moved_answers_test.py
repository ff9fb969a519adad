"""kill -9 of the workers that make answers, at random moments, with all that changes how tokens are drawn: every answer goes on elsewhere and is, text,
token ids and log probabilities, what it is undisturbed. Nobody asks again."""
import concurrent.futures
import json
import os
import random
import signal
import threading

from cluster import ANY, PATIENT, PREFILL_DECODE, STORIES, Cluster, manifest, need, pools

need(STORIES)
SEED = int(os.environ.get("BATON_SEED", random.randrange(1 << 30)))
ROUNDS = int(os.environ.get("BATON_TEST_ROUNDS", "4"))
print("seed %d (BATON_SEED replays)" % SEED, flush=True)
SMALL = {"memory": "16Mi"}
TOKENS = 400
PROMPTS = ["Once upon a time", "Lily likes cats and dogs. " * 6, "Tom had a red ball"]
DRAWS = [{"temperature": 0}, {"temperature": 1, "seed": 7}, {"temperature": 0.8, "top_p": 0.9, "seed": 1}, {"temperature": 1.3, "top_k": 20, "seed": 2}, {"temperature": 1, "min_p": 0.1, "seed": 3}]
CHANGES = [{}, {"presence_penalty": 0.7, "frequency_penalty": 0.3}, {"repetition_penalty": 1.2}, {"logit_bias": {"10": -5, "20": 2}}, {"logprobs": 3}, {"stop": ["zzz", "happy and"]},
           {"ignore_eos": False, "min_tokens": 60}, {"echo": True}, {"echo": True, "logprobs": 2}, {"n": 2},
           {"ignore_eos": False, "guided_regex": "([A-Za-z]{1,9}[ ,.]){90,400}"}]


def requests(rng):
    """Every way to draw with every change, some at a time."""
    every = [dict({"model": "default", "prompt": rng.choice(PROMPTS), "max_tokens": TOKENS, "ignore_eos": True, "return_token_ids": True}, **draw, **change)
             for draw in DRAWS for change in CHANGES]
    rng.shuffle(every)
    return every


class Arrivals:
    """Wakes who waits for every answer to have begun, and for so many events of all of them or the end of one."""

    def __init__(self, answers, events):
        self.to_begin = answers
        self.left = events
        self.enough = threading.Event()
        self.lock = threading.Lock()

    def add(self, events, first, last):
        with self.lock:
            self.to_begin -= first
            self.left = 0 if last else self.left - events
            if self.to_begin == 0 and self.left <= 0:
                self.enough.set()


def answer(c, body, arrivals=None):
    """All that a client gets of each choice. Read as it comes and looked at afterwards: eight clients that parse each event would still be at the first
    words of an answer that is long made."""
    connection = c.connection()
    connection.connect()
    sent = json.dumps(dict(body, stream=True)).encode()
    connection.sock.sendall(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(sent) + sent)
    got = b""
    while piece := connection.sock.recv(1 << 20):
        if arrivals:
            arrivals.add(piece.count(b"data: "), not got, piece.endswith(b"data: [DONE]\n\n"))
        got += piece
    connection.close()
    head, _, events = got.partition(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0] and events.endswith(b"data: [DONE]\n\n"), got
    choices = {}
    for line in events.decode().split("\n\n")[:-2]:
        event = json.loads(line.removeprefix("data: "))
        assert "error" not in event, event
        for choice in event["choices"]:
            mine = choices.setdefault(choice["index"], {"text": "", "ids": [], "logprobs": [], "finish": None})
            mine["text"] += choice["text"]
            mine["ids"] += choice.get("token_ids") or []
            mine["logprobs"] += (choice.get("logprobs") or {}).get("token_logprobs") or []
            mine["finish"] = choice["finish_reason"] or mine["finish"]
    return choices


def check(name, text, victims, want):
    rng = random.Random("%d %s" % (SEED, name))
    moved = 0
    with Cluster(STORIES, text) as c, concurrent.futures.ThreadPoolExecutor(8) as pool:
        there = len(c.workers())
        for number in range(ROUNDS + 20):
            if number >= ROUNDS and moved > 0:
                break  # else another round: those killed may all have been idle
            bodies = list(want)
            rng.shuffle(bodies)
            if number % len(victims) == 0:  # each in turn, in an order that the router does not keep step with
                rng.shuffle(victims)
            victim = victims[number % len(victims)]
            process = c.process(victim)["pid"]
            arrivals = Arrivals(8, rng.randrange(1, 8 * 200))
            answers = [(body, pool.submit(answer, c, json.loads(body), arrivals)) for body in bodies[:8]]
            assert arrivals.enough.wait(60)
            os.kill(process, signal.SIGKILL)
            for body, got in answers:
                assert got.result() == want[body], (body, got.result(), want[body])
            moved = c.metric("baton_answers_moved_total")
            print("%s: %s killed, %d answers have moved" % (name, victim, moved), flush=True)
            c.wait_until(lambda: len(c.workers()) == there and all(w["state"] == "ready" for w in c.workers()), 20, "%s is back" % victim)
            c.wait_idle(5)
        assert moved > 0, "no answer was under way when its worker was killed"
        assert c.metric("baton_replay_mismatches_total") == 0
    print("passed: %s" % name, flush=True)


with Cluster(STORIES, manifest(pools(ANY, kv=SMALL))) as alone:
    WANT = {json.dumps(body): answer(alone, body) for body in requests(random.Random(SEED))}
check("two that do everything", manifest(pools(ANY, replicas=2, kv=SMALL), gateway=PATIENT), ["any-0", "any-1"], WANT)
check("one that does everything, and comes back", manifest(pools(ANY, kv=SMALL), gateway=PATIENT), ["any-0"], WANT)
check("prefill and decode", manifest(pools(PREFILL_DECODE, kv=SMALL), gateway=PATIENT), ["decode-0"], WANT)
check("prefill and two decode", manifest({"prefill": {"role": "prefill", "kv": SMALL}, "decode": {"role": "decode", "replicas": 2, "kv": SMALL}}, gateway=PATIENT), ["decode-0", "decode-1", "prefill-0"], WANT)
check("two groups", manifest({"a": {"role": "any", "kv": SMALL, "parallel": {"tensor": 2}}, "b": {"role": "any", "kv": SMALL, "parallel": {"pipeline": 2}}}, gateway=PATIENT), ["a-0", "a-0.1", "b-0", "b-0.1"], WANT)
