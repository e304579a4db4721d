//! Limits as the kernel keeps them: what is written where, read back and compared; and what binds
//! in the end. Sources: cgroup-v2.rst; what a kernel takes without a word and does not keep
//! (`0x10`, too large numbers) is why every value is read back.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::cgroup::{JobCgroup, Leaf};
use super::disk::{self, Weigher};
use super::tree::Tree;
use crate::host;
use crate::limits::{CPU_PERIOD, DiskName, Knob, Limits, MAX, Rate};

/// A file of a cgroup that holds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitFile {
    /// Its name, which is the limit's as well.
    pub name: &'static str,
    controller: &'static str,
    leaf: Leaf,
    kind: Kind,
    /// Whether the same limit of a cgroup above binds, too. Weights do not: they divide.
    inherited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bandwidth,
    Number,
    /// Bytes, which the kernel rounds down to pages.
    Bytes,
    Weight,
    /// A line for each device.
    Rates,
}

/// Memory and disks are limited for shim and workload together, since the page cache of the logs
/// is the job's. CPU and processes are limited for the workload alone: a shim that waits for a tiny
/// quota would be late with stops and deadlines, and a user who asks for 10 processes means 10.
const FILES: [LimitFile; 9] = {
    const fn file(
        name: &'static str,
        controller: &'static str,
        leaf: Leaf,
        kind: Kind,
        inherited: bool,
    ) -> LimitFile {
        LimitFile { name, controller, leaf, kind, inherited }
    }
    [
        file("cpu.max", "cpu", Leaf::Work, Kind::Bandwidth, true),
        file("cpu.weight", "cpu", Leaf::Job, Kind::Weight, false),
        file("memory.max", "memory", Leaf::Job, Kind::Bytes, true),
        file("memory.high", "memory", Leaf::Job, Kind::Bytes, true),
        file("memory.swap.max", "memory", Leaf::Job, Kind::Bytes, true),
        file("pids.max", "pids", Leaf::Work, Kind::Number, true),
        file("io.weight", "io", Leaf::Job, Kind::Weight, false),
        file("io.bfq.weight", "io", Leaf::Job, Kind::Weight, false),
        file("io.max", "io", Leaf::Job, Kind::Rates, true),
    ]
};

const IO_WEIGHT: LimitFile = FILES[6];
const BFQ_WEIGHT: LimitFile = FILES[7];
const IO_MAX: LimitFile = FILES[8];
/// BFQ's weights end here.
const MOST_BFQ_WEIGHT: u64 = 1_000;

/// A limit's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// [`MAX`] is "max".
    Number(u64),
    /// Quota and period.
    Bandwidth(u64, u64),
    /// In the order of [`Rate::ALL`].
    Rates([u64; 4]),
}

/// One value for one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    file: LimitFile,
    /// `MAJOR:MINOR`, for rates.
    device: Option<String>,
    value: Value,
}

/// All that is to be written for one job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    settings: Vec<Setting>,
}

/// The disks that a job's limits speak of, as they were found when it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Found {
    /// For each rule the devices, `MAJOR:MINOR`.
    pub devices: Vec<Vec<String>>,
    /// Who divides the disk of the working directory by weight.
    pub weigher: Option<Weigher>,
}

/// A limit that this host cannot enforce; the job that asks for it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{limit} cannot be enforced here: {reason}")]
pub struct Unenforceable {
    /// `memory.max`, ...
    pub limit: &'static str,
    /// Which controller would.
    pub controller: &'static str,
    /// For the user.
    pub reason: String,
}

/// A limit that the kernel did not take.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// write(2) or read(2).
    #[error("cannot set {limit} to {value:?}: {source}")]
    Io {
        /// `memory.max`, ...
        limit: &'static str,
        /// As written.
        value: String,
        /// Why.
        source: io::Error,
    },
    /// It says something else than it was told.
    #[error("{limit} was set to {asked:?}, and the kernel made it {applied:?}")]
    Differs {
        /// `memory.max`, ...
        limit: &'static str,
        /// As written.
        asked: String,
        /// As read back.
        applied: String,
    },
}

/// A limit as it stands in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// `memory.max`; `io.max 8:0`.
    pub name: String,
    /// In the job's own cgroup.
    pub applied: Value,
    /// The tightest on the way up.
    pub effective: Value,
    /// The cgroup above the job's that is tighter.
    pub bound_by: Option<String>,
}

impl Found {
    /// Looks for the disks of these limits. Paths are looked up as the calling thread's file
    /// system user.
    ///
    /// # Errors
    /// [`Unenforceable`].
    pub fn find(limits: &Limits, tree: &Tree, directory: &str) -> Result<Found, Unenforceable> {
        let mut found = Found::default();
        let host = disk::Live;
        let working = || disk::of_path(&host, Path::new(directory));
        for rule in &limits.io {
            IO_MAX.check(tree)?;
            let disks = match &rule.disk {
                DiskName::WorkingDirectory => working(),
                DiskName::Path(path) => disk::of_path(&host, Path::new(path)),
                DiskName::Device(number) => disk::of_number(&host, number),
            };
            let disks = disks.map_err(|e| IO_MAX.unenforceable(e.to_string()))?;
            found.devices.push(disks.devices.iter().map(ToString::to_string).collect());
        }
        if let Some(weight) = limits.knob(Knob::IoWeight) {
            if tree.missing("io").is_none() && !tree.has_file(BFQ_WEIGHT.name) {
                IO_WEIGHT.check(tree)?;
            }
            let disks = working().map_err(|e| IO_WEIGHT.unenforceable(e.to_string()))?;
            found.weigher = disk::weighs(&host, &disks, &tree.io_cost_qos());
            found.check_weigher(weight, &disks.devices)?;
        }
        Ok(found)
    }

    fn check_weigher(&self, weight: u64, devices: &[disk::Device]) -> Result<(), Unenforceable> {
        let name = devices.last().map_or("", |device| &device.name);
        let reason = match self.weigher {
            None => format!(
                "the disk {name} does not divide by weight (its scheduler is not bfq, and io.cost \
                 is not enabled for it)"
            ),
            Some(Weigher::Bfq) if weight > MOST_BFQ_WEIGHT => {
                format!(
                    "weights on the disk {name} end at {MOST_BFQ_WEIGHT} (its scheduler is bfq)"
                )
            }
            _ => return Ok(()),
        };
        Err(IO_WEIGHT.unenforceable(reason))
    }
}

impl Plan {
    /// What to write for these limits on these disks.
    pub fn new(limits: &Limits, found: &Found) -> Plan {
        let mut plan = Plan::default();
        for file in FILES {
            if let Some(value) = wanted(limits, found, &file) {
                plan.settings.push(Setting { file, device: None, value });
            }
        }
        for (rule, devices) in limits.io.iter().zip(&found.devices) {
            devices.iter().for_each(|device| plan.limit_rates(device, &rule.rates));
        }
        plan
    }

    /// Of two rules that come to the same disk the later one counts, rate by rate.
    fn limit_rates(&mut self, device: &str, rates: &[Option<u64>; 4]) {
        let known = self.settings.iter_mut().find(|s| s.device.as_deref() == Some(device));
        let old = match &known {
            Some(Setting { value: Value::Rates(old), .. }) => *old,
            _ => [MAX; 4],
        };
        let value = Value::Rates(std::array::from_fn(|n| rates[n].unwrap_or(old[n])));
        match known {
            Some(setting) => setting.value = value,
            None => {
                let device = Some(device.to_owned());
                self.settings.push(Setting { file: IO_MAX, device, value });
            }
        }
    }

    /// Whether this host can enforce all of it.
    ///
    /// # Errors
    /// [`Unenforceable`].
    pub fn check(&self, tree: &Tree) -> Result<(), Unenforceable> {
        let written = self.settings.iter().filter(|setting| !setting.is_void(tree));
        written.into_iter().try_for_each(|setting| setting.file.check(tree))
    }

    /// Names and values, as they are asked of the kernel.
    pub fn requested(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.settings.iter().map(|setting| {
            (setting.file.shown(setting.device.as_deref()), setting.value.to_string())
        })
    }

    /// Writes all of it, reads it back and compares.
    ///
    /// # Errors
    /// [`LimitError`], at the first that is not as it was told to be.
    pub fn apply(&self, tree: &Tree, cgroup: &JobCgroup) -> Result<(), LimitError> {
        let written = self.settings.iter().filter(|setting| !setting.is_void(tree));
        written.into_iter().try_for_each(|setting| setting.apply(cgroup))
    }

    /// As [`Plan::apply`], for a job that runs under `old`: what does not change is not touched,
    /// and what `old` had and this has not goes back to the kernel's default.
    ///
    /// # Errors
    /// [`LimitError`]; some may be written by then.
    pub fn replace(&self, old: &Plan, tree: &Tree, cgroup: &JobCgroup) -> Result<(), LimitError> {
        let gone = old.settings.iter().filter(|old| !self.has(old)).map(Setting::unlimited);
        let new = self.settings.iter().filter(|new| !old.settings.contains(new)).cloned();
        Plan { settings: gone.chain(new).collect() }.apply(tree, cgroup)
    }

    fn has(&self, other: &Setting) -> bool {
        self.settings.iter().any(|own| own.file == other.file && own.device == other.device)
    }

    /// What `memory.max` will be, if it is limited.
    pub fn memory_max(&self) -> Option<u64> {
        self.settings.iter().find_map(|setting| match (setting.file.name, setting.value) {
            ("memory.max", Value::Number(bytes)) if bytes != MAX => Some(bytes),
            _ => None,
        })
    }
}

/// What the limits say about a file; rates are told by disk.
fn wanted(limits: &Limits, found: &Found, file: &LimitFile) -> Option<Value> {
    let knob = match file.name {
        "cpu.max" => {
            let (quota, period) = limits.cpu_max()?;
            return Some(Value::Bandwidth(quota, period));
        }
        "cpu.weight" => Knob::CpuWeight,
        "memory.max" => Knob::MemoryMax,
        "memory.high" => Knob::MemoryHigh,
        "memory.swap.max" => Knob::MemorySwapMax,
        "pids.max" => Knob::PidsMax,
        "io.weight" if found.weigher == Some(Weigher::Cost) => Knob::IoWeight,
        "io.bfq.weight" if found.weigher == Some(Weigher::Bfq) => Knob::IoWeight,
        _ => return None,
    };
    let value = limits.knob(knob)?;
    Some(Value::Number(if file.kind == Kind::Bytes { whole_pages(value) } else { value }))
}

/// The kernel keeps memory limits in pages: page_counter_memparse().
fn whole_pages(bytes: u64) -> u64 {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    let page = page.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096);
    if bytes == MAX { MAX } else { bytes / page * page }
}

impl LimitFile {
    fn check(&self, tree: &Tree) -> Result<(), Unenforceable> {
        if let Some(reason) = tree.missing(self.controller) {
            return Err(self.unenforceable(format!(
                "the controller {} is missing: {reason}",
                self.controller
            )));
        }
        if tree.has_file(self.name) {
            return Ok(());
        }
        let reason = match self.name {
            "io.weight" => "this kernel divides disks by weight neither with io.cost nor with BFQ",
            "memory.swap.max" => "this kernel does not account for swap",
            _ => "this kernel has no such file",
        };
        Err(self.unenforceable(reason.into()))
    }

    fn unenforceable(&self, reason: String) -> Unenforceable {
        Unenforceable { limit: self.name, controller: self.controller, reason }
    }

    /// `memory.max`, `io.max 8:0`.
    fn shown(&self, device: Option<&str>) -> String {
        device.map_or_else(|| self.name.into(), |device| format!("{} {device}", self.name))
    }

    fn read(&self, directory: &Path, device: Option<&str>) -> io::Result<Value> {
        let text = fs::read_to_string(directory.join(self.name))?;
        self.parse(&text, device).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text:?}", self.name))
        })
    }

    fn parse(&self, text: &str, device: Option<&str>) -> Option<Value> {
        match self.kind {
            Kind::Number | Kind::Bytes => number(text.trim()).map(Value::Number),
            Kind::Bandwidth => {
                let (quota, period) = text.trim().split_once(' ')?;
                Some(Value::Bandwidth(number(quota)?, number(period)?))
            }
            // `default 100`, and lines for single devices, which nobody here writes.
            Kind::Weight => number(text.lines().next()?.split(' ').next_back()?).map(Value::Number),
            Kind::Rates => Some(Value::Rates(rates(text, device?))),
        }
    }
}

/// A number of the kernel's, in decimal, or its word for none.
fn number(text: &str) -> Option<u64> {
    if text == "max" { Some(MAX) } else { text.parse().ok() }
}

/// The rates of one device in `io.max`; one that has no line has no limit.
fn rates(text: &str, device: &str) -> [u64; 4] {
    let line = text.lines().find_map(|line| line.strip_prefix(device)?.strip_prefix(' '));
    Rate::ALL.map(|rate| {
        let of = |word: &str| number(word.strip_prefix(rate.word())?.strip_prefix('=')?);
        line.into_iter().flat_map(|line| line.split(' ')).find_map(of).unwrap_or(MAX)
    })
}

impl Setting {
    /// No swap, on a host that has none and keeps no account of it.
    fn is_void(&self, tree: &Tree) -> bool {
        self.file.name == "memory.swap.max"
            && self.value == Value::Number(0)
            && !tree.has_file(self.file.name)
            && !host::has_swap()
    }

    fn apply(&self, cgroup: &JobCgroup) -> Result<(), LimitError> {
        let (limit, directory) = (self.file.name, cgroup.leaf(self.file.leaf));
        let text = match &self.device {
            Some(device) => format!("{device} {}", self.value),
            None => self.value.to_string(),
        };
        let io = |source| LimitError::Io { limit, value: text.clone(), source };
        fs::write(directory.join(limit), &text).map_err(io)?;
        let applied = self.file.read(directory.as_path(), self.device.as_deref()).map_err(io)?;
        if applied != self.value {
            let (asked, applied) = (self.value.to_string(), applied.to_string());
            return Err(LimitError::Differs { limit, asked, applied });
        }
        Ok(())
    }

    fn unlimited(&self) -> Setting {
        let value = match self.value {
            Value::Bandwidth(..) => Value::Bandwidth(MAX, CPU_PERIOD),
            Value::Rates(_) => Value::Rates([MAX; 4]),
            Value::Number(_) if self.file.kind == Kind::Weight => Value::Number(100),
            Value::Number(_) => Value::Number(MAX),
        };
        Setting { value, ..self.clone() }
    }
}

impl Value {
    /// The tighter of two of a kind.
    fn tighter(self, other: Value) -> Value {
        match (self, other) {
            (Value::Number(a), Value::Number(b)) => Value::Number(a.min(b)),
            (Value::Bandwidth(quota, period), Value::Bandwidth(other_quota, other_period)) => {
                // Compared as rates: the numbers alone say nothing.
                let own = u128::from(quota) * u128::from(other_period);
                let theirs = u128::from(other_quota) * u128::from(period);
                let other_binds = other_quota != MAX && (quota == MAX || theirs < own);
                if other_binds { other } else { self }
            }
            (Value::Rates(a), Value::Rates(b)) => {
                Value::Rates(std::array::from_fn(|n| a[n].min(b[n])))
            }
            _ => self,
        }
    }
}

impl fmt::Display for Value {
    /// As the kernel reads and writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |value: u64| if value == MAX { "max".to_owned() } else { value.to_string() };
        match self {
            Value::Number(value) => f.write_str(&word(*value)),
            Value::Bandwidth(quota, period) => write!(f, "{} {period}", word(*quota)),
            Value::Rates(rates) => {
                let all = rates.iter().zip(Rate::ALL);
                let all = all.map(|(value, rate)| format!("{}={}", rate.word(), word(*value)));
                f.write_str(&all.collect::<Vec<_>>().join(" "))
            }
        }
    }
}

/// What the kernel keeps for a job now; a file that this kernel has not, or a job that is gone,
/// has no line.
pub fn readings(tree: &Tree, cgroup: &JobCgroup) -> Vec<Reading> {
    let mut all = Vec::new();
    for file in FILES.iter().filter(|file| tree.has_file(file.name)) {
        if file.kind != Kind::Rates {
            all.extend(reading(tree, cgroup, file, None));
            continue;
        }
        for device in limited_devices(tree, cgroup) {
            all.extend(reading(tree, cgroup, file, Some(&device)));
        }
    }
    all
}

fn reading(
    tree: &Tree,
    cgroup: &JobCgroup,
    file: &LimitFile,
    device: Option<&str>,
) -> Option<Reading> {
    let applied = file.read(&cgroup.leaf(file.leaf), device).ok()?;
    let (mut effective, mut bound_by) = (applied, None);
    // Between the leaf and the tree there is the job's own directory, which has no limits of this
    // kind; it is read like the others.
    let above = (file.leaf == Leaf::Work).then(|| cgroup.leaf(Leaf::Job));
    for directory in above.into_iter().chain(tree.lineage()).filter(|_| file.inherited) {
        let Ok(value) = file.read(&directory, device) else { continue };
        let tighter = effective.tighter(value);
        if tighter != effective {
            (effective, bound_by) = (tighter, Some(tree.shown(&directory)));
        }
    }
    Some(Reading { name: file.shown(device), applied, effective, bound_by })
}

/// The devices with a line in `io.max` of the job or of a cgroup above it.
fn limited_devices(tree: &Tree, cgroup: &JobCgroup) -> Vec<String> {
    let mut devices = Vec::new();
    for directory in std::iter::once(cgroup.leaf(Leaf::Job)).chain(tree.lineage()) {
        let text = fs::read_to_string(directory.join(IO_MAX.name)).unwrap_or_default();
        devices.extend(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned));
    }
    devices.sort();
    devices.dedup();
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> LimitFile {
        *FILES.iter().find(|file| file.name == name).unwrap()
    }

    #[test]
    fn values_are_read_as_the_kernel_writes_them() {
        let cases = [
            ("cpu.max", "20000 100000\n", Value::Bandwidth(20_000, 100_000)),
            ("cpu.max", "max 100000\n", Value::Bandwidth(MAX, 100_000)),
            ("memory.max", "max\n", Value::Number(MAX)),
            ("pids.max", "10\n", Value::Number(10)),
            ("io.weight", "default 100\n8:0 200\n", Value::Number(100)),
            ("cpu.weight", "39\n", Value::Number(39)),
        ];
        for (name, text, value) in cases {
            assert_eq!(file(name).parse(text, None), Some(value), "{name}: {text:?}");
        }
        assert_eq!(file("pids.max").parse("0x10\n", None), None);
    }

    #[test]
    fn a_device_without_a_line_has_no_limit() {
        let text =
            "98:16 rbps=max wbps=5000000 riops=max wiops=max\n8:0 rbps=1 wbps=2 riops=3 wiops=4\n";
        let of = |device| IO_MAX.parse(text, Some(device));
        assert_eq!(of("98:16"), Some(Value::Rates([MAX, 5_000_000, MAX, MAX])));
        assert_eq!(of("8:0"), Some(Value::Rates([1, 2, 3, 4])));
        assert_eq!(of("8:1"), Some(Value::Rates([MAX; 4])));
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for value in [Value::Number(MAX), Value::Number(7)] {
            assert_eq!(file("memory.max").parse(&value.to_string(), None), Some(value));
        }
        let value = Value::Bandwidth(MAX, 5);
        assert_eq!(file("cpu.max").parse(&value.to_string(), None), Some(value));
        let value = Value::Rates([1, MAX, 3, 4]);
        assert_eq!(IO_MAX.parse(&format!("8:0 {value}"), Some("8:0")), Some(value));
    }

    #[test]
    fn bandwidths_are_compared_as_rates() {
        let (fast, slow) =
            (Value::Bandwidth(200_000, 1_000_000), Value::Bandwidth(10_000, 100_000));
        assert_eq!(fast.tighter(slow), slow);
        assert_eq!(slow.tighter(fast), slow);
        assert_eq!(Value::Bandwidth(MAX, 1).tighter(fast), fast);
    }
}
