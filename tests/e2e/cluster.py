"""A Baton cluster in a home of its own, for the end-to-end tests. Standard library only.

Environment: BATON_BINARY (the binary), BATON_SHARED (models and goldens; default ../shared beside the checkout),
BATON_SMOLLM2 (the default model's file).
"""
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import guardian

SOURCE = os.environ.get("BATON_SOURCE_DIR", os.path.abspath(os.path.join(os.path.dirname(__file__), "../..")))
BINARY = os.environ.get("BATON_BINARY", os.path.join(SOURCE, "build/release/cli/baton"))
SHARED = os.environ.get("BATON_SHARED", os.path.join(SOURCE, "../shared"))
SMOLLM2 = os.environ.get("BATON_SMOLLM2", os.path.expanduser("~/.cache/baton/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
STORIES = os.path.join(SHARED, "models/stories260K-f32.gguf")
LONGEST_TURN = 5  # seconds that a look at a cluster may take; in more this process did not run
SKIPPED = 77  # ctest's SKIP_RETURN_CODE


def skip(reason):
    print("SKIPPED: " + reason)
    sys.exit(SKIPPED)


def need(path):
    if not os.path.exists(path):
        skip("%s is not there" % path)
    return path


def manifest(pools, **spec):
    """A manifest text; pools: {"prefill": {...}}. JSON is YAML."""
    spec = dict(spec, pools=pools)
    return json.dumps({"apiVersion": "baton/v1", "kind": "Cluster", "spec": spec})


PREFILL_DECODE = {"prefill": {"role": "prefill"}, "decode": {"role": "decode"}}
ANY = {"any": {"role": "any"}}


def pools(base, **settings):
    return {name: dict(pool, **settings) for name, pool in base.items()}


# Answers wait for a worker for as long as a starved machine may take to bring one back.
PATIENT = {"limits": {"queueWait": "60s"}}


class Reply:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = {k.lower(): v for k, v in headers}
        self.body = body

    def json(self):
        return json.loads(self.body)


class Cluster:
    """with Cluster(model, manifest_text) as c: c.post("/v1/completions", {...})"""

    def __init__(self, model, manifest_text=None, home=None, ready=True, binary=BINARY):
        self.binary = binary
        self.model = model
        self.manifest_text = manifest_text
        self.home = home or guardian.folder("baton-e2e-")
        self.own_home = home is None
        self.want_ready = ready
        self.address = None

    def command(self, *arguments, timeout=120):
        return subprocess.run([self.binary, *arguments], env=dict(os.environ, BATON_HOME=self.home), capture_output=True, text=True, timeout=timeout,
                              stdin=subprocess.DEVNULL)

    def serve_arguments(self):
        arguments = ["serve", self.model, "--port", "0", "--detach"]
        if self.manifest_text:
            path = os.path.join(self.home, "manifest.yaml")
            with open(path, "w") as f:
                f.write(self.manifest_text)
            arguments += ["-f", path]
        return arguments

    def __enter__(self):
        result = self.command(*self.serve_arguments())
        if result.returncode != 0:
            self.print_logs()
            self.remove()
            raise RuntimeError("serve: exit %d: %s" % (result.returncode, result.stderr))
        with open(os.path.join(self.home, "state/cluster.json")) as f:
            self.address = json.load(f)["http_address"]
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None and kind is not SystemExit:
            self.print_logs()
        self.command("down")
        self.remove()

    def print_logs(self):
        logs = os.path.join(self.home, "state/logs")
        for name in sorted(os.listdir(logs)) if os.path.isdir(logs) else []:
            with open(os.path.join(logs, name), errors="replace") as f:
                lines = f.read().splitlines()[-15:]
            for line in lines:
                print("%s: %s" % (name, line), file=sys.stderr)

    def remove(self):
        if self.own_home:
            shutil.rmtree(self.home, ignore_errors=True)

    # ---- HTTP

    def connection(self, timeout=120):
        return http.client.HTTPConnection(self.address, timeout=timeout)

    def request(self, method, path, body=None, headers=None, timeout=120):
        c = self.connection(timeout)
        try:
            data = json.dumps(body) if isinstance(body, (dict, list)) else body
            c.request(method, path, data, dict({"Content-Type": "application/json"} if data is not None else {}, **(headers or {})))
            r = c.getresponse()
            return Reply(r.status, r.getheaders(), r.read())
        finally:
            c.close()

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, body, headers=None):
        return self.request("POST", path, body, headers)

    def stream(self, path, body, done=lambda event: False):
        """Yields (reply headers, event object) for each event but [DONE]; raises on a stream that breaks off without it, or an event that is `done`."""
        c = self.connection()
        try:
            c.request("POST", path, json.dumps(dict(body, stream=True)), {"Content-Type": "application/json"})
            r = c.getresponse()
            headers = {k.lower(): v for k, v in r.getheaders()}
            if r.status != 200:
                raise RuntimeError("%d %s" % (r.status, r.read().decode()))
            ended = False
            for line in r:
                line = line.decode().rstrip("\r\n")
                if line == "data: [DONE]":
                    ended = True
                elif line.startswith("data: "):
                    event = json.loads(line[6:])
                    ended = ended or done(event)
                    yield headers, event
            if not ended:
                raise RuntimeError("the stream broke off")
        finally:
            c.close()

    def generate(self, prompt, max_tokens=16, **fields):
        """Greedy token ids of a completion, and the reply."""
        body = dict({"model": "default", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "return_token_ids": True}, **fields)
        r = self.post("/v1/completions", body)
        if r.status != 200:
            raise RuntimeError("%d %s" % (r.status, r.body.decode()))
        return r.json()["choices"][0]["token_ids"], r

    # ---- processes

    def ps(self):
        return json.loads(self.command("ps", "-o", "json").stdout)

    def processes(self):
        """{name: pid}, as `ps` says, but without a process of its own."""
        with open(os.path.join(self.home, "state/cluster.json")) as f:
            return {p["name"]: p["pid"] for p in json.load(f)["processes"]}

    def process(self, name):
        return next(p for p in self.ps() if p["name"] == name)

    def workers(self):
        return [p for p in self.ps() if "kv_blocks" in p]

    def kill(self, name, sig=signal.SIGKILL):
        pid = self.process(name)["pid"]
        assert pid > 0, "%s is between two lives" % name
        os.kill(pid, sig)
        return pid

    def wait_until(self, condition, seconds, what):
        """Looks twice at least; time in which this process itself was stopped does not count. `what` may be a function, asked at the end."""
        left, looks = seconds, 0
        while left > 0 or looks < 2:
            begun = time.monotonic()
            if condition():
                return
            time.sleep(0.02)
            left, looks = left - min(time.monotonic() - begun, LONGEST_TURN), looks + 1
        raise AssertionError("not within %s s: %s" % (seconds, what() if callable(what) else what))

    def wait_idle(self, seconds=2):
        """All blocks free or cached on all workers, none in flight or in quarantine, no open transfer."""
        def idle():
            workers = self.workers()
            return workers and all(
                w["state"] == "ready" and w["kv_blocks"]["active"] == 0 and w["transfers_open"] == 0
                and w["kv_blocks"].get("in_transfer", 0) == 0 and w["kv_blocks"].get("quarantine", 0) == 0
                and w["kv_blocks"]["free"] + w["kv_blocks"]["cached"] == w["kv_blocks"]["total"] for w in workers)
        self.wait_until(idle, seconds, lambda: "workers hold nothing: %s" % json.dumps(self.workers()))

    def metric(self, name, text=None):
        """Sum over all label sets of a metric of the coordinator."""
        total = 0.0
        for line in (text or self.get("/metrics").body.decode()).splitlines():
            if line.startswith(name + "{") or line.startswith(name + " "):
                total += float(line.rsplit(" ", 1)[1])
        return total


class RunningStream(threading.Thread):
    """A stream in the background; notes its tokens, when they came, how it ended and when. `errors`: what may be raised instead of an error event.
    `progress` is called at the start and with each event."""

    def __init__(self, cluster, prompt="Once upon a time", tokens=450, errors=RuntimeError, progress=lambda: None):
        super().__init__()
        self.cluster, self.prompt, self.most, self.errors, self.progress = cluster, prompt, tokens, errors, progress
        self.ids, self.tokens, self.times, self.error, self.ended = [], 0, [], None, None
        self.flowing = threading.Event()
        self.start()

    def run(self):
        body = {"model": "default", "prompt": self.prompt, "max_tokens": self.most, "ignore_eos": True, "temperature": 0, "return_token_ids": True}
        self.progress()
        try:
            for _, event in self.cluster.stream("/v1/completions", body):
                self.times.append(time.monotonic())
                self.progress()
                if "error" in event:
                    self.error = event["error"]
                    break
                for choice in event["choices"]:
                    self.ids += choice.get("token_ids") or []
                self.tokens = len(self.ids)
                if self.tokens >= 3:
                    self.flowing.set()
        except self.errors as e:
            self.error = str(e)
        self.ended = time.monotonic()
        self.flowing.set()

    def over(self, seconds):
        """Whether it ends; not if it gets nothing for so long. Time in which this process itself was stopped does not count."""
        waited, seen = 0.0, 0
        while self.is_alive() and waited < seconds:
            self.join(0.1)
            waited, seen = (waited + 0.1 if len(self.times) == seen else 0.0), len(self.times)
        return not self.is_alive()
