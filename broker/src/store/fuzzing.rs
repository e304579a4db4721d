//! Fuzz targets: the records of a job and the index of finished jobs, as a disk may give them back.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::damage::{is_cut_short, request_in};
use crate::store::index;
use crate::store::records::{
    self, FINAL, FinalRecord, REQUEST, RequestRecord, SPAWN, SPEC, STOP, SpawnRecord, SpecRecord,
    StopRecord,
};
use crate::store::seal;

/// Any of the records, as they are and with a checksum.
pub fn records(data: &[u8]) {
    record::<SpecRecord>(SPEC, data);
    record::<SpawnRecord>(SPAWN, data);
    record::<StopRecord>(STOP, data);
    record::<FinalRecord>(FINAL, data);
    record::<RequestRecord>(REQUEST, data);
}

/// What is read is read again from what is written of it; a sealed record has no second reading.
fn record<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(
    name: &'static str,
    data: &[u8],
) {
    let record: T = match records::parse(name, data) {
        Ok(record) => record,
        Err(fault) => return assert!(fault.to_string().len() < 8192, "{fault}"),
    };
    let Ok(mut sealed) = seal::seal(&record) else { return };
    let again: T = records::parse(name, &sealed).expect("what was written");
    let twice = seal::seal(&again).expect("what was read");
    assert_eq!(twice, sealed, "{again:?}");
    for at in (data.len() % 7..sealed.len()).step_by(7 + sealed.len() / 64) {
        let whole = sealed[at];
        sealed[at] ^= 1 << (at % 8);
        let altered = records::parse::<T>(name, &sealed);
        assert!(altered.is_err() || altered.is_ok_and(|altered| altered == again), "byte {at}");
        sealed[at] = whole;
    }
}

/// The lines of `finished.idx`.
pub fn finished(data: &[u8]) {
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        let Some(summary) = index::read(line) else { continue };
        let again = index::line(&summary).expect("a summary is JSON");
        assert_eq!(index::read(&again), Some(summary));
    }
    // The same content with its checksum.
    for json in data.split(|byte| *byte == b'\n').filter_map(|line| line.get(9..)) {
        let line = [format!("{:08x} ", crc32fast::hash(json)).as_bytes(), json, b"\n"].concat();
        if let Some(summary) = index::read(&line) {
            let again = index::line(&summary).expect("a summary is JSON");
            assert_eq!(index::read(&again), Some(summary));
        }
    }
}

/// What is found in records that are damaged.
pub fn damage(data: &[u8]) {
    let _ = is_cut_short(data);
    if let Some(request) = request_in(data) {
        let owner = request.owner.as_str();
        assert!(job_api::names::check_name(owner).is_ok(), "{owner}");
    }
    // A record that is whole tells its own request, damaged or not behind its head.
    let Ok(record) = records::parse::<SpecRecord>(SPEC, data) else { return };
    let Ok(sealed) = seal::seal(&record) else { return };
    let (owner, id) = (record.owner, record.request_id);
    assert_eq!(request_in(&sealed), Some(RequestRecord { owner, id }));
    assert!(!is_cut_short(&sealed));
    let half = sealed.len() - 1 - data.len() % (sealed.len() / 2);
    assert!(is_cut_short(&sealed[..half]), "{half} bytes of {}", sealed.len());
}
