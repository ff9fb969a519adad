"""What a new user does: serve, ask, look, stop; and what must be gone afterwards."""
import glob
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import guardian
from cluster import ANY, BINARY, PREFILL_DECODE, SHARED, SMOLLM2, SOURCE, STORIES, Cluster, manifest, need

need(STORIES)


def shared_memory(pids):
    """Device and inode of the memory files of Baton that the processes hold, open or mapped."""
    found = set()
    for pid in pids:
        try:
            for fd in os.listdir("/proc/%s/fd" % pid):
                if os.readlink("/proc/%s/fd/%s" % (pid, fd)).startswith("/memfd:baton"):
                    found.add(os.stat("/proc/%s/fd/%s" % (pid, fd)).st_ino)
            with open("/proc/%s/maps" % pid) as maps:
                found.update(int(inode) for inode in re.findall(r" (\d+) +/memfd:baton", maps.read()))
        except OSError:  # it ended, or is somebody else's
            pass
    return found


def held_by_anybody(memory):
    return memory & shared_memory(p for p in os.listdir("/proc") if p.isdigit())


def alive(pid):
    try:
        os.kill(pid, 0)
        return open("/proc/%d/stat" % pid).read().split(")")[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def check_serving(c):
    rows = c.ps()
    assert [r["name"] for r in rows] == ["supervisor", "coordinator", "prefill-0", "decode-0"], rows
    for r in rows:
        assert r["state"] == "ready" and r["pid"] > 0 and "address" in r and r["role"], r
    for w in rows[2:]:
        assert set(w["kv_blocks"]) >= {"total", "free", "cached", "active"} and w["transfers_open"] == 0, w
    for path in ("/health", "/live", "/ready", "/version", "/v1/models", "/metrics"):
        assert c.get(path).status == 200, path
    ids, r = c.generate("Once upon a time", 20)
    assert len(ids) == 20
    assert r.headers["x-baton-path"] == "remote-prefill", r.headers
    assert r.headers["x-baton-prefill-worker"] == "prefill-0" and r.headers["x-baton-decode-worker"] == "decode-0"
    assert r.headers["x-request-id"] and r.headers["x-baton-cached-tokens"] == "0"
    text, finish = "", None
    for headers, event in c.stream("/v1/completions", {"model": "default", "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0}):
        for choice in event["choices"]:
            text += choice["text"]
            finish = choice["finish_reason"] or finish
    assert text == r.json()["choices"][0]["text"] and finish == "length", (text, finish)


def check_memory(c):
    """A worker takes what its plan says: weights and KV, and 100 MB for everything else."""
    for w in c.ps()[2:]:
        plan = re.match(r"weights ([\d.]+) (\w+) \+ KV .* limit .*\(.*\)$", w["memory"])
        assert plan, w["memory"]
        weights = float(plan[1]) * {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[plan[2]]
        used = dict(re.findall(r"(\w+):\s+(\d+) kB", open("/proc/%d/status" % w["pid"]).read()))
        beside_kv = 1024 * (int(used["VmRSS"]) - int(used["RssShmem"]))
        assert beside_kv <= weights + 100e6, (w["memory"], beside_kv)


def check_choices(c):
    """Several choices differ from each other and come again under the same seed."""
    body = {"model": "default", "prompt": "One day", "max_tokens": 24, "n": 3, "temperature": 1.0, "seed": 5}
    first, again = (sorted((o["index"], o["text"]) for o in c.post("/v1/completions", body).json()["choices"]) for _ in range(2))
    assert first == again and len({text for _, text in first}) == 3, (first, again)
    other = sorted((o["index"], o["text"]) for o in c.post("/v1/completions", dict(body, seed=6)).json()["choices"])
    assert other != first


def check_metrics(c):
    """promtool finds nothing to say about what the coordinator and each worker serve."""
    addresses = [c.address] + [w["metrics_address"] for w in c.workers()]
    for address in addresses:
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read()
        connection.close()
        assert b"baton_kv_blocks{" in text and b"baton_build_info{" in text, (address, text[:300])
        if shutil.which("promtool"):
            r = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
            assert r.returncode == 0, (address, r.stdout, r.stderr)
        else:
            print("SKIPPED: promtool's look at the metrics: it is not there")
    coordinator = c.get("/metrics").body.decode()
    assert c.metric("baton_kv_transfer_bytes_total", coordinator) > 0 and c.metric("baton_ttft_seconds_count", coordinator) >= 2


def check_logs(c):
    times = [json.loads(line)["ts"] for line in c.command("logs").stdout.splitlines()]
    assert len(times) > 4 and times == sorted(times), times
    assert {json.loads(line)["worker"] for line in c.command("logs", "coordinator").stdout.splitlines()} == {"coordinator"}
    assert c.command("logs", "nobody").returncode == 1


def test_life():
    with Cluster(STORIES) as c:
        check_serving(c)
        check_choices(c)
        check_memory(c)
        check_metrics(c)
        pids = [r["pid"] for r in c.ps()]
        memory = shared_memory(pids)
        assert len(memory) >= 2, "each worker has a pool: %s" % memory
        second = c.command("serve", STORIES, "--port", "0", "--detach")
        assert second.returncode == 1 and "already runs" in second.stderr, second
        address = c.address
        assert c.command("down").returncode == 0
        for pid in pids:
            assert not alive(pid), pid
        assert not held_by_anybody(memory)
        assert not os.path.exists(c.home + "/state/cluster.json")
        host, port = address.rsplit(":", 1)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((host, int(port)))
        assert json.loads(c.command("ps", "-o", "json").stdout) == []


def test_foreground_stops_on_ctrl_c():
    c = Cluster(STORIES)
    p = subprocess.Popen([BINARY, "serve", STORIES, "--port", "0"], env=dict(os.environ, BATON_HOME=c.home), stdout=subprocess.PIPE, text=True)
    try:
        out = ""
        while "Stop it" not in out:
            line = p.stdout.readline()
            assert line, out
            out += line
        # A story model chats with nobody: the line to paste is one that it answers.
        line = out[out.index("curl -N http://127.0.0.1:"):out.index("}'") + 2]
        assert "/v1/completions" in line and "baton chat" not in out, out
        assert "data: [DONE]" in subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60).stdout, line
        r = subprocess.run([BINARY, "chat"], env=dict(os.environ, BATON_HOME=c.home), input="hi\n", capture_output=True, text=True, timeout=60)
        assert r.returncode == 1 and r.stderr == "baton: this model has no chat template; use /v1/completions\n", r
        p.send_signal(signal.SIGINT)
        assert p.wait(20) == 0
    finally:
        p.kill()
        p.wait()
        c.remove()


def test_supervisor_killed_leaves_nothing():
    with Cluster(STORIES) as c:
        pids = [r["pid"] for r in c.ps()]
        memory = shared_memory(pids)
        check_logs(c)
        old = c.command("logs").stdout.splitlines()
        os.kill(pids[0], signal.SIGKILL)
        c.wait_until(lambda: not any(alive(p) for p in pids), 20, "children end with their supervisor")
        assert [r["state"] for r in c.ps()] == ["down"] * 4, c.ps()
        assert memory and not held_by_anybody(memory)
        again = c.command(*c.serve_arguments())
        assert again.returncode == 0, again.stderr
        check_logs(c)
        assert not set(old) & set(c.command("logs").stdout.splitlines()), "logs of the cluster before"


def test_state_folder_removed():
    """ps and down find the cluster again, a process that dies comes back, and logs go on."""
    with Cluster(STORIES) as c:
        shutil.rmtree(c.home + "/state")
        c.wait_until(lambda: len(c.ps()) == 4 and all(r["state"] == "ready" for r in c.ps()), 20, "the files are written anew")
        decode = c.ps()[3]
        os.kill(decode["pid"], signal.SIGKILL)
        c.wait_until(lambda: c.ps()[3]["pid"] != decode["pid"] and all(r["state"] == "ready" for r in c.ps()), 20, "decode-0 comes back")
        assert len(c.generate("One day", 10)[0]) == 10
        log = c.command("logs", "supervisor").stdout
        assert "process started anew" in log and "out of memory" in log, log
        assert c.command("serve", STORIES, "--port", "0", "--detach").returncode == 1, "the folder is taken"
        pids = [r["pid"] for r in c.ps()]
        assert c.command("down").returncode == 0
        assert not any(alive(p) for p in pids)


def test_record_of_a_killed_supervisor():
    """down signals nobody whose pid was somebody else's before."""
    with Cluster(STORIES) as c:
        pids = [r["pid"] for r in c.ps()]
        os.kill(pids[0], signal.SIGKILL)
        c.wait_until(lambda: not any(alive(p) for p in pids), 20, "children end with their supervisor")
        bystander = subprocess.Popen(["sleep", "60"])
        record = c.home + "/state/cluster.json"
        with open(record) as f:
            text = f.read()
        with open(record, "w") as f:
            f.write(text.replace(str(pids[0]), str(bystander.pid)))
        assert c.command("down").returncode == 0
        assert bystander.poll() is None
        bystander.kill()
        bystander.wait()
        assert not os.path.exists(record)


def test_started_with_nothing_open():
    c = Cluster(STORIES)
    try:
        p = subprocess.run(["/bin/sh", "-c", 'exec "$0" serve "$1" --port 0 --detach <&- >&- 2>&-', BINARY, STORIES], env=dict(os.environ, BATON_HOME=c.home), timeout=120)
        assert p.returncode == 0
        assert c.command("serve", STORIES, "--port", "0", "--detach").returncode == 1, "the lock is held"
        assert all(r["state"] == "ready" for r in c.ps())
    finally:
        down = c.command("down")
        c.remove()
    assert down.returncode == 0


def test_refusals():
    c = Cluster(STORIES)
    for model, code, words in (("/no/such.gguf", 1, "no such model"), (os.path.join(SHARED, "models/README.md"), 3, "README.md"),
                               (os.path.join(SHARED, "models/stories260K-mixtral8x"), 3, "stories260K-mixtral8x")):
        r = c.command("serve", model, "--port", "0", "--detach")
        assert r.returncode == code and words in r.stderr and len(r.stderr.strip().splitlines()) == 1, (model, r)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        r = c.command("serve", STORIES, "--port", str(port), "--detach")
        assert r.returncode == 3 and str(port) in r.stderr, r
    truncated = os.path.join(c.home, "cut.gguf")
    with open(STORIES, "rb") as f, open(truncated, "wb") as out:
        out.write(f.read()[:500000])
    r = c.command("serve", truncated, "--port", "0", "--detach")
    assert r.returncode == 3 and "cut.gguf" in r.stderr, r
    bad = os.path.join(c.home, "bad.yaml")
    with open(bad, "w") as f:
        f.write("apiVersion: baton/v1\nkind: Cluster\nspec:\n  pools: {prefil: {rol: any}}\n")
    r = c.command("validate", bad)
    assert r.returncode == 2 and "bad.yaml:4:" in r.stderr and "did you mean role?" in r.stderr, r
    assert c.command("serve", "-f", bad).returncode == 2
    missing = os.path.join(c.home, "nope.yaml")
    for command in (("validate", missing), ("serve", "-f", missing)):
        r = c.command(*command)
        assert r.returncode == 2 and "nope.yaml: no such manifest" in r.stderr, r
    with open(bad, "w") as f:
        f.write("apiVersion: baton/v1\nkind: Cluster\nspec: {model: {source: /no/such.gguf}}\n")
    r = c.command("validate", bad)
    assert r.returncode == 0 and "the model is not here" in r.stdout, r
    with open(bad, "w") as f:
        f.write("apiVersion: baton/v1\nkind: Cluster\nspec:\n  model: {source: %s}\n  pools:\n    any:\n      parallel:\n"
                "        pipeline: 2\n        stageLayers: [3, 3]\n" % STORIES)
    r = c.command("validate", bad)
    wish = "bad.yaml:9:9: spec.pools.any.parallel.stageLayers: want 2 numbers from 1 on, together the model's 5 layers; got 3 + 3 = 6"
    assert r.returncode == 2 and wish in r.stderr, r
    with open(bad, "w") as f:
        f.write("apiVersion: baton/v1\nkind: Cluster\nspec: {model: {source: %s, contextTokens: 100000}}\n" % STORIES)
    r = c.command("validate", bad)
    assert r.returncode == 0 and "spec.model.contextTokens is 100000, and the model was trained for" in r.stdout, r
    r = c.command("serve", bad)
    assert r.returncode == 2 and "baton serve -f" in r.stderr, r
    assert c.command("--version").returncode == 0
    r = c.command("ps", "--url", "http://127.0.0.1:1/v1")
    assert r.returncode == 1 and "127.0.0.1:1" in r.stderr, r
    for command in ("ps", "chat"):
        r = c.command(command, "--url", "gopher://127.0.0.1:1")
        assert r.returncode == 2 and "want http://HOST:PORT or https://HOST[:PORT]" in r.stderr, r
    r = c.command("ps", "--url", "https://127.0.0.1:1")
    assert r.returncode == 1 and "127.0.0.1:1" in r.stderr, r
    r = c.command("nonsense")
    assert r.returncode == 2 and "no command nonsense" in r.stderr, r
    assert c.command("serve", "--port", "99999").returncode == 2
    assert c.command("down").returncode == 0
    assert not [n for n in os.listdir(c.home + "/state") if n not in ("lock", "logs", "logs.previous", "manifest.yaml")], os.listdir(c.home + "/state")
    c.remove()


def test_documents_validate():
    """The manifests that come with the sources, and the one that the manual shows, on a machine that has no model."""
    c = Cluster(STORIES)
    with open(os.path.join(SOURCE, "docs/manifest.md")) as f:
        shown = os.path.join(c.home, "shown.yaml")
        with open(shown, "w") as out:
            out.write(f.read().split("```yaml")[1].split("```")[0])
    files = glob.glob(os.path.join(SOURCE, "deploy/manifests/*.yaml")) + glob.glob(os.path.join(SOURCE, "benchmarks/load/forms/*.yaml"))
    assert len(files) > 5, files
    for path in files + [shown]:
        r = c.command("validate", path)
        assert r.returncode == 0 and "good" in r.stdout and "the model is not here" in r.stdout, r
    c.remove()


def test_a_new_build_under_a_running_cluster():
    """Who dies after it comes back as what runs, not as what lies there now."""
    folder = guardian.folder("baton-build-")
    binary = os.path.join(folder, "baton")
    shutil.copy(BINARY, binary)
    with Cluster(STORIES, manifest(ANY), binary=binary) as c:
        want, _ = c.generate("One day", 10)
        before = c.process("any-0")["pid"]
        os.remove(binary)
        shutil.copy(BINARY, binary)
        os.kill(before, signal.SIGKILL)
        c.wait_until(lambda: c.process("any-0")["pid"] not in (0, before) and c.process("any-0")["state"] == "ready", 20, "the worker is back")
        assert c.generate("One day", 10)[0] == want
    shutil.rmtree(folder)


def test_ready_waits_for_every_pool():
    """Processes started by hand, in any order: who looks at /ready never gets a fall-back for a pool that is just starting."""
    c = Cluster(STORIES)
    path = os.path.join(c.home, "cluster.yaml")
    with open(path, "w") as f:
        f.write(manifest(PREFILL_DECODE, model={"source": STORIES}, gateway={"listen": "127.0.0.1:0"}))
    processes = []

    def start(*arguments):
        with open(os.path.join(c.home, "%d.err" % len(processes)), "w") as err:
            processes.append(subprocess.Popen([BINARY, *arguments], env=dict(os.environ, BATON_HOME=c.home), stderr=err, stdin=subprocess.DEVNULL))

    def said(key):
        """The value of `key` in the coordinator's log; None when there is none yet."""
        with open(os.path.join(c.home, "0.err")) as f:
            values = [json.loads(line).get(key) for line in f if line.startswith("{")]
        return next((v for v in values if v), None)

    try:
        start("coordinator", "--manifest", path)
        c.wait_until(lambda: said("http"), 20, "the coordinator serves")
        c.address, join = said("http"), said("membership")
        assert c.get("/ready").status == 503 and c.get("/health").status == 503 and c.get("/live").status == 200
        for pool in ("decode", "prefill"):
            start("worker", "--manifest", path, "--join", join, "--pool", pool)
            c.wait_until(lambda: c.get("/health").status == 200, 20, "somebody can generate")
            if pool == "decode":
                r = c.get("/ready")
                assert r.status == 503 and "pool prefill" in r.json()["reason"], r.body
                assert c.generate("One day", 4)[1].headers["x-baton-path"].startswith("fallback:")
        c.wait_until(lambda: c.get("/ready").status == 200, 20, "ready")
        assert c.generate("One day", 4)[1].headers["x-baton-path"] == "remote-prefill"
    finally:
        for p in reversed(processes):
            p.terminate()
        for p in processes:
            assert p.wait(40) == 0, p.args
        c.remove()


def test_a_full_disk_says_so():
    """In a mount namespace of its own, where that is allowed."""
    folder = guardian.folder("baton-full-")
    script = 'mount -t tmpfs -o size=64k full "$0" || exit 99; mkdir "$0/home"; head -c 1000000 /dev/zero > "$0/fill" 2>/dev/null; ' \
             'BATON_HOME="$0/home" "$1" serve "$2" --port 0 --detach'
    r = subprocess.run(["unshare", "-rm", "bash", "-c", script, folder, BINARY, STORIES], capture_output=True, text=True, timeout=60)
    os.rmdir(folder)
    if r.returncode in (1, 99) and ("unshare" in r.stderr or "mount" in r.stderr):
        print("SKIPPED: a full disk: no mount namespace here: %s" % r.stderr.strip())
        return
    assert r.returncode in (1, 3) and ("No space left" in r.stderr or "no space is left on the disk of " in r.stderr), r


def test_a_worker_that_is_gone_is_not_ready():
    """What deploy/alerts asks: the gauges of a worker that was lost do not stay what they were."""
    with Cluster(STORIES, manifest(ANY)) as c:
        pid = c.process("any-0")["pid"]

        def gauge(name, state):
            line = re.search(r'^%s\{(?=.*worker="any-0")(?=.*state="%s").*\} (\S+)$' % (name, state), c.get("/metrics").body.decode(), re.M)
            return line and float(line.group(1))

        c.wait_until(lambda: gauge("baton_worker_state", "ready") == 1, 20, "it is ready")
        assert gauge("baton_kv_blocks", "free") > 0
        os.kill(pid, signal.SIGSTOP)
        try:
            c.wait_until(lambda: gauge("baton_worker_state", "ready") == 0 and gauge("baton_worker_state", "suspect") == 0, 20, "it is gone")
            assert gauge("baton_kv_blocks", "free") == 0
        finally:
            os.kill(pid, signal.SIGCONT)
        c.wait_until(lambda: gauge("baton_worker_state", "ready") == 1, 30, "it is back")


def own_address():
    """An address of this machine that is not loopback; none on a machine without a network. Nothing is sent."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.connect(("192.0.2.1", 9))
        return s.getsockname()[0]
    except OSError:
        return None
    finally:
        s.close()


def test_who_is_told_how_the_cluster_is_doing():
    """Metrics and the list of workers: to this machine, and to whoever reaches gateway.admin."""
    elsewhere = own_address()
    if elsewhere is None:
        return print("not tried: this machine has no address but loopback")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        admin = s.getsockname()[1]
    text = manifest(ANY, gateway={"listen": "0.0.0.0:0", "admin": "0.0.0.0:%d" % admin, "insecureAllowPlaintextOffLoopback": True})
    with Cluster(STORIES, text) as c:
        port = int(c.address.rsplit(":", 1)[1])

        def status(host, port, path):
            connection = http.client.HTTPConnection(host, port, timeout=30)
            connection.request("GET", path)
            reply = connection.getresponse()
            body = reply.read().decode()
            connection.close()
            return reply.status, body

        for path in ("/metrics", "/admin/v1/workers"):
            assert status("127.0.0.1", port, path)[0] == 200
            refused, why = status(elsewhere, port, path)
            assert refused == 403 and "gateway.admin" in why, (refused, why)
            for host in ("127.0.0.1", elsewhere):
                assert status(host, admin, path)[0] == 200, path
        assert "baton_requests_in_flight" in status(elsewhere, admin, "/metrics")[1]
        assert "any-0" in status(elsewhere, admin, "/admin/v1/workers")[1]
        for path in ("/v1/models", "/ready", "/live"):
            assert status(elsewhere, port, path)[0] == 200, path
        assert status(elsewhere, admin, "/live")[0] == 200
        assert status(elsewhere, admin, "/v1/models")[0] == 404  # tokens are not to be had there
        r = c.command("ps", "--url", "%s:%d" % (elsewhere, port))
        assert r.returncode == 1 and "gateway.admin" in r.stderr, r
        r = c.command("ps", "--url", "%s:%d" % (elsewhere, admin))
        assert r.returncode == 0 and "any-0" in r.stdout, r
        c.generate("One day", 5)


def test_memory_of_a_real_model():
    if not os.path.exists(SMOLLM2):
        print("SKIPPED: memory with SmolLM2: %s is not there (BATON_SMOLLM2)" % SMOLLM2)
        return
    with Cluster(SMOLLM2) as c:
        c.generate("Once upon a time", 8)
        check_memory(c)


def test_two_clusters_side_by_side():
    with Cluster(STORIES, manifest(ANY)) as a, Cluster(STORIES, manifest(PREFILL_DECODE)) as b:
        one, r = a.generate("One day", 10)
        two, s = b.generate("One day", 10)
        assert one == two
        assert r.headers["x-baton-path"] == "local" and s.headers["x-baton-path"] == "remote-prefill"


for name, test in list(globals().items()):
    if name.startswith("test_"):
        start = time.monotonic()
        test()
        print("passed %s (%.1f s)" % (name, time.monotonic() - start), flush=True)
