//! Rates on disks, `io.max`: the rules and their ranges. Resolves no disk; `cgroup` does.

use job_grammar::echo::echo;
use job_grammar::units::MAX;
use serde::{Deserialize, Serialize};

/// Longest path, without its NUL: PATH_MAX of limits.h.
pub const MAX_PATH: usize = 4095;
/// Of 0 the kernel says ERANGE, of 1 EINVAL.
const LEAST_RATE: u64 = 2;

/// Rates on one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoRule {
    /// Which disk.
    pub disk: DiskName,
    /// In the order of [`Rate::ALL`], operations or bytes per second.
    pub rates: [Option<u64>; 4],
}

/// How a disk is named.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskName {
    /// The one that holds the job's working directory.
    #[default]
    WorkingDirectory,
    /// The one that holds this path.
    Path(String),
    /// `MAJOR:MINOR`.
    Device(String),
}

/// One of the four rates of `io.max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of io.max, in Rate::word")]
pub enum Rate {
    ReadBytes,
    WriteBytes,
    ReadOperations,
    WriteOperations,
}

impl Rate {
    /// In the order of the kernel's line.
    pub(crate) const ALL: [Rate; 4] =
        [Rate::ReadBytes, Rate::WriteBytes, Rate::ReadOperations, Rate::WriteOperations];

    /// The kernel takes 4294967295 operations for no limit: tg_set_limit().
    fn most(self) -> u64 {
        match self {
            Rate::ReadBytes | Rate::WriteBytes => 1 << 60,
            Rate::ReadOperations | Rate::WriteOperations => u64::from(u32::MAX) - 1,
        }
    }

    /// As `io.max` has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Rate::ReadBytes => "rbps",
            Rate::WriteBytes => "wbps",
            Rate::ReadOperations => "riops",
            Rate::WriteOperations => "wiops",
        }
    }
}

impl IoRule {
    pub(crate) fn complete(&mut self, rates: &[Option<u64>; 4]) {
        for (own, theirs) in self.rates.iter_mut().zip(rates) {
            *own = own.or(*theirs);
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.rates.iter().all(Option::is_none) {
            return Err("has an entry without a rate (rbps, wbps, riops, wiops)".into());
        }
        match &self.disk {
            DiskName::Path(path) if path.len() > MAX_PATH => {
                let length = path.len();
                return Err(format!(
                    "has a path of {length} bytes; at most {MAX_PATH} are allowed"
                ));
            }
            DiskName::Path(path) if !path.starts_with('/') || path.contains('\0') => {
                return Err(format!("{} is not an absolute path", echo(path)));
            }
            DiskName::Device(device) if !is_device(device) => {
                return Err(format!("{} is not MAJOR:MINOR, as in 8:0", echo(device)));
            }
            _ => {}
        }
        for (value, rate) in self.rates.iter().zip(Rate::ALL) {
            let most = rate.most();
            if let Some(value) = value.filter(|v| *v != MAX && !(LEAST_RATE..=most).contains(v)) {
                let word = rate.word();
                return Err(format!(
                    "{word} is {value}; it must be from {LEAST_RATE} to {most}, or {MAX} for no limit"
                ));
            }
        }
        Ok(())
    }
}

fn is_device(text: &str) -> bool {
    text.split_once(':').is_some_and(|(major, minor)| {
        [major, minor]
            .iter()
            .all(|n| n.bytes().all(|b| b.is_ascii_digit()) && n.parse::<u32>().is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(disk: DiskName, wbps: u64) -> IoRule {
        IoRule { disk, rates: [None, Some(wbps), None, None] }
    }

    #[test]
    fn a_rule_needs_a_disk_and_a_rate_that_the_kernel_takes() {
        assert_eq!(rule(DiskName::Device("8:0".into()), 2).check(), Ok(()));
        let bad = [
            rule(DiskName::WorkingDirectory, 1),
            rule(DiskName::Path("srv".into()), 5),
            rule(DiskName::Device("8".into()), 5),
            rule(DiskName::Device("8:-1".into()), 5),
            IoRule { rates: [None, None, Some(u64::from(u32::MAX)), None], ..IoRule::default() },
            IoRule::default(),
        ];
        for rule in bad {
            assert!(rule.check().is_err(), "{rule:?}");
        }
    }
}
