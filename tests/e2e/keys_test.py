"""A gateway that wants keys, under TLS: who gets in, what tenants see of each other, keys and certificates that change."""
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time

import guardian
from cluster import ANY, STORIES, Cluster, manifest, need, skip


def openssl(folder, *arguments):
    return subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True).returncode == 0


def certificate(folder, name):
    """One that signs itself, for localhost."""
    if not openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "20", "-keyout", name + ".key", "-out",
                   name + ".pem", "-subj", "/CN=" + name, "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"):
        skip("the openssl command makes no certificates")


class Door:
    """Requests over TLS with one key."""

    def __init__(self, cluster, key="", ca=None):
        self.host, self.port = cluster.address.rsplit(":", 1)
        self.fields = {"Authorization": "Bearer " + key} if key else {}
        self.context = ssl.create_default_context(cafile=ca)

    def ask(self, method, path, body=None):
        c = http.client.HTTPSConnection(self.host, int(self.port), timeout=60, context=self.context)
        try:
            c.request(method, path, None if body is None else json.dumps(body), dict(self.fields, **{"Content-Type": "application/json"}))
            r = c.getresponse()
            return r.status, r.read().decode()
        finally:
            c.close()

    def complete(self, prompt, **more):
        status, text = self.ask("POST", "/v1/completions", dict({"model": "default", "prompt": prompt, "max_tokens": 4, "temperature": 0}, **more))
        assert status == 200, (status, text)
        return json.loads(text)


def soon(condition, what):
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit, what
        time.sleep(0.1)


def routes(c, folder, keys):
    """Every kind of route by every kind of caller."""
    for key, users, operators in ((None, 401, 401), ("guessed", 401, 401), (keys["alice"], 200, 403), (keys["ops"], 200, 200)):
        door = Door(c, key or "", folder + "/one.pem")
        for path, want in (("/live", 200), ("/health", 200), ("/ready", 200), ("/v1/models", users), ("/models", users), ("/metrics", operators),
                           ("/admin/v1/workers", operators), ("/no/such", 404)):
            status, text = door.ask("GET", path)
            assert status == want, (key and "a key", path, status, text)
        status, text = door.ask("POST", "/v1/completions", {"model": "default", "prompt": "a", "max_tokens": 1})
        assert status == users, (status, text)


def tenants(c, folder, keys):
    """A prompt that one has asked is cached for the same tenant, and for nobody else."""
    alice, again, bob = (Door(c, keys[k], folder + "/one.pem") for k in ("alice", "alice2", "bob"))
    prompt = "Once upon a time there was a little girl who had a red ball. " * 6
    cached = lambda door: door.complete(prompt)["usage"]["prompt_tokens_details"]["cached_tokens"]
    first = alice.complete(prompt)
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, first
    assert cached(alice) > 0 and cached(again) > 0
    assert bob.complete(prompt)["choices"][0]["text"] == first["choices"][0]["text"]
    # What was there when bob asked first: nothing of alice's. (His second time finds his own.)
    numbers = Door(c, keys["ops"], folder + "/one.pem").ask("GET", "/metrics")[1]
    assert 'baton_tenant_tokens_total{kind="cached",tenant="bob"} 0' in numbers, [x for x in numbers.splitlines() if "tenant" in x]
    assert cached(bob) > 0
    assert 'baton_tenant_requests_total{code="200",tenant="alice"}' in numbers
    assert 'baton_rejected_http_total{code="401"}' in numbers


def early_refusal(c, folder):
    """A body that is not wanted is not waited for."""
    with socket.create_connection((c.address.rsplit(":", 1)[0], int(c.address.rsplit(":", 1)[1])), timeout=30) as plain:
        with ssl.create_default_context(cafile=folder + "/one.pem").wrap_socket(plain, server_hostname="localhost") as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n{")
            head = s.recv(4096)
            assert head.startswith(b"HTTP/1.1 401 "), head
            assert b"www-authenticate: Bearer" in head, head


def own_commands(c, keys):
    """The user who runs the cluster needs no key; by its address one is wanted."""
    out = c.command("ps")
    assert out.returncode == 0 and "any-0" in out.stdout and "ready" in out.stdout, (out.stdout, out.stderr)
    out = c.command("bench", "serve", "-r", "2", "-p", "8", "-n", "4")
    assert out.returncode == 0 and "0 failed" in out.stdout, (out.stdout, out.stderr)
    url = "https://" + c.address
    env = dict(os.environ, BATON_HOME=c.home + "/elsewhere", SSL_CERT_FILE=c.home + "/one.pem")
    run = lambda **more: subprocess.run([c.binary, "ps", "--url", url], env=dict(env, **more), capture_output=True, text=True, timeout=60)
    assert "wants the key of an operator" in run().stderr, run()
    assert "not the key of an operator" in run(BATON_API_KEY=keys["alice"]).stderr
    assert "any-0" in run(BATON_API_KEY=keys["ops"]).stdout, run(BATON_API_KEY=keys["ops"])
    assert "certificate is not trusted" in run(SSL_CERT_FILE="/dev/null").stderr
    mode = os.stat(c.home + "/state/local.key").st_mode & 0o777
    assert mode == 0o600, oct(mode)


def keys_change(c, folder, keys):
    door = lambda name: Door(c, keys[name], folder + "/one.pem")
    out = c.command("key", folder + "/keys.txt", "carol")
    keys["carol"] = out.stdout.strip()
    soon(lambda: door("carol").ask("GET", "/v1/models")[0] == 200, "a key that was added")
    with open(folder + "/keys.txt") as f:
        lines = [x for x in f if not x.startswith("bob ")]
    with open(folder + "/keys.new", "w") as f:
        f.writelines(lines)
    os.rename(folder + "/keys.new", folder + "/keys.txt")
    soon(lambda: door("bob").ask("GET", "/v1/models")[0] == 401, "a key that was removed")
    assert door("alice").ask("GET", "/v1/models")[0] == 200
    with open(folder + "/keys.txt", "a") as f:
        f.write("dave " + keys["alice"] + "\n")  # not its hash
    time.sleep(1.5)
    assert door("alice").ask("GET", "/v1/models")[0] == 200, "a wrong line locks nobody out"
    log = open(c.home + "/state/logs/coordinator.log").read()
    assert "is no good" in log and "keys.txt:" in log
    for key in keys.values():
        assert key not in log, "a key in the log"


def certificate_changes(c, folder, keys):
    certificate(folder, "two")
    for end in (".key", ".pem"):
        shutil.copy(folder + "/two" + end, folder + "/fresh")
        os.rename(folder + "/fresh", folder + "/one" + end)
    new = Door(c, keys["alice"], folder + "/two.pem")

    def accepted():
        try:
            return new.ask("GET", "/v1/models")[0] == 200
        except ssl.SSLError:
            return False
    soon(accepted, "the new certificate")
    assert c.command("ps").returncode == 0


def rates(folder):
    """What a tenant has used up comes back with time; others are not held up."""
    c = Cluster(need(STORIES), manifest(ANY, gateway={"listen": "127.0.0.1:0", "apiKeysFile": folder + "/rates.txt", "limits": {"tokensPerMinutePerTenant": 600}}))
    alice, bob = (c.command("key", folder + "/rates.txt", name).stdout.strip() for name in ("alice", "bob"))
    with c:
        def ask(key, tokens):
            body = {"model": "default", "prompt": "Once", "max_tokens": tokens, "ignore_eos": True}
            return c.post("/v1/completions", body, {"X-Api-Key": key, "Content-Type": "application/json"})
        assert ask(alice, 400).status == 200 and ask(alice, 400).status == 200  # the last ones may go beyond
        limited = ask(alice, 1)
        assert limited.status == 429 and limited.json()["error"]["code"] == "rate_limit_exceeded", limited.body
        assert 1 <= int(limited.headers["retry-after"]) <= 30, limited.headers
        assert ask(bob, 1).status == 200
        soon(lambda: ask(alice, 1).status == 200, "tokens that come back")


def refused_starts(folder):
    """What is wrong with a file is said before anything runs."""
    def says(gateway, *words):
        text = manifest(ANY, gateway=dict({"listen": "127.0.0.1:0"}, **gateway))
        c = Cluster(need(STORIES), text)
        try:
            path = os.path.join(c.home, "manifest.yaml")
            with open(path, "w") as f:
                f.write(text)
            for command in (("validate", path), ("serve", c.model, "-f", path, "--port", "0", "--detach")):
                out = c.command(*command)
                said = out.stdout + out.stderr
                if command[0] == "validate" and "is not here" in words[0]:
                    continue
                assert out.returncode != 0 and all(w in said for w in words), (command[0], words, said)
        finally:
            c.command("down")
            c.remove()
    with open(folder + "/bad.txt", "w") as f:
        f.write("alice sk-very-secret-indeed\n")
    says({"apiKeysFile": folder + "/bad.txt"}, "bad.txt:1: want `TENANT sha256:")
    says({"tls": {"certificate": folder + "/one.pem", "key": folder + "/bad.txt"}}, "bad.txt: no private key in it")
    certificate(folder, "other")
    says({"tls": {"certificate": folder + "/one.pem", "key": folder + "/other.key"}}, "other.key: is not the key of")


def main():
    folder = guardian.folder("baton-keys-")
    certificate(folder, "one")
    keys = {}
    text = manifest(ANY, gateway={"listen": "127.0.0.1:0", "apiKeysFile": folder + "/keys.txt", "tls": {"certificate": folder + "/one.pem", "key": folder + "/one.key"}})
    try:
        cluster = Cluster(need(STORIES), text)
        for name, arguments in (("alice", ["alice"]), ("alice2", ["alice"]), ("bob", ["bob"]), ("ops", ["ops", "--operator"])):
            out = cluster.command("key", folder + "/keys.txt", *arguments)
            assert out.returncode == 0, out
            keys[name] = out.stdout.strip()
        with open(folder + "/keys.txt") as f:
            assert not any(key in f.read() for key in keys.values()), "a key in the file"
        with cluster as c:
            shutil.copy(folder + "/one.pem", c.home + "/one.pem")
            routes(c, folder, keys)
            tenants(c, folder, keys)
            early_refusal(c, folder)
            own_commands(c, keys)
            keys_change(c, folder, keys)
            certificate_changes(c, folder, keys)
        rates(folder)
        refused_starts(folder)
    finally:
        shutil.rmtree(folder)
    print("keys and TLS: ok")


if __name__ == "__main__":
    main()
