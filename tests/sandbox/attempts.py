"""Programs that try to break out, or to leave something behind.

Each is the body of a function that returns something true when it got through; OSError, MemoryError and falsehood are
"blocked". SECRET is the path of a file outside, OUTSIDE a folder there that everybody may write to, and TOKEN_BACKWARDS
what HF_TOKEN was in the environment of the process that opened the sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanochat.tools.sandbox import Level

MIB = 1 << 20
HARNESS = """
import ctypes, os, resource, signal, socket, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == "aarch64"

def call(name, *arguments):
    function = getattr(libc, name)
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    result = function(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return True

def number(intel, arm, *arguments):
    return call("syscall", arm if ARM else intel, *arguments)

def any_of(function, choices):
    passed = []
    for choice in choices:
        try:
            if function(choice):
                passed.append(choice)
        except (OSError, ValueError):
            pass
    return passed
"""
TRY = """
try:
    got = escape()
except (OSError, MemoryError, EOFError) as error:
    print("blocked:", type(error).__name__, error)
else:
    print(f"ESCAPED {got!r:.200}" if got else "blocked: nothing")
"""


@dataclass(frozen=True)
class Attempt:
    """`least`: the level from which it must fail. `ends`: how the run may end. `openly`: gets through without walls."""

    family: str
    name: str
    code: str
    least: Level = Level.LIMITS
    ends: tuple[str, ...] = ("ok",)
    openly: bool = False
    seconds: float = 20.0
    cpu: float = 10.0
    processes: int = 1

    def program(self, secret: str, outside: str, token: str) -> str:
        names = f"SECRET, OUTSIDE, TOKEN_BACKWARDS = {secret!r}, {outside!r}, {token[::-1]!r}\n"
        body = "".join(f"    {line}\n" for line in self.code.strip().splitlines())
        return f"{HARNESS}{names}def escape():\n{body}{TRY}"


FILTER, FILES, OWN = Level.SECCOMP, Level.LANDLOCK, Level.NAMESPACES
LATE = {"ends": ("timeout",), "seconds": 0.3}
FULL = ("ok", "output")  # below, where no mount of its own says no, the supervisor counts and kills

ATTEMPTS = [
    # Processes
    Attempt("processes", "fork", "pid = os.fork()\nif not pid: os._exit(0)\nreturn True", openly=True),
    Attempt("processes", "spawn a shell", "return os.posix_spawn('/bin/sh', ['sh', '-c', 'true'], {})", openly=True),
    Attempt("processes", "become a shell", "os.execv('/bin/sh', ['sh', '-c', 'echo ESCAPED'])", FILTER, openly=True),
    Attempt("processes", "subprocess", "import subprocess\nreturn subprocess.check_output(['id'])", openly=True),
    Attempt(
        "processes",
        "multiprocessing",
        "import multiprocessing as m\np = m.get_context('fork').Process(target=print)\np.start()\nreturn True",
    ),
    Attempt("processes", "clone by number", "return number(56, 220, 17, 0, 0, 0, 0)", FILTER),
    Attempt("processes", "vfork", "return call('vfork')", FILTER),
    Attempt("processes", "clone3", "return number(435, 435, ctypes.create_string_buffer(88), 88)", FILTER),
    Attempt("processes", "fork bomb", "while True: os.fork()", openly=False),
    Attempt(
        "processes",
        "fork bomb of eight",
        "while True:\n    try: os.fork()\n    except OSError: time.sleep(0.01)",
        OWN,
        processes=8,
        **LATE,
    ),
    Attempt(
        "processes",
        "more than eight at once",
        """
children = []
try:
    while len(children) < 8:
        pid = os.fork()
        if not pid: time.sleep(60)
        children.append(pid)
finally:
    for pid in children: os.kill(pid, 9)
return len(children) >= 8""",
        OWN,
        processes=8,
    ),
    Attempt(
        "processes",
        "daemon that outlives the run",
        """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3): os.close(fd)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    os._exit(0)
os.wait()""",
        OWN,
        processes=8,
    ),
    Attempt("processes", "grandchild keeps stdout open", "if os.fork() == 0: time.sleep(60)", OWN, processes=8),
    Attempt(
        "processes",
        "thread bomb",
        """
threading.stack_size(32768)
event = threading.Event()
threads = []
try:
    while len(threads) < 100:
        threads.append(threading.Thread(target=event.wait, daemon=True))
        threads[-1].start()
except RuntimeError: return False
finally: event.set()
return len(threads) > 20""",
        openly=True,
    ),
    # Signals and others' processes
    Attempt("signals", "kill the parent", "if os.getppid() > 0: os.kill(os.getppid(), 9)", FILTER),
    Attempt("signals", "kill everyone", "os.kill(-1, 9)", FILTER, ("ok", "killed")),
    Attempt("signals", "kill the process group", "os.killpg(0, 9)", FILTER, ("ok", "killed")),
    Attempt("signals", "kill by number", "return any_of(lambda pid: os.kill(pid, 9) or True, range(2, 40000))", FILTER),
    Attempt(
        "signals",
        "pidfd",
        "return any_of(lambda pid: signal.pidfd_send_signal(os.pidfd_open(pid), 0) or True, range(2, 9999))",
        FILTER,
    ),
    Attempt(
        "signals",
        "owner of a file's events",
        "import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, 8, os.getppid() or 1)\nfcntl.fcntl(r, 10, 9)\nreturn True",
        FILTER,
        openly=True,
    ),
    Attempt(
        "signals",
        "another one's limits",
        "return any_of(lambda pid: resource.prlimit(pid, resource.RLIMIT_CPU), [os.getppid() or 2, *range(2, 9999)])",
        FILTER,
        openly=True,
    ),
    Attempt(
        "signals", "ptrace", "return any_of(lambda pid: call('ptrace', 0x4206, pid, 0, 0), range(2, 9999))", FILTER
    ),
    Attempt("signals", "traced by the parent", "return call('ptrace', 0, 0, 0, 0)", FILTER),
    Attempt(
        "signals",
        "memory of others",
        """
buffer = ctypes.create_string_buffer(8)
piece = (ctypes.c_long * 2)(ctypes.addressof(buffer), 8)
return any_of(lambda pid: call('process_vm_readv', pid, piece, 1, piece, 1, 0), [os.getpid(), os.getppid() or 1])""",
        FILTER,
        openly=True,
    ),
    Attempt(
        "signals",
        "see other processes",
        "return len([p for p in os.listdir('/proc') if p.isdigit()])",
        FILES,
        openly=True,
    ),
    Attempt("signals", "environment in /proc", "return open('/proc/self/environ').read(1)", FILES),
    Attempt(
        "signals", "the parent in /proc", "return open(f'/proc/{os.getppid() or 1}/status').read(1)", FILES, openly=True
    ),
    Attempt(
        "signals",
        "another one's CPUs",
        "return any_of(lambda pid: os.sched_getaffinity(pid), range(2, 9999))",
        FILTER,
        openly=True,
    ),
    # Files
    Attempt("files", "read a file", "return open(SECRET).read()", FILES, openly=True),
    Attempt("files", "see a file", "return os.stat(SECRET)", Level.BUBBLEWRAP, openly=True),
    Attempt("files", "write a file", "return open(OUTSIDE + '/new', 'w').write('x')", FILES),
    Attempt("files", "way up", "return open('../' * 40 + SECRET).read()", FILES, openly=True),
    Attempt("files", "symbolic link", "os.symlink(SECRET, 'link')\nreturn open('link').read()", FILES),
    Attempt("files", "hard link", "os.link(SECRET, 'link')\nreturn True", FILES),
    Attempt("files", "rename", "os.rename(SECRET, OUTSIDE + '/moved')\nreturn True", FILES),
    Attempt("files", "delete", "os.unlink(SECRET)\nreturn True", FILES),
    Attempt("files", "truncate", "os.truncate(SECRET, 0)\nreturn True", FILES),
    Attempt("files", "truncate while opening", "os.open(SECRET, os.O_RDONLY | os.O_TRUNC)\nreturn True", FILES),
    Attempt(
        "files", "truncate Python's library", "os.open(os.__file__, os.O_RDONLY | os.O_TRUNC)\nreturn True", FILTER
    ),
    Attempt("files", "change Python's library", "return open(os.__file__, 'a')", FILES),
    Attempt("files", "permissions", "os.chmod(SECRET, 0o777)\nreturn True", FILTER),
    Attempt("files", "owner", "os.chown(SECRET, 1, 1)\nreturn True", FILTER),
    Attempt("files", "dates", "os.utime(SECRET, (1, 1))\nreturn True", FILTER),
    Attempt("files", "attributes", "os.setxattr(SECRET, 'user.x', b'1')\nreturn True", FILTER),
    Attempt("files", "socket file", "s = socket.socketpair()[0]\ns.bind(OUTSIDE + '/socket')\nreturn True", FILTER),
    Attempt(
        "files",
        "rest of the system",
        "return any_of(os.stat, ['/root/.bashrc', '/home', '/etc/passwd', '/var', '/boot', '/sys', '/run'])",
        Level.BUBBLEWRAP,
        openly=True,
    ),
    Attempt(
        "files",
        "by handle",
        """
handle = (ctypes.c_int * 34)(128, 0)
mount = ctypes.c_int()
call('name_to_handle_at', -100, SECRET.encode(), handle, ctypes.byref(mount), 0)
return True""",
        FILTER,
    ),
    Attempt("files", "chroot", "os.mkdir('x')\nos.chroot('x')\nreturn True", FILTER),
    Attempt("files", "mount", "return call('mount', b'/', b'/tmp', b'', 4096, b'')", FILTER),
    Attempt("files", "mount anew", "return number(430, 430, b'tmpfs', 0)", FILTER),
    Attempt("files", "copy of the mounts", "return number(428, 428, -100, b'/', 1)", FILTER),
    Attempt("files", "unmount", "return call('umount2', b'/tmp', 2)", FILTER),
    Attempt("files", "change the root", "return call('pivot_root', b'.', b'.')", FILTER),
    Attempt("files", "write into the root", "return open('/new', 'w')", FILES),
    Attempt("files", "inherited files", "return any_of(os.fstat, range(3, 5000))", openly=False),
    Attempt("files", "watch", "return call('inotify_init')", FILTER, openly=True),
    # Devices
    Attempt("devices", "make a device", "os.mknod('null', 0o20666, os.makedev(1, 3))\nreturn True", FILTER),
    Attempt(
        "devices",
        "open devices",
        "return any_of(lambda n: os.open('/dev/' + n, 0), ['mem', 'kmsg', 'vda', 'sda', 'ptmx', 'tty', 'fuse', 'kvm'])",
        FILES,
        openly=True,
    ),
    Attempt("devices", "type into a terminal", "import fcntl\nreturn fcntl.ioctl(0, 0x5412, b'x')", FILTER),
    # Network
    Attempt(
        "network",
        "sockets of all families",
        """
kinds = [(family, kind) for family in range(46) for kind in (1, 2, 3, 5)]
return any_of(lambda pair: socket.socket(*pair), kinds)""",
        FILTER,
        openly=True,
    ),
    Attempt(
        "network",
        "datagrams to anybody",
        "return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        FILTER,
        openly=True,
    ),
    Attempt("network", "abstract socket", "socket.socketpair()[0].bind('\\0nanochat-escape')\nreturn True", FILTER),
    Attempt("network", "listen", "socket.socketpair()[0].listen()\nreturn True", FILTER),
    Attempt("network", "connect", "socket.socketpair()[0].connect('/run/x')\nreturn True", FILTER),
    Attempt("network", "io_uring", "return number(425, 425, 8, ctypes.create_string_buffer(120))", FILTER),
    Attempt("network", "network of the namespace", "return number(308, 268, 0, 0x40000000)", FILTER),
    # The kernel
    Attempt("kernel", "user namespace", "return call('unshare', 0x10000000)", FILTER, openly=True),
    Attempt("kernel", "map ids", "return os.write(os.open('/proc/self/uid_map', 1), b'0 0 1')", FILES),
    Attempt(
        "kernel", "clone into namespaces", "return number(56, 220, 0x10000000 | 17, 0, 0, 0, 0)", FILTER, processes=1
    ),
    Attempt(
        "kernel",
        "clone into namespaces, of eight",
        "return number(56, 220, 0x10000000 | 17, 0, 0, 0, 0)",
        OWN,
        processes=8,
    ),
    Attempt(
        "kernel",
        "ids",
        "return any_of(lambda f: f(0) or True, [os.setuid, os.setgid, lambda i: os.setgroups([i])])",
        FILTER,
    ),
    Attempt(
        "kernel",
        "capabilities",
        "return number(126, 91, (ctypes.c_int * 2)(0x20080522, 0), (ctypes.c_int * 6)(*[-1] * 6))",
        FILTER,
    ),
    Attempt("kernel", "survive the supervisor", "return call('prctl', 1, 0, 0, 0, 0)", FILTER, openly=True),
    Attempt("kernel", "lift the filter", "return call('prctl', 22, 0, 0, 0, 0)", FILTER),
    Attempt(
        "kernel", "programs in the kernel", "return number(321, 280, 0, ctypes.create_string_buffer(72), 72)", FILTER
    ),
    Attempt(
        "kernel",
        "performance counters",
        "return number(298, 241, ctypes.create_string_buffer(128), 0, -1, -1, 0)",
        FILTER,
    ),
    Attempt("kernel", "page faults", "return number(323, 282, 1)", FILTER, openly=True),
    Attempt("kernel", "keys", "return number(250, 219, 0, -3, 1)", FILTER, openly=True),
    Attempt("kernel", "host name", "socket.sethostname('escaped')\nreturn True", FILTER),
    Attempt("kernel", "clock", "time.clock_settime(time.CLOCK_REALTIME, 0)\nreturn True", FILTER),
    Attempt("kernel", "modules", "return number(175, 105, b'', 0, b'')", FILTER),
    Attempt(
        "kernel",
        "the other instruction set",
        """
import mmap
page = mmap.mmap(-1, 4096, prot=7)
page.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3' if not ARM else b'\\0\\0\\0\\0')  # getpid of 32 bits
return ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))() > 0""",
        FILTER,
        ("killed",),
    ),
    Attempt("kernel", "x32", "return number(0x40000000 + 41, 0x40000000, 1, 1, 0)", FILTER),
    # Shared memory, and what stays in the kernel
    Attempt("leftovers", "System V memory", "return call('shmget', 0x6e616e6f, 4096, 0o1666)", FILTER),
    Attempt("leftovers", "System V semaphores", "return call('semget', 0x6e616e6f, 1, 0o1666)", FILTER),
    Attempt("leftovers", "System V messages", "return call('msgget', 0x6e616e6f, 0o1666)", FILTER),
    Attempt("leftovers", "POSIX memory", "return open('/dev/shm/nanochat-escape', 'w')", FILES),
    Attempt(
        "leftovers",
        "shared_memory",
        "from multiprocessing.shared_memory import SharedMemory\nreturn SharedMemory('nanochat-escape', True, 4096)",
        FILES,
    ),
    Attempt(
        "leftovers", "POSIX semaphore", "return call('sem_open', b'/nanochat-escape', 0o100, 0o666, 1) and False", FILES
    ),
    Attempt("leftovers", "POSIX messages", "return call('mq_open', b'/nanochat-escape', 0o102, 0o666, 0)", FILTER),
    Attempt("leftovers", "nameless file", "return os.memfd_create('x')", FILTER, openly=True),
    Attempt(
        "leftovers",
        "core dump",
        "resource.setrlimit(resource.RLIMIT_CORE, (MIB := 1 << 20, MIB))\nreturn True",
        ends=("error",),
    ),
    Attempt("leftovers", "crash", "ctypes.string_at(0)", ends=("killed",)),
    Attempt("leftovers", "temporary files", "import tempfile\nfor _ in range(50): tempfile.mkstemp()[0]"),
    Attempt(
        "leftovers", "undeletable folders", "os.mkdir('a')\nopen('a/b', 'w')\nos.chmod('a', 0)", ends=("ok", "output")
    ),
    Attempt("leftovers", "unreadable folders", "os.mkdir('a', 0o300)\nopen('a/b', 'w')", ends=("ok", "output")),
    Attempt(
        "leftovers",
        "deep folders",
        "for _ in range(900):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)",
        ends=FULL,
    ),
    # Secrets
    Attempt(
        "secrets",
        "environment",
        "return 'HF_TOKEN' in os.environ or TOKEN_BACKWARDS[::-1] in str(os.environ)",
        openly=True,
    ),
    Attempt(
        "secrets",
        "objects of the interpreter",
        """
import gc
seen, waiting = set(), gc.get_objects()
while waiting:
    item = waiting.pop()
    if id(item) in seen: continue
    seen.add(id(item))
    if isinstance(item, str) and item == TOKEN_BACKWARDS[::-1]: return item
    waiting += gc.get_referents(item)""",
    ),
    Attempt(
        "secrets",
        "environment in C",
        """
names = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, 'environ')
found, place = [], 0
while names[place]:
    found.append(names[place])
    place += 1
return TOKEN_BACKWARDS[::-1].encode() in b''.join(found)""",
        openly=True,
    ),
    Attempt(
        "secrets",
        "os through the object graph",
        """
kinds = [kind for kind in ().__class__.__base__.__subclasses__() if kind.__name__ == '_wrap_close']
return kinds[0].__init__.__globals__['system']('exit 7') == 7 << 8""",
        FILTER,
        openly=True,
    ),
    Attempt("secrets", "stdin of the trainer", "return sys.stdin.read()"),
    # Resources
    Attempt("resources", "memory at once", "return bytearray(4 << 30)"),
    Attempt("resources", "memory bit by bit", "x = []\nwhile True: x.append(bytes(1 << 20))", ends=("ok", "memory")),
    Attempt("resources", "memory by mapping", "import mmap\nreturn mmap.mmap(-1, 4 << 30)", openly=True),
    Attempt(
        "resources",
        "zip bomb",
        """
import zlib
c = zlib.compressobj(9, zlib.DEFLATED, -15)
piece = c.compress(bytes(1 << 22)) + c.flush(zlib.Z_FULL_FLUSH)
return len(zlib.decompress(piece * 1000, -15))""",
    ),
    Attempt("resources", "large numbers", "return 9 ** 9 ** 9", **{**LATE, "ends": ("ok", "memory", "timeout")}),
    Attempt("resources", "sleep", "time.sleep(60)", **LATE),
    Attempt("resources", "loop", "while True: pass", **LATE),
    Attempt("resources", "CPU time", "while True: pass", ends=("timeout",), seconds=60, cpu=1),
    Attempt(
        "resources",
        "CPU time with deaf ears",
        "any_of(lambda s: signal.signal(s, signal.SIG_IGN), range(1, 65))\nwhile True: pass",
        ends=("timeout",),
        seconds=60,
        cpu=1,
    ),
    Attempt("resources", "regular expression", "import re\nre.match('(a+)+$', 'a' * 40 + 'b')", **LATE),
    Attempt("resources", "deaf sleep", "signal.signal(15, signal.SIG_IGN)\nwhile True:\n    time.sleep(9)", **LATE),
    Attempt(
        "resources",
        "handler that returns",
        "signal.signal(11, lambda *_: None)\nctypes.string_at(0)",
        **{**LATE, "ends": ("timeout", "killed")},
    ),
    Attempt("resources", "stream to stdout", "while True: print('x' * 1000)", ends=("output",)),
    Attempt("resources", "stream to stderr", "while True: os.write(2, b'x' * 1000)", ends=("output",)),
    Attempt("resources", "nothing more to read", "for fd in range(3): os.close(fd)\ntime.sleep(60)", **LATE),
    Attempt(
        "resources", "one large file", "with open('f', 'wb') as f:\n    while True: f.write(bytes(1 << 20))", ends=FULL
    ),
    Attempt(
        "resources",
        "many files",
        "i = 0\nwhile True:\n    i += 1\n    with open(f'f{i}', 'wb') as f: f.write(bytes(1 << 20))",
        ends=FULL,
    ),
    Attempt(
        "resources", "many empty files", "i = 0\nwhile True:\n    i += 1\n    open(f'f{i}', 'w').close()", ends=FULL
    ),
    Attempt(
        "resources",
        "deleted files that stay open",
        """
import mmap
held = []
for _ in range(40):
    file = os.open('f', os.O_RDWR | os.O_CREAT)
    os.write(file, bytes(2 << 20))
    held.append(mmap.mmap(file, 4096))
    os.unlink('f')
    os.close(file)
return len(held)""",
        FILES,
        FULL,
        openly=True,
    ),
    Attempt(
        "resources",
        "replaced files that stay open",
        """
held = []
for _ in range(40):
    held.append(os.open('f', os.O_RDWR | os.O_CREAT))
    os.write(held[-1], bytes(2 << 20))
    open('g', 'w').close()
    os.rename('g', 'f')
return len(held)""",
        FILES,
        FULL,
        openly=True,
    ),
    Attempt(
        "resources",
        "files without a name",
        """
held = []
for _ in range(40):
    held.append(os.open('.', os.O_RDWR | os.O_TMPFILE))
    os.write(held[-1], bytes(2 << 20))
return len(held)""",
        FILES,
        FULL,
        openly=True,
    ),
    Attempt("resources", "many open files", "return [os.open('.', 0) for _ in range(500)]", openly=True),
    Attempt(
        "resources",
        "large pipes",
        "import fcntl\nr, w = os.pipe()\nreturn fcntl.fcntl(w, 1031, 1 << 20)",
        FILTER,
        openly=True,
    ),
    Attempt(
        "resources",
        "raise the limits",
        "return any_of(lambda n: resource.setrlimit(n, (-1, -1)) or True, [0, 1, 4, 6, 7, 9])",
    ),
    Attempt(
        "resources",
        "deep recursion",
        "sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        ends=("error", "killed", "memory", "timeout"),
        seconds=1,
    ),
    Attempt(
        "resources", "deep nesting", "x = []\nfor _ in range(10**5): x = [x]\nreturn repr(x)", ends=("error", "killed")
    ),
    Attempt("resources", "a thread that stays", "threading.Thread(target=time.sleep, args=(60,)).start()", OWN, **LATE),
    Attempt("resources", "atexit", "import atexit\natexit.register(time.sleep, 60)", **LATE),
    # Output and errors that attack who reads them
    Attempt("output", "terminal commands", "print('\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\rx\\u202e')"),
    Attempt("output", "half a character", "os.write(1, b'\\xff\\xfe\\xc3\\n')"),
    Attempt(
        "output",
        "error with a hostile text",
        "class E(Exception):\n    def __str__(self): raise SystemExit(0)\n    __repr__ = __str__\nraise E",
        ends=("error", "ok"),
    ),
    Attempt(
        "output",
        "error that hides",
        "class E(BaseException):\n    __traceback__ = property(lambda s: 1 / 0)\nraise E",
        ends=("error",),
    ),
    Attempt(
        "output", "tracing", "sys.settrace(lambda *a: 1 / 0)\nthreading.settrace(lambda *a: 1 / 0)", ends=("error",)
    ),
    Attempt(
        "output",
        "garbage",
        "import gc\nclass C:\n    def __del__(self): time.sleep(60)\nC.me = C()\ngc.set_threshold(1)",
        **{**LATE, "ends": ("ok", "timeout")},
    ),
]
