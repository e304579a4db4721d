//! What the two filters of jobs refuse, by name, and why. No numbers and no BPF.

use super::calls::*;
use super::tree::{Check, Group, Listed, Rules, Verdict};

/// Calls that a process without a capability has no use for, or that reach past its job.
const DEFAULT: &[Group] = &[
    // A mount may hide, uncover or make writable what the job's view was made of; in a user namespace anybody
    // may mount. These are both generations of the calls, and those that leave the view.
    Group {
        what: "mounts",
        calls: &[
            SYS_mount,
            SYS_umount2,
            SYS_pivot_root,
            SYS_chroot,
            SYS_open_tree,
            SYS_open_tree_attr,
            SYS_move_mount,
            SYS_fsopen,
            SYS_fsconfig,
            SYS_fsmount,
            SYS_fspick,
            SYS_mount_setattr,
        ],
        verdict: Verdict::Eperm,
    },
    // A user namespace gives all capabilities over what is made in it: most of the kernel's code that only root
    // could reach.
    Group {
        what: "namespaces",
        calls: &[SYS_unshare, SYS_setns, SYS_sethostname, SYS_setdomainname],
        verdict: Verdict::Eperm,
    },
    // Its flags are in memory, where a filter cannot look. libc falls back to clone(2).
    Group { what: "clone3", calls: &[SYS_clone3], verdict: Verdict::Enosys },
    // Keyrings of a uid are shared by all of its processes on the host, in every namespace.
    Group {
        what: "keys",
        calls: &[SYS_add_key, SYS_request_key, SYS_keyctl],
        verdict: Verdict::Eperm,
    },
    // io_uring opens files and sockets by requests that no filter sees.
    Group {
        what: "the kernel's own programs and rings",
        calls: &[
            SYS_bpf,
            SYS_perf_event_open,
            SYS_userfaultfd,
            SYS_io_uring_setup,
            SYS_io_uring_enter,
            SYS_io_uring_register,
        ],
        verdict: Verdict::Eperm,
    },
    Group {
        what: "the host as a whole",
        calls: &[
            SYS_kexec_load,
            SYS_kexec_file_load,
            SYS_init_module,
            SYS_finit_module,
            SYS_delete_module,
            SYS_reboot,
            SYS_swapon,
            SYS_swapoff,
            SYS_acct,
            SYS_quotactl,
            SYS_quotactl_fd,
            SYS_syslog,
            SYS_vhangup,
            SYS_lookup_dcookie,
            SYS_iopl,
            SYS_ioperm,
        ],
        verdict: Verdict::Eperm,
    },
    // They leave the view by an inode's number, and watch whole file systems.
    Group {
        what: "files without a path",
        calls: &[SYS_open_by_handle_at, SYS_fanotify_init],
        verdict: Verdict::Eperm,
    },
    // As SETFLAGS and FSSETXATTR below.
    Group { what: "projects of files", calls: &[SYS_file_setattr], verdict: Verdict::Eperm },
    Group {
        what: "memory and descriptors of other processes",
        calls: &[SYS_process_vm_readv, SYS_process_vm_writev, SYS_pidfd_getfd, SYS_kcmp],
        verdict: Verdict::Eperm,
    },
    Group {
        what: "clocks",
        calls: &[SYS_settimeofday, SYS_clock_settime, SYS_adjtimex, SYS_clock_adjtime],
        verdict: Verdict::Eperm,
    },
];

/// What untrusted programs are refused besides: little used, and each a part of the kernel with a history.
const STRICT: &[Group] = &[
    Group { what: "tracing", calls: &[SYS_ptrace], verdict: Verdict::Eperm },
    Group {
        what: "placement of memory",
        calls: &[
            SYS_mbind,
            SYS_set_mempolicy,
            SYS_get_mempolicy,
            SYS_migrate_pages,
            SYS_move_pages,
            SYS_set_mempolicy_home_node,
        ],
        verdict: Verdict::Eperm,
    },
    Group {
        what: "old and rare calls",
        calls: &[
            SYS_modify_ldt,
            SYS_remap_file_pages,
            SYS_vmsplice,
            SYS_name_to_handle_at,
            SYS_uselib,
            SYS_ustat,
            SYS_sysfs,
        ],
        verdict: Verdict::Eperm,
    },
];

/// All of the kernel's CLONE_NEW*, except CLONE_NEWTIME, which clone(2) has no room for.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// They put characters into the input of a terminal: of the shell that started the job, for one.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;
/// It loads a line discipline.
const TIOCSETD: u32 = 0x5423;
/// They take a file out of its project, and with it out of its directory's limit: FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR.
const SETFLAGS: u32 = 0x4008_6602;
const FSSETXATTR: u32 = 0x401c_5820;
const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const S_IFMT: u32 = 0o170_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
/// personality(2) that only asks, and the one that is in force anyway.
const ASK: u32 = 0xffff_ffff;
const PER_LINUX: u32 = 0;

const CLONE: Check = Check {
    call: SYS_clone,
    argument: 0,
    mask: NEW_NAMESPACES,
    values: &[0],
    listed: Listed::Allowed,
    errno: libc::EPERM as u16,
};
const IOCTL: Check = Check {
    call: SYS_ioctl,
    argument: 1,
    mask: u32::MAX,
    values: &[TIOCSTI, TIOCLINUX, SETFLAGS, FSSETXATTR],
    listed: Listed::Refused,
    errno: libc::EPERM as u16,
};
/// AF_VSOCK reaches the hypervisor from every network namespace, AF_ALG and many more a module of the kernel.
const SOCKET: Check = Check {
    call: SYS_socket,
    argument: 0,
    mask: u32::MAX,
    values: &[AF_UNIX, AF_INET, AF_INET6, AF_NETLINK],
    listed: Listed::Allowed,
    errno: libc::EAFNOSUPPORT as u16,
};

const DEFAULT_CHECKS: &[Check] = &[CLONE, IOCTL, SOCKET, Check { call: SYS_socketpair, ..SOCKET }];

const STRICT_SOCKET: Check = Check { values: &[AF_UNIX, AF_INET, AF_INET6], ..SOCKET };
const DEVICE_NODE: Check = Check {
    call: SYS_mknod,
    argument: 1,
    mask: S_IFMT,
    values: &[S_IFCHR, S_IFBLK],
    listed: Listed::Refused,
    errno: libc::EPERM as u16,
};

const STRICT_CHECKS: &[Check] = &[
    CLONE,
    Check { values: &[TIOCSTI, TIOCLINUX, TIOCSETD, SETFLAGS, FSSETXATTR], ..IOCTL },
    STRICT_SOCKET,
    Check { call: SYS_socketpair, ..STRICT_SOCKET },
    Check {
        call: SYS_personality,
        argument: 0,
        mask: u32::MAX,
        values: &[PER_LINUX, ASK],
        listed: Listed::Allowed,
        errno: libc::EPERM as u16,
    },
    DEVICE_NODE,
    Check { call: SYS_mknodat, argument: 2, ..DEVICE_NODE },
];

/// The filter of the profile `private`.
pub const DEFAULT_RULES: Rules = Rules {
    groups: &[DEFAULT],
    checks: DEFAULT_CHECKS,
    otherwise: Verdict::Allow,
    newer: Verdict::Enosys,
};

/// The filter of the profile `strict`.
pub const STRICT_RULES: Rules =
    Rules { groups: &[DEFAULT, STRICT], checks: STRICT_CHECKS, ..DEFAULT_RULES };
