//! Steps 6 and 7: the child, from the clone to the exec.
//!
//! It reports over the pipe `fault`, which is close-on-exec: five bytes, a step's number and an
//! errno in little endian, say what failed; an end of file without them, after GO, says that
//! execve(2) has succeeded. So an exec that fails is never taken for a program that exits with
//! 127.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use job_shim::crash::{self, Point};
use job_shim::launch::{Launch, WORKLOAD_SCRIPT_FD};
use job_shim::search;
use job_shim::wire::{Failed, Step};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Pid, Uid, chdir, fchdir, geteuid, getresgid, getresuid, setgroups, setresgid, setresuid,
    setsid, setuid,
};

use super::cgroup::Cgroup;
use super::failure::{At, Failure};
use super::isolation::Isolator;
use super::pipes::Ends;
use super::privileges;
use super::rlimits::Rlimits;
use super::startup::{Checked, kill_for_memory_as_usual};
use crate::sys::{self, Cloned, Strings};

/// Where the child keeps its ends of the two pipes, until its exec.
const GO_FD: i32 = 3;
const FAULT_FD: i32 = 4;
/// The byte that says so.
pub(crate) const GO: u8 = 1;

/// The child's image, in the form that the kernel takes: after the clone nothing is allocated.
pub(crate) struct Workload {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    rlimits: Rlimits,
    isolation: Option<Isolator>,
    directory: CString,
    program: Program,
    argv: Strings,
    env: Strings,
}

/// What is executed.
enum Program {
    /// The first of these paths that can be.
    Search(Vec<CString>),
    /// Exactly this file.
    Checked(Checked),
}

/// The workload's main process.
pub(crate) struct Child {
    pub(crate) pid: Pid,
    /// The same as the host counts, whose pid namespace may be another.
    pub(crate) host_pid: Pid,
    /// Readable once it has ended.
    pub(crate) pidfd: OwnedFd,
}

impl Workload {
    /// Prepares a launch. A checked program is executed as it is, and none is searched.
    ///
    /// # Errors
    /// `ReadLaunch` with EINVAL for an empty argv and for NUL bytes; `ResourceLimits`.
    pub(crate) fn new(
        launch: &Launch,
        checked: Option<Checked>,
        isolation: Option<Isolator>,
    ) -> Result<Workload, Failure> {
        let invalid = Failure { step: Step::ReadLaunch, errno: Errno::EINVAL };
        let c_string = |bytes: &[u8]| CString::new(bytes).map_err(|_| invalid);
        let c_strings =
            |all: &[Vec<u8>]| all.iter().map(|s| c_string(s)).collect::<Result<Vec<_>, _>>();
        let name = launch.argv.first().ok_or(invalid)?;
        let search = || -> Result<Vec<CString>, Failure> {
            search::candidates(name, &launch.env).map(|path| c_string(&path)).collect()
        };
        Ok(Workload {
            uid: Uid::from_raw(launch.uid),
            gid: Gid::from_raw(launch.gid),
            groups: launch.groups.iter().copied().map(Gid::from_raw).collect(),
            rlimits: Rlimits::new(&launch.rlimits).at(Step::ResourceLimits)?,
            isolation,
            directory: c_string(&launch.working_directory)?,
            program: match checked {
                Some(checked) => Program::Checked(checked),
                None => Program::Search(search()?),
            },
            argv: c_strings(&launch.argv)?.into(),
            env: c_strings(&launch.env)?.into(),
        })
    }

    /// clone3(2) into the cgroup. The child prepares itself and waits for GO.
    ///
    /// # Errors
    /// `EnterCgroup`, with what [`sys::clone_into_cgroup`] says.
    pub(crate) fn clone_into(&self, work: BorrowedFd<'_>, ends: &Ends) -> Result<Child, Failure> {
        match sys::clone_into_cgroup(work).at(Step::EnterCgroup)? {
            Cloned::Parent(pid, pidfd) => {
                let elsewhere = self.isolation.as_ref().is_some_and(Isolator::has_own_pids);
                let host_pid = if elsewhere { host_pid(&pidfd).unwrap_or(pid) } else { pid };
                Ok(Child { pid, host_pid, pidfd })
            }
            Cloned::Child => self.run(ends),
        }
    }

    fn run(&self, ends: &Ends) -> ! {
        let Err(failure) = self.become_workload(ends);
        let mut report = [failure.step as u8, 0, 0, 0, 0];
        report[1..].copy_from_slice(&(failure.errno as i32).to_le_bytes());
        sys::write(FAULT_FD, &report);
        sys::exit_now(127)
    }

    /// Step 7. The order matters: what needs root comes before the change of user, and the
    /// working directory after it, since root may enter where the user may not.
    fn become_workload(&self, ends: &Ends) -> Result<Infallible, Failure> {
        sys::place(ends.fault.as_fd(), FAULT_FD, libc::O_CLOEXEC).at(Step::CloseDescriptors)?;
        sys::place(ends.go.as_fd(), GO_FD, libc::O_CLOEXEC).at(Step::CloseDescriptors)?;
        kill_for_memory_as_usual()?;
        own_keyring()?;
        setsid().at(Step::Session)?;
        umask(Mode::from_bits_truncate(0o022));
        if let Some(isolation) = &self.isolation {
            isolation.enter()?; // the directories that it makes are for the workload
        }
        for (fd, end) in (0..).zip(&ends.stdio) {
            sys::place(end.as_fd(), fd, 0).at(Step::Stdio)?;
        }
        let first_free = self.place_program()?;
        // After the streams, which need their numbers, and as root, who may raise them.
        self.rlimits.apply().at(Step::ResourceLimits)?;
        self.become_user()?;
        crash::at(Point::UserChanged);
        // Their dispositions are the defaults since the shim's startup, which this was cloned from.
        SigSet::empty().thread_set_mask().at(Step::Signals)?;
        sys::close_from(first_free).at(Step::CloseDescriptors)?;
        self.enter_directory().at(Step::Chdir)?;
        self.verify()?;
        if let Some(isolation) = &self.isolation {
            isolation.filter()?;
        }
        wait_for_go();
        Err(Failure { step: Step::Exec, errno: self.exec() })
    }

    /// The directory of a checked program was resolved by the broker: a symbolic link by now is another one, ELOOP.
    fn enter_directory(&self) -> nix::Result<()> {
        match self.program {
            Program::Search(_) => chdir(self.directory.as_c_str()),
            Program::Checked(_) => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
                fchdir(openat2(AT_FDCWD, self.directory.as_c_str(), how)?)
            }
        }
    }

    /// Gives a checked program and its script their numbers. Returns the first number that is to be closed.
    fn place_program(&self) -> Result<i32, Failure> {
        let Program::Checked(checked) = &self.program else { return Ok(FAULT_FD + 1) };
        if let Some(script) = &checked.script {
            sys::place(script.as_fd(), WORKLOAD_SCRIPT_FD, 0).at(Step::CheckedProgram)?;
        }
        // Close-on-exec: no script, and nothing of binfmt_misc, takes the place of what was checked.
        let (program, number) = (checked.program.as_fd(), checked.number());
        sys::place(program, number, libc::O_CLOEXEC).at(Step::CheckedProgram)?;
        Ok(number + 1)
    }

    fn become_user(&self) -> Result<(), Failure> {
        if geteuid().is_root() {
            setgroups(&self.groups).at(Step::Groups)?; // who is not keeps its own, which are these
        }
        setresgid(self.gid, self.gid, self.gid).at(Step::Groups)?;
        setresuid(self.uid, self.uid, self.uid).at(Step::User)?;
        privileges::clear_inheritable_and_ambient().at(Step::Capabilities)?;
        nix::sys::prctl::set_no_new_privs().at(Step::NoNewPrivileges)
    }

    /// Looks at the result instead of trusting the calls: securebits, a namespace or a security
    /// module can make them mean something else.
    fn verify(&self) -> Result<(), Failure> {
        let uids = getresuid().at(Step::Verify)?;
        let gids = getresgid().at(Step::Verify)?;
        let one_user = [uids.real, uids.effective, uids.saved].iter().all(|uid| *uid == self.uid);
        let one_group = [gids.real, gids.effective, gids.saved].iter().all(|gid| *gid == self.gid);
        let no_way_back = setuid(Uid::from_raw(0)).is_err();
        if one_user && !self.uid.is_root() && one_group && no_way_back && privileges::has_nothing()
        {
            return Ok(());
        }
        Err(Failure { step: Step::Verify, errno: Errno::EPERM })
    }

    fn exec(&self) -> Errno {
        match &self.program {
            Program::Search(candidates) => self.exec_first_of(candidates),
            Program::Checked(checked) => {
                sys::exec_descriptor(checked.number(), &self.argv, &self.env)
            }
        }
    }

    /// Tries all candidates as execvp(3) does, but never hands a file to a shell. An EACCES is
    /// the answer if nothing better comes.
    fn exec_first_of(&self, candidates: &[CString]) -> Errno {
        let mut answer = Errno::ENOENT;
        for path in candidates {
            match sys::exec(path, &self.argv, &self.env) {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => answer = Errno::EACCES,
                other => return other,
            }
        }
        answer
    }
}

impl Checked {
    /// Its number in the child: behind its script's.
    fn number(&self) -> i32 {
        WORKLOAD_SCRIPT_FD + i32::from(self.script.is_some())
    }
}

impl Child {
    /// Ends a child that has not been told to run, and takes its place in the cgroup away.
    pub(crate) fn abandon(self, cgroup: &Cgroup) {
        cgroup.kill();
        let _ = sys::wait(self.pid, true);
    }
}

/// A process's number in the host's `/proc`, proc_pid_fdinfo(5); `None` where it has been reaped.
fn host_pid(pidfd: &OwnedFd) -> Option<Pid> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    (pid > 0).then_some(Pid::from_raw(pid))
}

/// What a child has written to its pipe `fault`; `None` if it says nothing.
pub(crate) fn fault(report: &[u8]) -> Option<Failed> {
    let (step, errno) = report.split_first()?;
    let errno = i32::from_le_bytes(errno.try_into().ok()?);
    Some(Failed { step: Step::from_number(*step)?, errno })
}

/// ENOSYS: no keyrings here. EPERM: a container's seccomp filter forbids keyctl(2), to the
/// workload too, which inherits the filter.
fn own_keyring() -> Result<(), Failure> {
    match sys::join_new_session_keyring() {
        Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        result => result.at(Step::Keyring),
    }
}

/// Blocks until the shim says so; without a shim, or without its word, nothing is run.
fn wait_for_go() {
    if sys::read_byte(GO_FD) != Some(GO) {
        sys::exit_now(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_whole_or_not_at_all() {
        let failed = Failed { step: Step::Exec, errno: 2 };
        assert_eq!(fault(&[Step::Exec as u8, 2, 0, 0, 0]), Some(failed));
        assert_eq!(fault(&[Step::Exec as u8, 2]), None);
        assert_eq!(fault(&[]), None);
    }
}
