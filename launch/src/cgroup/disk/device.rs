//! Device numbers and block devices. It must not read sysfs (`host`).

use std::fmt;
use std::str::FromStr;

/// A device number, makedev(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// The driver; 0 for anonymous devices.
    pub major: u32,
    /// The device of that driver.
    pub minor: u32,
}

/// A block device that `io.max` accepts. Its `Display` is the number, as in `io.max`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// The driver.
    pub major: u32,
    /// The device of that driver.
    pub minor: u32,
    /// The name in `/dev`.
    pub name: String,
}

/// Text that is not `MAJOR:MINOR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidDeviceNumber;

impl FromStr for DeviceNumber {
    type Err = InvalidDeviceNumber;

    fn from_str(text: &str) -> Result<DeviceNumber, InvalidDeviceNumber> {
        let part = |digits: &str| -> Result<u32, InvalidDeviceNumber> {
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(InvalidDeviceNumber);
            }
            digits.parse().map_err(|_| InvalidDeviceNumber)
        };
        let (major, minor) = text.split_once(':').ok_or(InvalidDeviceNumber)?;
        Ok(DeviceNumber { major: part(major)?, minor: part(minor)? })
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}
