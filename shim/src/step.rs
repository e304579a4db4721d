//! The steps of a start, by the names that people read and the numbers that records hold.

use serde::{Deserialize, Serialize};

/// What a start can fail at, in about the order of the code; README.md has the exact one, and the
/// numbers stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is the name of a step in shim/README.md")]
pub enum Step {
    ReadLaunch = 1,
    OomScore = 2,
    OpenState = 3,
    OpenCgroup = 4,
    MakePipes = 5,
    EnterCgroup = 6,
    Keyring = 7,
    Session = 8,
    ResourceLimits = 9,
    Stdio = 10,
    Groups = 11,
    User = 12,
    Capabilities = 13,
    NoNewPrivileges = 14,
    Signals = 15,
    CloseDescriptors = 16,
    Chdir = 17,
    Verify = 18,
    Exec = 19,
    DropPrivileges = 20,
    Listen = 21,
    Abandoned = 22,
    CheckedProgram = 23,
    Seccomp = 24,
    Namespaces = 25,
    MountRoot = 26,
    MountTmp = 27,
    MountProc = 28,
    MountDev = 29,
    Bind = 30,
    PivotRoot = 31,
    Network = 32,
    Hostname = 33,
}

impl Step {
    /// As people and programs read it: `exec`, `chdir`, `enter_cgroup`.
    pub fn name(self) -> &'static str {
        match self {
            Step::ReadLaunch => "read_launch",
            Step::OomScore => "oom_score",
            Step::OpenState => "open_state",
            Step::OpenCgroup => "open_cgroup",
            Step::MakePipes => "make_pipes",
            Step::EnterCgroup => "enter_cgroup",
            Step::Keyring => "keyring",
            Step::Session => "session",
            Step::ResourceLimits => "resource_limits",
            Step::Stdio => "stdio",
            Step::Groups => "groups",
            Step::User => "user",
            Step::Capabilities => "capabilities",
            Step::NoNewPrivileges => "no_new_privileges",
            Step::Signals => "signals",
            Step::CloseDescriptors => "close_descriptors",
            Step::Chdir => "chdir",
            Step::Verify => "verify",
            Step::Exec => "exec",
            Step::DropPrivileges => "drop_privileges",
            Step::Listen => "listen",
            Step::Abandoned => "abandoned",
            Step::CheckedProgram => "checked_program",
            Step::Seccomp => "seccomp",
            Step::Namespaces => "namespaces",
            Step::MountRoot => "mount_root",
            Step::MountTmp => "mount_tmp",
            Step::MountProc => "mount_proc",
            Step::MountDev => "mount_dev",
            Step::Bind => "bind",
            Step::PivotRoot => "pivot_root",
            Step::Network => "network",
            Step::Hostname => "hostname",
        }
    }

    /// Back from the number that records hold.
    pub fn from_number(number: u8) -> Option<Step> {
        ALL_STEPS.into_iter().find(|step| *step as u8 == number)
    }
}

const ALL_STEPS: [Step; 33] = [
    Step::ReadLaunch,
    Step::OomScore,
    Step::OpenState,
    Step::OpenCgroup,
    Step::MakePipes,
    Step::EnterCgroup,
    Step::Keyring,
    Step::Session,
    Step::ResourceLimits,
    Step::Stdio,
    Step::Groups,
    Step::User,
    Step::Capabilities,
    Step::NoNewPrivileges,
    Step::Signals,
    Step::CloseDescriptors,
    Step::Chdir,
    Step::Verify,
    Step::Exec,
    Step::DropPrivileges,
    Step::Listen,
    Step::Abandoned,
    Step::CheckedProgram,
    Step::Seccomp,
    Step::Namespaces,
    Step::MountRoot,
    Step::MountTmp,
    Step::MountProc,
    Step::MountDev,
    Step::Bind,
    Step::PivotRoot,
    Step::Network,
    Step::Hostname,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_found_by_its_number() {
        assert!(ALL_STEPS.into_iter().all(|step| Step::from_number(step as u8) == Some(step)));
        assert_eq!(Step::from_number(0), None);
        assert_eq!(Step::from_number(ALL_STEPS.len() as u8 + 1), None);
    }
}
