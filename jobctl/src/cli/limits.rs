//! The limits of `run`, `start` and `update`, made into what the broker takes.

use std::time::Duration;

use clap::{Args, ValueEnum};
use job_api::units::{
    Cpus, MAX, or_max, parse_count, parse_cpus, parse_duration, parse_rate, parse_size,
};
use job_api::v1::{IoMax, Limits, Rlimit};

use super::options::{positive_duration, positive_size};
use crate::failure::{Failure, Result};
use crate::format::rlimit::{NAMES, Unit, rlimit_unit};

/// The heading of all limits in the help.
pub(crate) const LIMITS: &str = "Limits";

/// What can be given at the start, and changed later.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = LIMITS)]
pub(crate) struct LimitOptions {
    /// CPUs that it may keep busy, e.g. 2, 0.5, 500m
    #[arg(long, value_name = "CPUS", value_parser = parse_cpus)]
    cpus: Option<Cpus>,
    /// Its share when the CPUs are busy, 1 to 10000; others have 100
    #[arg(long, value_name = "N", value_parser = weight)]
    cpu_weight: Option<u64>,
    /// Memory, e.g. 256M; past it the job is killed
    #[arg(short, long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Memory past which it is slowed down and its memory reclaimed
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_high: Option<u64>,
    /// Swap beside its memory [default: 0, where memory is limited]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_swap: Option<u64>,
    /// Processes and threads at a time
    #[arg(long, value_name = "N", value_parser = count)]
    pids_limit: Option<u64>,
    /// Its share when disks are busy: low, medium, high (io.weight 20, 100, 500)
    #[arg(long, value_enum, value_name = "SHARE", hide_possible_values = true)]
    io: Option<Io>,
    /// Bytes per second read from a disk, e.g. 5M, /data:5M, 8:0:5M; may be repeated
    #[arg(long, value_name = "[DISK:]RATE", value_parser = bytes_on_disk)]
    device_read_bps: Vec<DiskRate>,
    /// Bytes per second written to a disk; may be repeated
    #[arg(long, value_name = "[DISK:]RATE", value_parser = bytes_on_disk)]
    device_write_bps: Vec<DiskRate>,
    /// Reads per second from a disk, e.g. 100, /data:100; may be repeated
    #[arg(long, value_name = "[DISK:]N", value_parser = operations_on_disk)]
    device_read_iops: Vec<DiskRate>,
    /// Writes per second to a disk; may be repeated
    #[arg(long, value_name = "[DISK:]N", value_parser = operations_on_disk)]
    device_write_iops: Vec<DiskRate>,
    /// End it after this much CPU time of all its processes together
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub(crate) cpu_time: Option<Duration>,
    /// Bytes of output to keep, e.g. 100M
    #[arg(long, value_name = "SIZE", value_parser = positive_size)]
    pub(crate) output_limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Io {
    Low,
    Medium,
    High,
}

impl Io {
    fn weight(self) -> u64 {
        match self {
            Io::Low => 20,
            Io::Medium => 100,
            Io::High => 500,
        }
    }
}

/// How a disk is named: the disk of the working directory, by a path on it, or by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Disk {
    OfWorkdir,
    Path(String),
    Number(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct DiskRate {
    disk: Disk,
    rate: u64,
}

impl LimitOptions {
    /// What is asked of the kernel.
    ///
    /// # Errors
    /// A rate that is given twice for one disk.
    pub(crate) fn limits(&self) -> Result<Limits> {
        Ok(Limits {
            cpu_max_quota_usec: self.cpus.map(|cpus| cpus.quota_usec),
            cpu_max_period_usec: self.cpus.map(|cpus| cpus.period_usec),
            cpu_weight: self.cpu_weight,
            memory_max_bytes: self.memory,
            memory_high_bytes: self.memory_high,
            memory_swap_max_bytes: self.memory_swap,
            pids_max: self.pids_limit,
            io_max: self.io_max()?,
            io_weight: self.io.map(Io::weight),
            rlimits: Vec::new(),
            job_dir_bytes: None,
        })
    }

    /// One entry for each disk, in the order in which they were first named.
    fn io_max(&self) -> Result<Vec<IoMax>> {
        type Slot = fn(&mut IoMax) -> &mut Option<u64>;
        let flags: [(&str, &[DiskRate], Slot); 4] = [
            ("--device-read-bps", &self.device_read_bps, |io| &mut io.rbps),
            ("--device-write-bps", &self.device_write_bps, |io| &mut io.wbps),
            ("--device-read-iops", &self.device_read_iops, |io| &mut io.riops),
            ("--device-write-iops", &self.device_write_iops, |io| &mut io.wiops),
        ];
        let mut entries: Vec<(&Disk, IoMax)> = Vec::new();
        for (flag, rates, slot) in flags {
            for DiskRate { disk, rate } in rates {
                let at = match entries.iter().position(|(known, _)| *known == disk) {
                    Some(at) => at,
                    None => {
                        entries.push((disk, on(disk)));
                        entries.len() - 1
                    }
                };
                if slot(&mut entries[at].1).replace(*rate).is_some() {
                    return Err(Failure::usage(format!("{flag} is given twice for {disk}")));
                }
            }
        }
        Ok(entries.into_iter().map(|(_, entry)| entry).collect())
    }
}

fn on(disk: &Disk) -> IoMax {
    match disk.clone() {
        Disk::OfWorkdir => IoMax::default(),
        Disk::Path(path) => IoMax { path, ..IoMax::default() },
        Disk::Number(device) => IoMax { device, ..IoMax::default() },
    }
}

impl std::fmt::Display for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Disk::OfWorkdir => "the disk of the working directory",
            Disk::Path(name) | Disk::Number(name) => name,
        })
    }
}

pub(crate) fn size(text: &str) -> std::result::Result<u64, String> {
    or_max(text, parse_size)
}

fn count(text: &str) -> std::result::Result<u64, String> {
    or_max(text, parse_count)
}

fn weight(text: &str) -> std::result::Result<u64, String> {
    match parse_count(text)? {
        weight @ 1..=10_000 => Ok(weight),
        _ => Err(format!("\"{text}\" is not from 1 to 10000")),
    }
}

fn bytes_on_disk(text: &str) -> std::result::Result<DiskRate, String> {
    disk_rate(text, parse_rate, "5M, /data:5M, 8:0:5M")
}

fn operations_on_disk(text: &str) -> std::result::Result<DiskRate, String> {
    disk_rate(text, parse_count, "100, /data:100, 8:0:100")
}

/// `RATE`, `/PATH:RATE` or `MAJOR:MINOR:RATE`.
fn disk_rate(
    text: &str,
    parse: fn(&str) -> std::result::Result<u64, String>,
    forms: &str,
) -> std::result::Result<DiskRate, String> {
    let (disk, rate) = match text.rsplit_once(':') {
        None => (Disk::OfWorkdir, text),
        Some((path, rate)) if path.starts_with('/') => (Disk::Path(path.into()), rate),
        Some((number, rate)) if is_device(number) => (Disk::Number(number.into()), rate),
        Some((other, _)) => {
            return Err(format!(
                "\"{other}\" is neither an absolute path nor MAJOR:MINOR; the forms are {forms}"
            ));
        }
    };
    match or_max(rate, parse) {
        Ok(0) => Err("a rate must be more than nothing".into()),
        Ok(rate) => Ok(DiskRate { disk, rate }),
        Err(_) => Err(format!("\"{rate}\" is not a rate; the forms are {forms}")),
    }
}

fn is_device(text: &str) -> bool {
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty();
    text.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
}

/// `nofile=1024`, `nofile=1024:4096`, `fsize=100M`, `core=unlimited`: soft and hard, as docker takes
/// them, with the units of the other options.
pub(crate) fn parse_ulimit(text: &str) -> std::result::Result<Rlimit, String> {
    let forms = "the form is NAME=SOFT[:HARD], e.g. nofile=1024, core=0, fsize=100M:1G";
    let (name, values) =
        text.split_once('=').ok_or_else(|| format!("\"{text}\" has no \"=\"; {forms}"))?;
    let unit = rlimit_unit(name).ok_or_else(|| {
        let names = NAMES.join(", ");
        format!("\"{name}\" is none of {names}")
    })?;
    let value = |text: &str| {
        rlimit_value(text, unit).map_err(|()| format!("\"{text}\" is no limit of {name}; {forms}"))
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (soft, hard) = (value(soft)?, value(hard)?);
    if soft > hard {
        return Err(format!("\"{values}\": the soft limit is above the hard one"));
    }
    Ok(Rlimit { name: name.to_owned(), soft, hard })
}

fn rlimit_value(text: &str, unit: Unit) -> std::result::Result<u64, ()> {
    if matches!(text, "unlimited" | "max") {
        return Ok(MAX);
    }
    match unit {
        Unit::Bytes => parse_size(text).map_err(drop),
        Unit::Number => parse_count(text).map_err(drop),
        Unit::Seconds => match parse_duration(text).map_err(drop)? {
            time if time.subsec_nanos() == 0 => Ok(time.as_secs()),
            _ => Err(()),
        },
    }
}

/// Refuses a name that is given twice.
pub(crate) fn rlimits(given: Vec<Rlimit>) -> Result<Vec<Rlimit>> {
    for (index, rlimit) in given.iter().enumerate() {
        if given[..index].iter().any(|earlier| earlier.name == rlimit.name) {
            return Err(Failure::usage(format!("--ulimit is given twice for {}", rlimit.name)));
        }
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        limits: LimitOptions,
    }

    fn options(words: &[&str]) -> LimitOptions {
        let words = ["x"].iter().chain(words);
        Line::try_parse_from(words).expect("parses").limits
    }

    fn refused(words: &[&str]) -> String {
        let words = ["x"].iter().chain(words);
        Line::try_parse_from(words).expect_err("is refused").to_string()
    }

    #[test]
    fn every_limit_has_its_field_in_the_kernels_terms() {
        let words = "--cpus 0.002 --cpu-weight 50 -m 256M --memory-high 200M --memory-swap 0 \
                     --pids-limit max --io low";
        let limits = options(&words.split_whitespace().collect::<Vec<_>>()).limits();
        let expected = Limits {
            cpu_max_quota_usec: Some(1_000),
            cpu_max_period_usec: Some(500_000),
            cpu_weight: Some(50),
            memory_max_bytes: Some(256 << 20),
            memory_high_bytes: Some(200 << 20),
            memory_swap_max_bytes: Some(0),
            pids_max: Some(MAX),
            io_weight: Some(20),
            ..Limits::default()
        };
        assert_eq!(limits.expect("no disk twice"), expected);
    }

    #[test]
    fn what_is_not_given_is_not_asked() {
        assert_eq!(options(&[]).limits().expect("nothing wrong"), Limits::default());
    }

    #[test]
    fn rates_of_one_disk_are_one_entry() {
        let words = "--device-read-bps /data:5M --device-write-bps /data:max \
                     --device-read-iops 100 --device-write-iops 8:0:7 --device-read-bps 8:0:1k";
        let limits = options(&words.split_whitespace().collect::<Vec<_>>()).limits();
        let data = IoMax {
            path: "/data".into(),
            rbps: Some(5 << 20),
            wbps: Some(MAX),
            ..IoMax::default()
        };
        let disk =
            IoMax { device: "8:0".into(), rbps: Some(1024), wiops: Some(7), ..IoMax::default() };
        let workdir = IoMax { riops: Some(100), ..IoMax::default() };
        assert_eq!(limits.expect("no disk twice").io_max, [data, disk, workdir]);
    }

    #[test]
    fn a_rate_that_is_given_twice_is_not_guessed_at() {
        let twice = options(&["--device-read-bps", "5M", "--device-read-bps", "6M"]);
        assert!(twice.limits().is_err());
        assert!(rlimits(vec![parse_ulimit("core=0").expect("parses"); 2]).is_err());
    }

    #[test]
    fn disks_are_named_by_path_or_number() {
        let disk = |text| bytes_on_disk(text).map(|rate| rate.disk);
        assert_eq!(disk("5M"), Ok(Disk::OfWorkdir));
        assert_eq!(disk("/a:b:5M/s"), Ok(Disk::Path("/a:b".into())));
        assert_eq!(disk("259:1:5M"), Ok(Disk::Number("259:1".into())));
        for bad in ["", "/data", "/data:", "data:5M", "8:5M", "8:x:5M", ":0:5M", "8:0:0", "0"] {
            assert!(disk(bad).is_err(), "{bad}");
        }
        assert!(operations_on_disk("5M").is_err());
    }

    #[test]
    fn wrong_values_are_told_the_form() {
        for (words, form) in [
            (["--cpus", "half"], "e.g. 0.5, 500m, 2"),
            (["--cpus", "0.0001"], "less than 0.001 CPUs"),
            (["--cpu-weight", "0"], "from 1 to 10000"),
            (["--memory", "lots"], "e.g. 4096, 64K"),
            (["--pids-limit", "1.5"], "e.g. 100"),
            (["--io", "best"], "low, medium, high"),
            (["--device-read-bps", "sda:5M"], "/data:5M, 8:0:5M"),
            (["--cpu-time", "0"], "longer than nothing"),
        ] {
            let text = refused(&words);
            assert!(text.contains(form), "{form} in {text}");
        }
    }

    #[test]
    fn ulimits_are_read_as_docker_writes_them() {
        let limit = |text: &str| parse_ulimit(text).map(|r| (r.name, r.soft, r.hard));
        let is = |name: &str, soft, hard| Ok((name.to_owned(), soft, hard));
        assert_eq!(limit("nofile=1024"), is("nofile", 1024, 1024));
        assert_eq!(limit("nofile=1024:4096"), is("nofile", 1024, 4096));
        assert_eq!(limit("fsize=1M:unlimited"), is("fsize", 1 << 20, MAX));
        assert_eq!(limit("cpu=1m"), is("cpu", 60, 60));
        for bad in ["", "nofile", "nofile=", "nofile=2:1", "nofile=1M", "rss=1", "cpu=500ms", "=1"]
        {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
