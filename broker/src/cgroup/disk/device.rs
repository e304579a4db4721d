//! Devices: their numbers, and those that `io.max` takes.

use std::fmt;
use std::str::FromStr;

/// The number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceNumber {
    /// Which driver; 0 is for what is no device.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// A block device that `io.max` takes. Shown as its number, as `io.max` writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
    /// As in `/dev`.
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
