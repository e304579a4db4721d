//! Fuzz targets: what the kernel writes into interface files and mountinfo, which holds names that users choose.

use std::path::Path;

use crate::cgroup::disk::DeviceNumber;
use crate::cgroup::disk::mounts::Mount;
use crate::cgroup::hierarchy::cgroup2_mount;
use crate::cgroup::limits::file::{FILES, Format};
use crate::cgroup::usage::{cpu, io, pressure, value};
use crate::model::usage::Usage;

/// `/proc/self/mountinfo`.
pub fn mountinfo(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut ids: Vec<u64> = vec![25, u64::MAX];
    ids.extend(text.lines().filter_map(|line| line.split(' ').next()?.parse::<u64>().ok()));
    for id in ids.into_iter().take(64) {
        let Some(mount) = Mount::find(&text, id) else { continue };
        assert!(!mount.kind.contains([' ', '\n']));
        assert!(mount.source().as_os_str().len() <= text.len());
        let layer = mount.layer();
        assert!(layer.is_none_or(|layer| layer.as_os_str().len() <= text.len()));
    }
    if let Some(point) = cgroup2_mount(&text) {
        assert!(text.contains(" - cgroup2 ") && point.as_os_str().len() <= text.len());
        // The same line, made anew.
        let escaped = point.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
        let escaped = escaped.replace('\t', "\\011").replace('\n', "\\012");
        let line = format!("1 2 0:3 / {escaped} rw - cgroup2 none rw\n");
        assert_eq!(cgroup2_mount(&line).as_deref(), Some(&*point));
    }
    if let Ok(number) = text.trim().parse::<DeviceNumber>() {
        assert_eq!(number.to_string().parse::<DeviceNumber>().ok(), Some(number));
        let _ = Path::new("/sys/dev/block").join(number.to_string());
    }
}

/// `cpu.stat`, `io.stat`, `memory.events`, pressure files.
pub fn usage(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut usage = Usage { io: io(text), has_io: true, ..Usage::default() };
    cpu(&mut usage, text);
    usage.memory_pressure = pressure(text);
    usage.memory_oom_kills = value(text, "oom_kill");
    assert!(usage.io.len() <= text.lines().count());
    if let Some(pressure) = &usage.memory_pressure {
        assert!(pressure.some_avg10.is_finite());
    }
    // As a finished job's record keeps it. The kernel's percentages have two decimals; JSON may take the last bit of others.
    let stored = serde_json::to_vec(&usage).expect("numbers and text");
    let mut read: Usage = serde_json::from_slice(&stored).expect("what was written");
    if let (Some(read), Some(first)) = (&mut read.memory_pressure, &usage.memory_pressure) {
        let near = (read.some_avg10 - first.some_avg10).abs() <= first.some_avg10.abs() * 1e-12;
        assert!(near, "{read:?}");
        (read.some_avg10, read.full_avg10) = (first.some_avg10, first.full_avg10);
    }
    assert_eq!(read, usage);
}

/// The files of limits: what is read is written as the kernel writes it.
pub fn limit_files(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let device = text.split([' ', '\n']).next().unwrap_or_default();
    for file in FILES {
        let device = (file.format == Format::Rates).then_some(device);
        let Some(value) = file.parse(&text, device) else { continue };
        let written = match device {
            Some(device) => format!("{device} {value}\n"),
            None => format!("{value}\n"),
        };
        let is_name = device.is_none_or(|device| !device.contains(char::is_control));
        assert!(
            !is_name || file.parse(&written, device) == Some(value),
            "{}: {written}",
            file.name
        );
        assert_eq!(value.tighter(value), value);
    }
}
