//! The interface files that hold limits: the leaf of each, and its text format. Nothing else in the broker parses
//! these files, and nothing here decides a value.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::cgroup::hierarchy::Hierarchy;
use crate::cgroup::job::Leaf;
use crate::cgroup::limits::errors::Unenforceable;
use crate::cgroup::limits::value::Value;
use crate::model::limits::{MAX, Rate};

/// An interface file that holds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimitFile {
    /// The name of the file, and of its limit.
    pub(crate) name: &'static str,
    pub(crate) controller: &'static str,
    pub(crate) leaf: Leaf,
    pub(crate) format: Format,
    /// Whether the limit of an ancestor cgroup applies, too. Weights are relative to siblings, so theirs does not.
    pub(crate) inherited: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Bandwidth,
    Number,
    /// Bytes, which the kernel rounds down to pages.
    Bytes,
    Weight,
    /// A line for each device.
    Rates,
}

/// All limit files. Memory limits cover shim and workload, since the page cache of the logs belongs to the job.
/// CPU, pids and I/O limits cover the workload only. A shim that is throttled by a small CPU quota would delay
/// stops and deadlines. A limit of 10 processes means 10 processes of the user. A log that is written slowly
/// blocks the journal of its file system, and with it the start of every other job (docs/decisions/0011).
pub(crate) const FILES: [LimitFile; 9] = {
    const fn file(
        name: &'static str,
        controller: &'static str,
        leaf: Leaf,
        format: Format,
        inherited: bool,
    ) -> LimitFile {
        LimitFile { name, controller, leaf, format, inherited }
    }
    [
        file("cpu.max", "cpu", Leaf::Work, Format::Bandwidth, true),
        file("cpu.weight", "cpu", Leaf::Job, Format::Weight, false),
        file("memory.max", "memory", Leaf::Job, Format::Bytes, true),
        file("memory.high", "memory", Leaf::Job, Format::Bytes, true),
        file("memory.swap.max", "memory", Leaf::Job, Format::Bytes, true),
        file("pids.max", "pids", Leaf::Work, Format::Number, true),
        file("io.weight", "io", Leaf::Job, Format::Weight, false),
        file("io.bfq.weight", "io", Leaf::Job, Format::Weight, false),
        file("io.max", "io", Leaf::Work, Format::Rates, true),
    ]
};

pub(crate) const IO_WEIGHT: LimitFile = FILES[6];
pub(crate) const BFQ_WEIGHT: LimitFile = FILES[7];
pub(crate) const IO_MAX: LimitFile = FILES[8];

impl LimitFile {
    pub(crate) fn check(&self, hierarchy: &Hierarchy) -> Result<(), Unenforceable> {
        if let Some(reason) = hierarchy.features().missing(self.controller) {
            return Err(self.unenforceable(format!(
                "the controller {} is missing: {reason}",
                self.controller
            )));
        }
        if hierarchy.features().has_file(self.name) {
            return Ok(());
        }
        let reason = match self.name {
            "io.weight" => "this kernel supports neither io.cost nor BFQ",
            "memory.swap.max" => "this kernel does not account for swap",
            _ => "this kernel has no such file",
        };
        Err(self.unenforceable(reason.into()))
    }

    pub(crate) fn unenforceable(&self, reason: String) -> Unenforceable {
        Unenforceable { limit: self.name, controller: self.controller, reason }
    }

    /// `memory.max`, `io.max 8:0`.
    pub(crate) fn label(&self, device: Option<&str>) -> String {
        device.map_or_else(|| self.name.into(), |device| format!("{} {device}", self.name))
    }

    /// Writes a value and reads it back. One descriptor for both saves a third of the system calls, which
    /// are most of the cost of applying nine limits.
    pub(crate) fn write(
        &self,
        directory: &Path,
        text: &str,
        device: Option<&str>,
    ) -> io::Result<Value> {
        let file = OpenOptions::new().read(true).write(true).open(directory.join(self.name))?;
        file.write_all_at(text.as_bytes(), 0)?;
        self.read_from(&file, device)
    }

    pub(crate) fn read(&self, directory: &Path, device: Option<&str>) -> io::Result<Value> {
        self.read_from(&File::open(directory.join(self.name))?, device)
    }

    fn read_from(&self, file: &File, device: Option<&str>) -> io::Result<Value> {
        let mut bytes = vec![0; 256];
        let mut length = 0;
        loop {
            length += file.read_at(&mut bytes[length..], length as u64)?;
            // The kernel produces the file in one piece: a short read is complete.
            if length < bytes.len() {
                break;
            }
            bytes.resize(2 * length, 0);
        }
        let text = String::from_utf8_lossy(&bytes[..length]);
        self.parse(&text, device).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: {text:?}", self.name))
        })
    }

    pub(in crate::cgroup) fn parse(&self, text: &str, device: Option<&str>) -> Option<Value> {
        match self.format {
            Format::Number | Format::Bytes => number(text.trim()).map(Value::Number),
            Format::Bandwidth => {
                let (quota, period) = text.trim().split_once(' ')?;
                Some(Value::Bandwidth(number(quota)?, number(period)?))
            }
            // `default 100`; the broker never writes lines for single devices.
            Format::Weight => {
                number(text.lines().next()?.split(' ').next_back()?).map(Value::Number)
            }
            Format::Rates => Some(Value::Rates(rates(text, device?))),
        }
    }
}

/// A decimal number, or `max`.
fn number(text: &str) -> Option<u64> {
    if text == "max" { Some(MAX) } else { text.parse().ok() }
}

/// The rates of one device in `io.max`; a device without a line has no limit.
fn rates(text: &str, device: &str) -> [u64; 4] {
    let line = text.lines().find_map(|line| line.strip_prefix(device)?.strip_prefix(' '));
    Rate::ALL.map(|rate| {
        let of = |word: &str| number(word.strip_prefix(rate.word())?.strip_prefix('=')?);
        line.into_iter().flat_map(|line| line.split(' ')).find_map(of).unwrap_or(MAX)
    })
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
}
