//! Fuzz target: the configuration file.

use crate::config::Config;

/// A configuration that has no fault can be used: none of its values panics later.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let config = match Config::parse(&text) {
        Ok(config) => config,
        Err(detail) => {
            let longest = text.lines().map(str::len).max().unwrap_or_default();
            return assert!(detail.len() < 4096 + 8 * longest, "{} bytes", detail.len());
        }
    };
    let faults = config.faults();
    assert!(faults.iter().all(|(key, fault)| !key.is_empty() && !fault.is_empty()));
    if !faults.is_empty() {
        return;
    }
    assert!(!config.jobs.run_as.is_empty());
    let _ = (config.jobs.stop_timeout(), config.jobs.leftover_grace());
    let _ = (config.limits.tables().expect("no fault"), config.quotas.tables().expect("no fault"));
    let _ = (config.tls.prefixes(), config.tls.files());
    assert_eq!(Config::parse(&text).expect("as before").faults(), Vec::new());
}
