//! The network of a client address, as wide as one party usually has addresses. It is only a key for limits and must
//! not decide who may connect.

use std::net::IpAddr;

/// The /24 of an IPv4 address, the /64 of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Network {
    V4([u8; 3]),
    V6([u8; 8]),
}

impl Network {
    /// Whether the client is on this host, and so has a local account.
    pub(super) fn is_loopback(self) -> bool {
        // The /64 of ::1, which contains no other address in use.
        matches!(self, Network::V4([127, ..]) | Network::V6([0, 0, 0, 0, 0, 0, 0, 0]))
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Network {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Network::V4([a, b, c])
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Network::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_is_a_network_whatever_its_address() {
        let network = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.77"));
        assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
        assert_eq!(network("2001:db8:0:1::1"), network("2001:db8:0:1:ffff::2"));
        assert_ne!(network("2001:db8:0:1::1"), network("2001:db8:0:2::1"));
        assert!(network("127.0.0.1").is_loopback() && network("::1").is_loopback());
        assert!(!network("128.0.0.1").is_loopback());
    }
}
