"""Makes the attempt of each rule of a filter: a call that does something for an account without a privilege, or that
comes as far as the kernel lets it. It must not know what a filter refuses: it is told the rules, and says what became
of each. Usage: attempts.py RULES.json; a line "KEY WAY OUTCOME" for each attempt.
"""
import ctypes, errno, fcntl, json, mmap, os, pty, signal, socket, struct, sys, tempfile

libc = ctypes.CDLL(None, use_errno=True)
HERE = -100  # AT_FDCWD
NEW_USER, NEW_NS, NEW_UTS, NEW_PID = 0x10000000, 0x20000, 0x04000000, 0x20000000
SIGCHLD = 17
RULES = json.load(open(sys.argv[1]))
NUMBERS = RULES["numbers"]
kept = []  # what a call points to


def raw(name, *args):
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    ctypes.set_errno(0)
    return libc.syscall(ctypes.c_long(NUMBERS.get(name, name)), *words)


def memory(content):
    kept.append(ctypes.create_string_buffer(content, len(content)))
    return ctypes.addressof(kept[-1])


def vector(content):
    return memory(struct.pack("QQ", memory(content), len(content)))


# Preparations, before there is a filter. What each gives is the arguments of its call.


def own_namespaces():
    """All that an account may have in a user namespace of its own; in a job with a filter it stays without."""
    uid, gid = os.getuid(), os.getgid()
    if raw("unshare", NEW_USER | NEW_NS | NEW_UTS | NEW_PID) != 0:
        return
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open("/proc/self/" + name, "w") as file:
            file.write(text)
    child = os.fork()  # process 1 of the new namespace
    if child:
        end(os.waitpid(child, 0)[1])
    raw("mount", b"none", b"/", 0, 0x44000, 0)  # MS_REC | MS_PRIVATE
    raw("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, 0)


def inside(*args):
    def prepare():
        own_namespaces()
        return args

    return prepare


def context(create, *args):
    """A file system that is being made, in a user namespace."""

    def prepare():
        own_namespaces()
        fd = raw("fsopen", b"tmpfs", 0)
        if create:
            raw("fsconfig", fd, 6, 0, 0, 0)
        return (fd, *args)

    return prepare


def namespace():
    own_namespaces()
    return os.open("/proc/self/ns/uts", os.O_RDONLY), NEW_UTS


def key():
    raw("add_key", b"user", b"attempt", b"x", 1, -2)
    return b"user", b"attempt", 0, -2


def terminal(request, argument=0):
    """A terminal of the job's own, which controls it."""

    def prepare():
        os.setsid()
        _, slave = pty.openpty()
        fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
        return slave, request, memory(argument) if argument else 0

    return prepare


def own_file(request, content):
    def prepare():
        fd, _ = tempfile.mkstemp(dir=os.environ["JOB_DIR"])
        return fd, request, memory(content)

    return prepare


def handle():
    own_namespaces()
    open("/tmp/file", "w").close()
    buffer = memory(struct.pack("Ii", 128, 0) + bytes(128))
    raw("name_to_handle_at", HERE, b"/tmp/file", buffer, memory(bytes(8)), 0)
    return os.open("/tmp", os.O_RDONLY), buffer, os.O_RDONLY


def pidfd():
    return os.pidfd_open(os.getpid()), 0, 0


def pages(*args):
    kept.append(mmap.mmap(-1, 8192))
    address = ctypes.addressof(ctypes.c_char.from_buffer(kept[-1]))
    return lambda: (address, *args)


def into_pipe():
    return os.pipe()[1], vector(b"x"), 1, 0


def event():
    """A software event of this process alone: PERF_TYPE_SOFTWARE, exclude_kernel, exclude_hv."""
    attributes = struct.pack("IIQQQQQ", 1, 128, 0, 0, 0, 0, 0x60)
    return memory(attributes.ljust(128, b"\0")), 0, -1, -1, 0


def new_name(*mode):
    return lambda: (os.environ["JOB_DIR"].encode() + b"/node%d" % os.getpid(), *mode)


def at(call):
    return lambda: (HERE, *call())


def made(*args):
    return lambda: args


def clone(flag):
    return made(flag | NEW_USER | SIGCHLD, 0, 0, 0, 0)


def clone3():
    return memory(struct.pack("8Q", 0, 0, 0, 0, SIGCHLD, 0, 0, 0)), 64


READ_ONLY = memory(struct.pack("4Q", 1, 0, 0, 0))
DEVICE, BLOCK = 0o020600, 0o060600
ME = os.getpid
# Its call's arguments, and what becomes of it without the rule. "ok": it does what it is for. "capability": the kernel
# refuses an account without a privilege, and looks at nothing else before.
ATTEMPTS = {
    "mount": (inside(b"tmpfs", b"/var/tmp", b"tmpfs", 0, 0), "ok"),
    "umount2": (inside(b"/tmp", 0), "ok"),
    "pivot_root": (inside(b"/tmp", b"/tmp"), "ok"),
    "chroot": (inside(b"/tmp"), "ok"),
    "open_tree": (inside(HERE, b"/tmp", 1), "ok"),
    "open_tree_attr": (inside(HERE, b"/tmp", 1, READ_ONLY, 32), "ok"),
    "move_mount": (inside(HERE, b"/tmp", HERE, b"/var/tmp", 0), "ok"),
    "fsopen": (inside(b"tmpfs", 0), "ok"),
    "fsconfig": (context(False, 6, 0, 0, 0), "ok"),
    "fsmount": (context(True, 0, 0), "ok"),
    "fspick": (inside(HERE, b"/tmp", 0), "ok"),
    "mount_setattr": (inside(HERE, b"/tmp", 0, READ_ONLY, 32), "ok"),
    "unshare": (made(NEW_USER), "ok"),
    "setns": (namespace, "ok"),
    "sethostname": (inside(b"attempt", 7), "ok"),
    "setdomainname": (inside(b"attempt", 7), "ok"),
    "clone3": (clone3, "ok"),
    "add_key": (made(b"user", b"attempt", b"x", 1, -2), "ok"),
    "request_key": (key, "ok"),
    "keyctl": (made(0, -3, 0), "ok"),
    "bpf": (made(7, memory(struct.pack("QII", memory(b"/absent\0"), 0, 0)), 16), "ENOENT"),
    "perf_event_open": (event, "ok EACCES"),
    "userfaultfd": (made(1), "ok"),
    "io_uring_setup": (made(8, memory(bytes(128))), "ok"),
    "io_uring_enter": (made(-1, 0, 0, 0, 0, 0), "EBADF"),
    "io_uring_register": (made(-1, 0, 0, 0), "EBADF EINVAL"),
    "kexec_load": (made(0, 0, 0, 0), "capability"),
    "kexec_file_load": (made(-1, -1, 0, 0, 0), "capability"),
    "init_module": (made(0, 0, b""), "capability"),
    "finit_module": (made(-1, b"", 0), "capability"),
    "delete_module": (made(b"absent", 0), "capability"),
    "reboot": (inside(0, 0, 0, 0), "EINVAL"),
    "swapon": (made(b"/absent", 0x7FFFFFFF), "EINVAL"),
    "swapoff": (made(b"/absent"), "capability"),
    "acct": (made(b"/absent"), "capability"),
    "quotactl": (made(0xFFFFFFFF, 0, 0, 0), "EINVAL"),
    "quotactl_fd": (made(-1, 0, 0, 0), "EBADF"),
    "syslog": (made(10, 0, 0), "ok capability"),
    "vhangup": (made(), "capability"),
    "lookup_dcookie": (made(0, 0, 0), "absent capability"),
    "iopl": (made(0), "ok"),
    "ioperm": (made(128, 1, 0), "ok"),
    "open_by_handle_at": (handle, "ok capability"),
    "fanotify_init": (made(0x200, 0), "ok"),
    "file_setattr": (made(HERE, b"/absent", memory(bytes(24)), 24, 0), "ENOENT"),
    "process_vm_readv": (lambda: (ME(), vector(b"a"), 1, vector(b"b"), 1, 0), "ok"),
    "process_vm_writev": (lambda: (ME(), vector(b"a"), 1, vector(b"b"), 1, 0), "ok"),
    "pidfd_getfd": (pidfd, "ok"),
    "kcmp": (lambda: (ME(), ME(), 1, 0, 0), "ok"),
    "settimeofday": (made(memory(struct.pack("qq", 0, -1)), 0), "EINVAL"),
    "clock_settime": (made(1, memory(bytes(16))), "EINVAL"),
    "adjtimex": (made(memory(bytes(208))), "ok"),
    "clock_adjtime": (made(0, memory(bytes(208))), "ok"),
    "ptrace": (made(0, 0, 0, 0), "ok"),
    "mbind": (pages(4096, 0, 0, 0, 0), "ok"),
    "set_mempolicy": (made(0, 0, 0), "ok"),
    "get_mempolicy": (made(0, 0, 0, 0, 0), "ok"),
    "migrate_pages": (made(0, 0, 0, 0), "EINVAL"),
    "move_pages": (made(0, 0, 0, 0, 0, 0), "ok"),
    "set_mempolicy_home_node": (made(1, 1, 0, 0), "EINVAL"),
    "modify_ldt": (made(0, memory(bytes(16)), 16), "ok"),
    "remap_file_pages": (made(1, 1, 0, 0, 0), "EINVAL"),
    "vmsplice": (into_pipe, "ok"),
    "name_to_handle_at": (
        made(HERE, b"/", memory(struct.pack("Ii", 128, 0) + bytes(128)), memory(bytes(8)), 0),
        "ok ENOTSUP",
    ),
    "uselib": (made(b"/absent"), "ENOENT"),
    "ustat": (made(0xFFFF, memory(bytes(32))), "EINVAL"),
    "sysfs": (made(3), "ok"),
    "clone 0x40000000": (clone(0x40000000), "ok"),  # NEWNET
    "clone 0x20000000": (clone(NEW_PID), "ok"),  # NEWPID
    "clone 0x10000000": (clone(NEW_USER), "ok"),  # NEWUSER
    "clone 0x8000000": (clone(0x08000000), "ok"),  # NEWIPC
    "clone 0x4000000": (clone(NEW_UTS), "ok"),  # NEWUTS
    "clone 0x2000000": (clone(0x02000000), "ok"),  # NEWCGROUP
    "clone 0x20000": (clone(NEW_NS), "ok"),  # NEWNS
    "ioctl 0x5412": (terminal(0x5412, b"x"), "ok EIO"),  # TIOCSTI
    "ioctl 0x541c": (terminal(0x541C, b"\2"), "ENOTTY"),  # TIOCLINUX
    "ioctl 0x5423": (terminal(0x5423, struct.pack("i", 0)), "ok"),  # TIOCSETD
    "ioctl 0x40086602": (own_file(0x40086602, struct.pack("Q", 0)), "ok ENOTTY"),  # SETFLAGS
    "ioctl 0x401c5820": (own_file(0x401C5820, bytes(28)), "ok ENOTTY ENOTSUP"),  # FSSETXATTR
    "socket 0x28": (made(40, 1, 0), "ok"),  # AF_VSOCK
    "socket 0x26": (made(38, 5, 0), "ok"),  # AF_ALG
    "socket 0x11": (made(17, 3, 0), "EPERM"),  # AF_PACKET
    "socket 0x10": (made(16, 3, 0), "ok"),  # AF_NETLINK
    "socketpair 0x11": (made(17, 3, 0, memory(bytes(8))), "EPERM"),  # AF_PACKET
    "socketpair 0x26": (made(38, 5, 0, memory(bytes(8))), "ENOTSUP"),  # AF_ALG
    "socketpair 0x28": (made(40, 1, 0, memory(bytes(8))), "ENOTSUP"),  # AF_VSOCK
    "socketpair 0x10": (made(16, 3, 0, memory(bytes(8))), "ENOTSUP"),  # AF_NETLINK
    "personality 0x40000": (made(0x0040000), "ok"),  # ADDR_NO_RANDOMIZE
    "mknod 0x2000": (new_name(DEVICE, 0), "ok"),  # S_IFCHR
    "mknod 0x6000": (made(b"/tmp", BLOCK, 0), "EEXIST"),  # S_IFBLK
    "mknodat 0x2000": (at(new_name(DEVICE, 0)), "ok"),  # S_IFCHR
    "mknodat 0x6000": (made(HERE, b"/tmp", BLOCK, 0), "EEXIST"),  # S_IFBLK
}


def end(status):
    """As a child has ended."""
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def install(program):
    content = bytes.fromhex(program)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    form = struct.pack("HxxxxxxQ", len(content) // 8, memory(content))
    assert libc.prctl(22, 2, ctypes.c_long(memory(form)), 0, 0) == 0, "PR_SET_SECCOMP"


def attempt(rule, program):
    """In a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        me = 0
        try:
            arguments = ATTEMPTS[rule][0]()
            me = os.getpid()
            if program:
                install(program)
            result = raw(rule.split()[0], *arguments)
            if os.getpid() != me:
                os._exit(0)  # a process that the call has made
            outcome = "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
        except BaseException as error:
            outcome = "broken:" + repr(error).replace(" ", "_")
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as reader:
        said = reader.read()
    status = os.waitpid(child, 0)[1]
    return said or signal.Signals(os.WTERMSIG(status)).name


for rule in RULES["rules"]:
    name = rule["key"]
    if name not in ATTEMPTS:
        print(name, "none", "none", "none", sep="|")
        continue
    for way, program in rule["programs"].items():
        print(name, way, attempt(name, program), ATTEMPTS[name][1], sep="|", flush=True)
