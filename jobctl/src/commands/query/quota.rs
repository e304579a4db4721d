//! What an identity may take, and what of it is in use: `quota`.

use job_api::client::Client;
use job_api::units::show_size;
use job_api::v1::quota::Unit;
use job_api::v1::{GetQuotaRequest, GetQuotaResponse, Quota};

use crate::cli;
use crate::cli::{Format, Global};
use crate::client::connection::{Broker, NO_RECONNECT};
use crate::failure::Result;
use crate::format::escape::escape;
use crate::print::table::Table;
use crate::print::{json, sink};

pub(crate) async fn quota(global: &Global, command: cli::Quota) -> Result<()> {
    let broker = Broker::connect(global, NO_RECONNECT).await?;
    let request = GetQuotaRequest { owner: command.owner.unwrap_or_default() };
    let call = async |mut client: Client| client.get_quota(request).await;
    let found = broker.once("cannot show the quotas", call).await?;
    let text = match global.output.unwrap_or(Format::Table) {
        format @ (Format::Json | Format::Yaml) => json::shown("GetQuotaResponse", &found, format)?,
        Format::Name => format!("{}\n", escape(&found.identity)),
        Format::Table | Format::Wide => table(&found),
    };
    sink::print(&text)
}

/// A row for each quota, those without a limit too: what is in use may be asked for.
fn table(found: &GetQuotaResponse) -> String {
    let mut table = Table::new(&["QUOTA", "IN USE", "LIMIT", "FROM"]);
    for quota in &found.quotas {
        let limit = match (quota.limit, quota.burst) {
            (None, _) => "-".to_owned(),
            (Some(limit), Some(burst)) if burst != limit => {
                format!("{limit}, {burst} at once")
            }
            (Some(limit), _) => value(quota, limit),
        };
        let from =
            if quota.limit.is_some() { escape(&quota.from).into_owned() } else { "-".into() };
        table.row(vec![escape(&quota.name).into_owned(), value(quota, quota.used), limit, from]);
    }
    table.shown(None)
}

/// In the units of people; of jobs without a limit of their own there is no sum.
fn value(quota: &Quota, value: u64) -> String {
    match quota.unit() {
        _ if value == u64::MAX => "no limit".into(),
        Unit::Bytes => show_size(value),
        Unit::Millicpus => (value as f64 / 1000.0).to_string(),
        Unit::Count | Unit::Unspecified => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_told_in_the_units_of_people() {
        let quota = |name: &str, unit: Unit, used, limit, burst| Quota {
            name: name.into(),
            unit: unit.into(),
            used,
            limit,
            burst,
            from: "[quotas.default]".into(),
        };
        let quotas = vec![
            quota("starts_per_minute", Unit::Count, 3, Some(600), Some(50)),
            quota("cpus", Unit::Millicpus, 1500, Some(4000), None),
            quota("memory", Unit::Bytes, u64::MAX, Some(1 << 30), None),
            quota("waits", Unit::Count, 0, None, None),
        ];
        let text = table(&GetQuotaResponse { identity: "ann".into(), quotas });
        let expected = "\
QUOTA              IN USE    LIMIT            FROM
starts_per_minute  3         600, 50 at once  [quotas.default]
cpus               1.5       4                [quotas.default]
memory             no limit  1 GiB            [quotas.default]
waits              0         -                -
";
        assert_eq!(text, expected);
    }
}
