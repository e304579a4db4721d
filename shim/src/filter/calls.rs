//! The system calls that a filter names, with their numbers on both architectures, so that the filters of both
//! are made and tested on either. It decides nothing about them.
#![allow(non_upper_case_globals, reason = "as the C library names them")]

/// One system call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// As in its man page: `mount`.
    pub name: &'static str,
    /// Its number on x86_64; `None` where it does not exist.
    pub x86_64: Option<u16>,
    /// Its number on aarch64.
    pub aarch64: Option<u16>,
}

impl Call {
    /// Its number there.
    pub const fn number(&self, arch: Arch) -> Option<u16> {
        match arch {
            Arch::X86_64 => self.x86_64,
            Arch::Aarch64 => self.aarch64,
        }
    }
}

/// What a program is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// AMD64; neither i386 nor x32.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
}

impl Arch {
    /// That of this build.
    #[cfg(target_arch = "x86_64")]
    pub const NATIVE: Arch = Arch::X86_64;
    /// That of this build.
    #[cfg(target_arch = "aarch64")]
    pub const NATIVE: Arch = Arch::Aarch64;

    /// Numbers that no kernel has below [`NEWEST`]: from the first to the last of each range.
    pub const fn unassigned(self) -> &'static [(u16, u16)] {
        match self {
            Arch::X86_64 => &[(337, 423)],
            Arch::Aarch64 => &[(244, 259), (295, 423)],
        }
    }

    /// As the kernel tells a filter, `AUDIT_ARCH_*`.
    pub const fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }
}

macro_rules! number {
    (-) => {
        None
    };
    ($number:literal) => {
        Some($number)
    };
}

/// A number that differs from the C library's does not compile.
macro_rules! compare {
    ($name:ident -) => {};
    ($name:ident $number:literal) => {
        const _: () = assert!(libc::$name == $number);
    };
}

macro_rules! calls {
    ($($name:ident $x86_64:tt $aarch64:tt;)*) => {
        $(
            #[allow(missing_docs, reason = "each is a man page")]
            pub const $name: Call = Call {
                name: stringify!($name).split_at("SYS_".len()).1,
                x86_64: number!($x86_64),
                aarch64: number!($aarch64),
            };
            #[cfg(target_arch = "x86_64")]
            compare!($name $x86_64);
            #[cfg(target_arch = "aarch64")]
            compare!($name $aarch64);
        )*
    };
}

/// The newest call whose verdict somebody has thought about: file_setattr(2), Linux 6.17.
pub const NEWEST: u16 = 469;

// The `libc` crate does not have these, or not on both architectures.

/// open_tree_attr(2), Linux 6.15.
pub const SYS_open_tree_attr: Call =
    Call { name: "open_tree_attr", x86_64: Some(467), aarch64: Some(467) };
/// file_setattr(2), Linux 6.17.
pub const SYS_file_setattr: Call =
    Call { name: "file_setattr", x86_64: Some(469), aarch64: Some(469) };
/// kexec_file_load(2).
pub const SYS_kexec_file_load: Call =
    Call { name: "kexec_file_load", x86_64: Some(320), aarch64: Some(294) };

// Name, x86_64, aarch64.
calls! {
    // Mounts.
    SYS_mount 165 40;
    SYS_umount2 166 39;
    SYS_pivot_root 155 41;
    SYS_chroot 161 51;
    SYS_open_tree 428 428;
    SYS_move_mount 429 429;
    SYS_fsopen 430 430;
    SYS_fsconfig 431 431;
    SYS_fsmount 432 432;
    SYS_fspick 433 433;
    SYS_mount_setattr 442 442;
    // Namespaces.
    SYS_unshare 272 97;
    SYS_setns 308 268;
    SYS_clone 56 220;
    SYS_clone3 435 435;
    SYS_sethostname 170 161;
    SYS_setdomainname 171 162;
    // Keys.
    SYS_add_key 248 217;
    SYS_request_key 249 218;
    SYS_keyctl 250 219;
    // The kernel as a whole.
    SYS_bpf 321 280;
    SYS_perf_event_open 298 241;
    SYS_userfaultfd 323 282;
    SYS_io_uring_setup 425 425;
    SYS_io_uring_enter 426 426;
    SYS_io_uring_register 427 427;
    SYS_kexec_load 246 104;
    SYS_init_module 175 105;
    SYS_finit_module 313 273;
    SYS_delete_module 176 106;
    SYS_reboot 169 142;
    SYS_swapon 167 224;
    SYS_swapoff 168 225;
    SYS_acct 163 89;
    SYS_quotactl 179 60;
    SYS_quotactl_fd 443 443;
    SYS_syslog 103 116;
    SYS_vhangup 153 58;
    SYS_lookup_dcookie 212 18;
    SYS_iopl 172 -;
    SYS_ioperm 173 -;
    SYS_uselib 134 -;
    SYS_ustat 136 -;
    SYS_sysfs 139 -;
    // Files.
    SYS_open_by_handle_at 304 265;
    SYS_name_to_handle_at 303 264;
    SYS_fanotify_init 300 262;
    SYS_mknod 133 -;
    SYS_mknodat 259 33;
    SYS_ioctl 16 29;
    // Other processes.
    SYS_process_vm_readv 310 270;
    SYS_process_vm_writev 311 271;
    SYS_pidfd_getfd 438 438;
    SYS_kcmp 312 272;
    SYS_ptrace 101 117;
    // Clocks.
    SYS_settimeofday 164 170;
    SYS_clock_settime 227 112;
    SYS_adjtimex 159 171;
    SYS_clock_adjtime 305 266;
    // Memory and CPUs.
    SYS_personality 135 92;
    SYS_modify_ldt 154 -;
    SYS_mbind 237 235;
    SYS_set_mempolicy 238 237;
    SYS_get_mempolicy 239 236;
    SYS_migrate_pages 256 238;
    SYS_move_pages 279 239;
    SYS_set_mempolicy_home_node 450 450;
    SYS_remap_file_pages 216 234;
    SYS_vmsplice 278 75;
    // Networks.
    SYS_socket 41 198;
    SYS_socketpair 53 199;
    // The shim's own.
    SYS_read 0 63;
    SYS_write 1 64;
    SYS_pread64 17 67;
    SYS_pwrite64 18 68;
    SYS_lseek 8 62;
    SYS_ftruncate 77 46;
    SYS_fdatasync 75 83;
    SYS_fstat 5 80;
    SYS_fstatfs 138 44;
    SYS_statx 332 291;
    SYS_close 3 57;
    SYS_fcntl 72 25;
    SYS_poll 7 -;
    SYS_ppoll 271 73;
    SYS_timerfd_settime 286 86;
    SYS_clock_gettime 228 113;
    SYS_accept4 288 242;
    SYS_getsockopt 55 209;
    SYS_sendto 44 206;
    SYS_recvfrom 45 207;
    SYS_pidfd_open 434 434;
    SYS_pidfd_send_signal 424 424;
    SYS_kill 62 129;
    SYS_wait4 61 260;
    SYS_waitid 247 95;
    SYS_brk 12 214;
    SYS_mmap 9 222;
    SYS_mprotect 10 226;
    SYS_mremap 25 216;
    SYS_munmap 11 215;
    SYS_madvise 28 233;
    SYS_getpid 39 172;
    SYS_gettid 186 178;
    SYS_tkill 200 130;
    SYS_tgkill 234 131;
    SYS_rt_sigprocmask 14 135;
    SYS_rt_sigaction 13 134;
    SYS_exit 60 93;
    SYS_exit_group 231 94;
    SYS_restart_syscall 219 128;
    SYS_sigaltstack 131 132;
}
