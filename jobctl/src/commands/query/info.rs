//! The broker itself: `info`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use job_api::client::Client;
use job_api::v1::isolation::Profile;
use job_api::v1::{Certificates, GetServerInfoRequest, GetServerInfoResponse};

use crate::cli::{Format, Global};
use crate::client::connection::{Broker, NO_RECONNECT};
use crate::commands::query::inspect::Lines;
use crate::failure::Result;
use crate::format::escape::escape;
use crate::format::{isolation, limits, time};
use crate::print::table::Table;
use crate::print::{json, sink};

pub(crate) async fn info(global: &Global) -> Result<()> {
    let broker = Broker::connect(global, NO_RECONNECT).await?;
    let call = async |mut client: Client| client.get_server_info(GetServerInfoRequest {}).await;
    let info = broker.once("cannot show the broker", call).await?;
    let text = match global.output.unwrap_or(Format::Table) {
        format @ (Format::Json | Format::Yaml) => {
            json::shown("GetServerInfoResponse", &info, format)?
        }
        Format::Name => format!("{}\n", escape(&info.hostname)),
        Format::Table | Format::Wide => {
            lines(&info, &broker.addr, SystemTime::now()).shown() + &limits(&info)
        }
    };
    sink::print(&text)
}

/// What `info` prints first.
pub(crate) fn lines(info: &GetServerInfoResponse, addr: &str, now: SystemTime) -> Lines {
    let mut lines = Lines::default();
    lines.add("address", addr);
    lines.add("version", &info.version);
    lines.add("host", &info.hostname);
    lines.add("kernel", &info.kernel);
    lines.add("boot id", &info.boot_id);
    lines.add("started", time::both(info.started_at.as_ref(), now));
    lines.add("epoch", info.epoch.to_string());
    lines.add("running jobs", info.running_jobs.to_string());
    lines.add("stored jobs", info.stored_jobs.to_string());
    lines.add("cgroup", &info.cgroup);
    add_abilities(&mut lines, info);
    lines.add("runs as", info.run_as.join(", "));
    if info.default_isolation() != Profile::Unspecified {
        let name = isolation::profile_name;
        let (default, least) = (name(info.default_isolation()), name(info.minimum_isolation()));
        lines.add("isolation", format!("{default} by default, {least} at least"));
    }
    for glob in &info.rootfs {
        lines.add("root", glob);
    }
    for image in &info.images {
        lines.add("image", format!("{}@{}", image.name, image.digest));
    }
    for job in &info.quarantined {
        lines.add("quarantined", format!("{}: {}", job.id, job.reason));
    }
    if let Some(certificates) = &info.certificates {
        add_certificates(&mut lines, certificates, now);
    }
    lines
}

/// The certificates in force, and whether those on disk are.
fn add_certificates(lines: &mut Lines, certificates: &Certificates, now: SystemTime) {
    let Certificates { expires_at, reload_fault, authorities, .. } = certificates;
    if !reload_fault.is_empty() {
        lines.add("RELOAD FAILED", format!("the former files stay in force: {reload_fault}"));
    }
    lines.add("certificate", format!("until {}", time::both(expires_at.as_ref(), now)));
    for one in authorities {
        let names = match one.prefix.as_str() {
            "" => String::new(),
            prefix => format!(", names {prefix}.*"),
        };
        let list = match &one.crl_next_update {
            Some(next) => {
                format!("{} revoked, list until {}", one.revoked, time::both(Some(next), now))
            }
            None => "no revocation list".to_owned(),
        };
        let until = time::both(one.expires_at.as_ref(), now);
        let (subject, domain) = (&one.subject, &one.trust_domain);
        let text = format!("{subject} (trust domain {domain}{names}), until {until}; {list}");
        lines.add("authority", text);
    }
}

/// What the host can do, and for what it cannot, why.
fn add_abilities(lines: &mut Lines, info: &GetServerInfoResponse) {
    let or_none = |words: String| if words.is_empty() { "none".to_owned() } else { words };
    lines.add("controllers", or_none(info.controllers.join(", ")));
    let missing: BTreeMap<_, _> = info.missing_controllers.iter().collect();
    for (controller, reason) in missing {
        lines.add("missing", format!("{controller}: {reason}"));
    }
    // Controllers are features, too, and have their lines already.
    let features = info.features.iter().filter(|feature| !feature.name.starts_with("controller "));
    let (there, absent): (Vec<_>, Vec<_>) = features.partition(|feature| feature.available);
    let there: Vec<&str> = there.iter().map(|feature| feature.name.as_str()).collect();
    lines.add("features", there.join(", "));
    for feature in absent {
        lines.add("missing", format!("{}: {}", feature.name, feature.reason));
    }
}

/// Defaults and ceilings side by side; nothing where the broker has none.
pub(crate) fn limits(info: &GetServerInfoResponse) -> String {
    let of = |side: &Option<_>| side.as_ref().map(limits::table).unwrap_or_default();
    let (defaults, ceilings) = (of(&info.default_limits), of(&info.max_limits));
    if defaults.is_empty() && ceilings.is_empty() {
        return String::new();
    }
    let find = |rows: &[(String, String)], name: &str| {
        let found = rows.iter().find(|(known, _)| known == name);
        found.map_or_else(|| "-".to_owned(), |(_, words)| words.clone())
    };
    let mut table = Table::new(&["LIMIT", "DEFAULT", "CEILING"]);
    let only_default = defaults.iter().map(|(name, _)| name);
    let new = |name: &&String| !defaults.iter().any(|(known, _)| known == *name);
    for name in only_default.chain(ceilings.iter().map(|(name, _)| name).filter(new)) {
        table.row(vec![name.clone(), find(&defaults, name), find(&ceilings, name)]);
    }
    format!("\n{}", table.shown(None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use job_api::v1::{Feature, LimitTable, Limits};

    fn info() -> GetServerInfoResponse {
        let feature = |name: &str, available, reason: &str| Feature {
            name: name.into(),
            available,
            reason: reason.into(),
        };
        let memory = |bytes, pids| {
            let limits = Limits { memory_max_bytes: bytes, pids_max: pids, ..Limits::default() };
            Some(LimitTable { limits: Some(limits), ..LimitTable::default() })
        };
        GetServerInfoResponse {
            controllers: vec!["cpu".into(), "memory".into()],
            missing_controllers: [("io".to_owned(), "held by cgroup v1".to_owned())].into(),
            features: vec![
                feature("controller io", false, "limits of io"),
                feature("memory.peak", true, ""),
                feature("psi", false, "no pressure is told"),
            ],
            default_limits: memory(Some(256 << 20), None),
            max_limits: memory(Some(1 << 30), Some(1000)),
            ..GetServerInfoResponse::default()
        }
    }

    #[test]
    fn what_is_missing_is_told_with_its_reason() {
        let text = lines(&info(), "b:1", SystemTime::now()).shown();
        for line in [
            "controllers:  cpu, memory\n",
            "missing:      io: held by cgroup v1\n",
            "features:     memory.peak\n",
            "missing:      psi: no pressure is told\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(!text.contains("controller io"), "{text}");
    }

    #[test]
    fn defaults_and_ceilings_stand_side_by_side() {
        let expected = "\nLIMIT       DEFAULT  CEILING\n\
                        memory.max  256 MiB  1 GiB\npids.max    -        1000\n";
        assert_eq!(limits(&info()), expected);
        assert_eq!(limits(&GetServerInfoResponse::default()), "");
    }
}
