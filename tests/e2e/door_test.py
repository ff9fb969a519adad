"""./baton, the door, with stand-ins for everything that it starts: turns, an interrupted build, no root."""
import os
import shutil
import subprocess
import time

import guardian
from cluster import SOURCE

STANDINS = {
    "dpkg-query": "shift 2; for p; do printf 'installed=%s ' $p; done",
    "cargo": "echo cargo 1.99.0",
    "cmake": "mkdir -p build/release/cli; touch build/release/build.ninja build/release/CMakeCache.txt",
    "ninja": "case \"$*\" in *' -n '*) echo more;; *) echo begin >> turns; for i in {1..600}; do [ -e go ] && break; sleep 0.1; done; echo end >> turns; printf '#!/bin/sh\\necho served\\n' > build/release/cli/baton;"
             " [ ${NINJA_RC:-0} = 0 ] && chmod +x build/release/cli/baton; exit ${NINJA_RC:-0};; esac",
}


class Door:
    """A folder "a b" with ./baton and stand-ins."""

    def __enter__(self):
        self.root = os.path.join(guardian.folder("baton-door-"), "a b")
        self.bin = os.path.join(self.root, "bin")
        os.makedirs(self.bin)
        shutil.copy(os.path.join(SOURCE, "baton"), self.root)
        for name, text in STANDINS.items():
            self.standin(name, text)
        return self

    def __exit__(self, *_):
        shutil.rmtree(os.path.dirname(self.root))

    def standin(self, name, text):
        path = os.path.join(self.bin, name)
        with open(path, "w") as f:
            f.write("#!/bin/bash\n" + text + "\n")
        os.chmod(path, 0o755)

    def start(self, *arguments, **environment):
        env = {"PATH": self.bin + ":/usr/bin:/bin", "HOME": self.root, "LANG": "xx_XX.ISO-8859-1", **environment}
        return subprocess.Popen(["./baton", *arguments], cwd=self.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments, **environment):
        p = self.start(*arguments, **environment)
        out, err = p.communicate(timeout=60)
        return p.returncode, out, err


def two_at_once(door):
    first = door.start("serve", "m.gguf")
    limit = time.monotonic() + 60
    while not os.path.exists(os.path.join(door.root, "turns")):  # the first one builds
        assert time.monotonic() < limit and first.poll() is None
        time.sleep(0.01)
    second = door.start("serve", "m.gguf")
    said = second.stderr.readline()
    assert "waiting for it" in said, said
    open(os.path.join(door.root, "go"), "w").close()
    for p in (first, second):
        out, err = p.communicate(timeout=60)
        assert p.returncode == 0 and out == "served\n", (p.returncode, out, err)
    with open(os.path.join(door.root, "turns")) as f:
        assert f.read().split() == ["begin", "end"] * 2


def interrupted(door):
    open(os.path.join(door.root, "go"), "w").close()
    code, _, err = door.run("ps", NINJA_RC="130")
    assert code == 130 and "the same command again goes on" in err, (code, err)
    code, _, err = door.run("ps", NINJA_RC="1")
    assert code == 1 and "the build failed" in err, (code, err)


def no_root(door):
    door.standin("dpkg-query", "true")
    door.standin("id", "echo 1000")
    door.standin("sudo", "echo sudo: no rights for you >&2; exit 1")
    code, _, err = door.run("ps")
    assert code == 1 and "could not install" in err and "no rights for you" in err, (code, err)
    os.remove(os.path.join(door.bin, "sudo"))
    if not shutil.which("sudo", path="/usr/bin:/bin"):
        code, _, err = door.run("ps")
        assert code == 1 and "as root: apt-get install g++" in err, (code, err)


def built_and_broken(door):
    """What looks at a running cluster, or stops it, does without a build."""
    door.standin("ninja", "exit 1")
    for command in ("ps", "down", "logs", "chat", "validate", "version"):
        code, out, err = door.run(command)
        assert (code, out, err) == (0, "served\n", ""), (command, code, out, err)
    code, _, err = door.run("serve", "m.gguf")
    assert code == 1 and "the build failed" in err, (code, err)


with Door() as door:
    for check in (two_at_once, built_and_broken):
        check(door)
        print("passed %s" % check.__name__, flush=True)
    code, out, _ = door.run()
    assert code == 0 and "usage: ./baton" in out
for check in (interrupted, no_root):
    with Door() as door:
        check(door)
        print("passed %s" % check.__name__, flush=True)
print("passed")
