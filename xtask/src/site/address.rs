//! The broker's listen address, the clients' address, and the names in the certificate. It must not hold the port:
//! the broker binds it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};

use anyhow::{Context, Result};
use job_certs::ServerNames;

/// Parses HOST:PORT: the host as typed, and the address with its final port.
///
/// # Errors
/// Not HOST:PORT, an unknown host, or an address in use.
pub(crate) fn choose(text: &str) -> Result<(String, SocketAddr)> {
    let addr = text
        .to_socket_addrs()
        .with_context(|| format!("\"{text}\" is not HOST:PORT, e.g. 127.0.0.1:7443"))?
        .next()
        .with_context(|| format!("\"{text}\" has no address"))?;
    // Bound for a moment. Another program could take the port before the broker, which then reports the error; but a
    // port that changes with each restart is useless to clients.
    let listener = TcpListener::bind(addr).with_context(|| format!("cannot listen on {text}"))?;
    let host = text.rsplit_once(':').map_or(text, |(host, _)| host).trim_matches(['[', ']']);
    Ok((host.to_owned(), listener.local_addr()?))
}

/// The loopback address, for a broker on all addresses.
pub(crate) fn to_connect(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Localhost, the address, and the host as typed.
pub(crate) fn names(host: &str, listen: SocketAddr) -> ServerNames {
    let mut names = ServerNames {
        dns: vec!["localhost".into()],
        ips: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    };
    let ip = to_connect(listen).ip();
    if !names.ips.contains(&ip) {
        names.ips.push(ip);
    }
    if host.parse::<IpAddr>().is_err() && !names.dns.iter().any(|name| name == host) {
        names.dns.push(host.to_owned());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_of_zero_becomes_a_free_one_that_stays() {
        let (host, addr) = choose("localhost:0").expect("free");
        assert_eq!(host, "localhost");
        assert!(addr.ip().is_loopback() && addr.port() != 0);
        assert_eq!(choose(&addr.to_string()).expect("free again").1, addr);
    }

    #[test]
    fn an_address_without_port_is_refused_with_an_example() {
        let error = choose("127.0.0.1").expect_err("no port").to_string();
        assert!(error.contains("HOST:PORT"), "{error}");
    }

    #[test]
    fn the_certificate_has_every_name_that_clients_may_use() {
        let names = names("build7", "10.1.2.3:7443".parse().expect("an address"));
        assert_eq!(names.dns, ["localhost", "build7"]);
        assert!(names.ips.contains(&IpAddr::from([10, 1, 2, 3])));
        let any = to_connect("0.0.0.0:1".parse().expect("an address"));
        assert_eq!(any, "127.0.0.1:1".parse().expect("an address"));
    }
}
