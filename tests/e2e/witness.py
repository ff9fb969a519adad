"""What a pause was made of. Samples every thread of some processes (its state, how long it waited for a core), and writes down where each of them is
when something has made no progress for STALL seconds. Standard library; with BATON_TEST_GDB=1 also gdb.

    with Witness(lambda: {"any-0": pid}) as w:
        w.progress("stream")  # it began, or got something; done("stream") ends it
        w.made_of(begin, end) # -> Pause; times of time.monotonic()
"""
import collections
import os
import subprocess
import tempfile
import threading
import time

STALL = 8.0
EVERY = 0.1
KEPT = 300.0  # seconds of samples

# Seconds: the pause; the most that one thread waited for a core in it, and whose it was; the most that a process was stopped (by a signal), and
# whose; the most that the witness itself came late: it was stopped or starved too.
Pause = collections.namedtuple("Pause", "seconds waited waiter stopped who late")


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def threads_of(pid):
    """{thread: (its state, seconds that it waited for a core)}"""
    out = {}
    try:
        ids = os.listdir("/proc/%d/task" % pid)
    except OSError:
        return out
    for i in ids:
        stat, schedule = read("/proc/%d/task/%s/stat" % (pid, i)), read("/proc/%d/task/%s/schedstat" % (pid, i)).split()
        if stat:
            out[i] = (stat.rsplit(")", 1)[1].split()[0], int(schedule[1]) / 1e9 if len(schedule) == 3 else 0.0)
    return out


def where(pid):
    """Kernel's and user's stacks of all threads, as text."""
    lines = []
    for i in sorted(threads_of(pid)):
        at = "/proc/%d/task/%s/" % (pid, i)
        lines.append("%s %s %s wchan %s syscall %s" % (i, read(at + "comm").strip(), read(at + "stat").rsplit(")", 1)[-1][1:2], read(at + "wchan"),
                                                       read(at + "syscall").strip()))
    if os.environ.get("BATON_TEST_GDB"):  # stops the process for a while, which others take for its death
        try:
            lines.append(subprocess.run(["gdb", "-p", str(pid), "-batch", "-ex", "thread apply all bt 14"], capture_output=True, text=True, timeout=60).stdout)
        except subprocess.TimeoutExpired:
            lines.append("gdb did not end")
    return "\n".join(lines)


class Witness(threading.Thread):
    def __init__(self, processes, stall=STALL):
        """processes(): {name: pid}, now"""
        super().__init__(daemon=True)
        self.processes, self.stall = processes, stall
        self.samples = collections.deque(maxlen=int(KEPT / EVERY))  # (time, {(name, pid): threads})
        self.last, self.told = {}, set()
        self.lock, self.ended = threading.Lock(), threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()

    def progress(self, what):
        with self.lock:
            self.last[what] = time.monotonic()

    def done(self, what):
        with self.lock:
            self.last.pop(what, None)

    def run(self):
        while not self.ended.wait(EVERY):
            now = time.monotonic()
            self.samples.append((now, {(n, p): threads_of(p) for n, p in self.processes().items() if p}))
            with self.lock:
                stalled = [what for what, at in self.last.items() if now - at > self.stall and what not in self.told]
                self.told.update(stalled)
            for what in stalled:
                self.write_down(what)

    def write_down(self, what):
        fd, path = tempfile.mkstemp(prefix="baton-stall-", suffix=".txt")
        with os.fdopen(fd, "w") as f:
            f.write("%s: no progress for %.1f s, load %s" % (what, self.stall, read("/proc/loadavg")))
            for name, pid in self.processes().items():
                f.write("\n==== %s, process %s\n%s\n" % (name, pid, where(pid) if pid else ""))
        print("%s: no progress for %.1f s: see %s" % (what, self.stall, path), flush=True)

    def made_of(self, begin, end, but=()):
        """`but`: names of processes whose being stopped is known."""
        samples = list(self.samples)  # from the last one before it to the first one after it: these may lie far apart
        first = max([s[0] for s in samples if s[0] <= begin], default=begin)
        last = min([s[0] for s in samples if s[0] >= end], default=end)
        inside = [s for s in samples if first <= s[0] <= last]
        late = max(0.0, end - (inside[-1][0] if inside else begin) - EVERY)
        waited, stopped = collections.Counter(), collections.Counter()
        for (before, old), (now, new) in zip(inside, inside[1:]):
            late = max(late, now - before - EVERY)
            for who, threads in new.items():
                for i, (_, wait) in threads.items():
                    waited[who[0], i] += wait - old.get(who, {}).get(i, ("", 0.0))[1]
                if threads and who[0] not in but and all(state in "Tt" for state, _ in threads.values()):
                    stopped[who[0]] += now - before
        waiter, who = max(waited, key=waited.get, default=("", "")), max(stopped, key=stopped.get, default="")
        return Pause(end - begin, waited[waiter], waiter[0], stopped[who], who, late)
