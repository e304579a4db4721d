//! `[metrics]`: where Prometheus scrapes the broker. Reads no file; accounts are looked up by [`Metrics::address`].

use std::net::SocketAddr;
use std::path::PathBuf;

use nix::unistd::User;
use serde::Deserialize;

use crate::metrics::endpoint::Address;

/// The endpoint for Prometheus. It is off by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// A loopback address and port, `"127.0.0.1:9464"`, or the path of a Unix socket, `"/run/job-broker-metrics"`.
    /// The text is for whoever can connect: totals of this broker, without names. Prometheus scrapes `/metrics`.
    /// Not set: no endpoint.
    pub listen: Option<String>,
    /// Permission bits of the Unix socket, such as `0o660`. The directory must be root's. Not set: `0o600`.
    pub mode: Option<u32>,
    /// Account that owns the Unix socket, such as `"prometheus"`. Not set: root.
    pub owner: Option<String>,
}

impl Metrics {
    /// The address to listen on; none if the endpoint is off.
    ///
    /// # Errors
    /// The key, and what is wrong with its value.
    pub(crate) fn address(&self) -> Result<Option<Address>, (&'static str, String)> {
        let Some(listen) = &self.listen else { return Ok(None) };
        if listen.starts_with('/') {
            let mode = self.mode.unwrap_or(0o600);
            if mode & !0o777 != 0 {
                return Err((
                    "metrics.mode",
                    format!("is {mode:#o}; it must be from 0o0 to 0o777"),
                ));
            }
            let owner = self.owner.as_deref().map(account).transpose()?;
            return Ok(Some(Address::Unix { path: PathBuf::from(listen), mode, owner }));
        }
        let addr: SocketAddr = listen.parse().map_err(|_| {
            let fault = "is neither an address with a port nor an absolute path";
            ("metrics.listen", format!("is {listen:?}, which {fault}"))
        })?;
        if !addr.ip().is_loopback() {
            let fault = format!(
                "is {addr}; it must be a loopback address, because whoever can connect reads the \
                 metrics: let an agent on this host pass them on"
            );
            return Err(("metrics.listen", fault));
        }
        match (self.mode, &self.owner) {
            (None, None) => Ok(Some(Address::Tcp(addr))),
            (Some(_), _) => Err(("metrics.mode", "is of a Unix socket, and listen is none".into())),
            _ => Err(("metrics.owner", "is of a Unix socket, and listen is none".into())),
        }
    }
}

fn account(name: &str) -> Result<(u32, u32), (&'static str, String)> {
    let found = User::from_name(name).ok().flatten();
    let none = || ("metrics.owner", format!("is {name:?}, and this host has no such account"));
    found.map(|user| (user.uid.as_raw(), user.gid.as_raw())).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(listen: &str) -> Result<Option<Address>, String> {
        let metrics = Metrics { listen: Some(listen.into()), ..Metrics::default() };
        metrics.address().map_err(|(key, fault)| format!("{key} {fault}"))
    }

    #[test]
    fn only_a_loopback_address_or_a_path_is_listened_on() {
        assert_eq!(Metrics::default().address(), Ok(None));
        for listen in ["127.0.0.1:9464", "[::1]:9464", "/run/metrics"] {
            assert!(address(listen).unwrap().is_some());
        }
        for listen in ["0.0.0.0:9464", "192.0.2.1:9464", "[::]:9464"] {
            assert!(address(listen).unwrap_err().contains("must be a loopback address"));
        }
        for listen in ["9464", "metrics.sock", "localhost:9464", ""] {
            assert!(address(listen).unwrap_err().starts_with("metrics.listen is"), "{listen}");
        }
    }

    #[test]
    fn mode_and_owner_are_of_a_socket() {
        let of = |listen: &str, mode, owner: Option<&str>| {
            let owner = owner.map(str::to_owned);
            Metrics { listen: Some(listen.into()), mode, owner }.address()
        };
        let socket = of("/run/m", Some(0o660), Some("root")).unwrap();
        let (path, mode) = ("/run/m".into(), 0o660);
        assert_eq!(socket, Some(Address::Unix { path, mode, owner: Some((0, 0)) }));
        assert_eq!(of("/run/m", Some(0o1777), None).unwrap_err().0, "metrics.mode");
        assert_eq!(of("/run/m", None, Some("no such account")).unwrap_err().0, "metrics.owner");
        assert_eq!(of("127.0.0.1:1", Some(0o600), None).unwrap_err().0, "metrics.mode");
        assert_eq!(of("127.0.0.1:1", None, Some("root")).unwrap_err().0, "metrics.owner");
    }
}
