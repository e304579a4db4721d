//! The rate limit of TLS handshakes for each network: a flood of handshakes would delay the start of every job. It must
//! only delay connections and never reject one.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::serve::network::Network;
use crate::sync::lock;

/// One for all threads.
#[derive(Debug, Default)]
pub(super) struct HandshakeRate {
    /// When each network's next handshake is due at the constant rate (GCRA, the "virtual scheduling algorithm" of
    /// ITU-T I.371). Entries in the past have no effect.
    due: Mutex<HashMap<Network, Instant>>,
}

/// The interval between two handshakes of one network: 500 a second, above what eight loops of `jobctl run` make (291).
const EACH: Duration = Duration::from_millis(2);
/// Handshakes without delay, as of a script that starts its clients at once.
const BURST: u32 = 500;
/// The longest delay. Abandoned connections count too, and must not lock out the other clients of their network;
/// `preauth` limits how many connections wait.
const LONGEST: Duration = Duration::from_secs(1);
/// The number of entries from which expired ones are removed.
const MANY: usize = 1024;

impl HandshakeRate {
    /// Returns when the handshake of a new connection from this network is due: at once below the rate, where a sleep of
    /// no length would take a millisecond, the resolution of tokio's timers.
    pub(super) async fn turn(&self, network: Network) {
        let delay = self.delay(network, Instant::now());
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }

    /// The delay of a connection from this network before its handshake.
    fn delay(&self, network: Network, now: Instant) -> Duration {
        let mut all = lock(&self.due);
        if all.len() >= MANY {
            all.retain(|_, due| *due > now);
        }
        let due = all.entry(network).or_insert(now);
        let ahead = due.saturating_duration_since(now);
        let delay = ahead.saturating_sub(EACH * BURST).min(LONGEST);
        *due = now + (ahead + EACH).min(EACH * BURST + LONGEST);
        delay
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt;

    use super::*;

    fn network(number: u16) -> Network {
        let [a, b] = number.to_be_bytes();
        Network::from(IpAddr::from([10, a, b, 1]))
    }

    #[test]
    fn a_burst_is_free_and_a_flood_is_slowed_down_to_its_rate() {
        let (handshake_rate, now) = (HandshakeRate::default(), Instant::now());
        for _ in 0..=BURST {
            assert_eq!(handshake_rate.delay(network(0), now), Duration::ZERO);
        }
        assert_eq!(handshake_rate.delay(network(0), now), EACH);
        assert_eq!(handshake_rate.delay(network(0), now), 2 * EACH);
        assert_eq!(handshake_rate.delay(network(1), now), Duration::ZERO, "another network");
        // A client at the permitted rate never waits longer than before.
        assert_eq!(handshake_rate.delay(network(0), now + 3 * EACH), Duration::ZERO);
        assert_eq!(handshake_rate.delay(network(0), now + 4 * EACH), Duration::ZERO);
    }

    #[tokio::test]
    async fn what_is_below_the_rate_waits_for_no_timer() {
        let handshake_rate = HandshakeRate::default();
        assert!(handshake_rate.turn(network(0)).now_or_never().is_some());
        for _ in 0..2 * BURST {
            handshake_rate.delay(network(0), Instant::now());
        }
        assert!(handshake_rate.turn(network(0)).now_or_never().is_none());
    }

    #[test]
    fn nobody_waits_longer_than_a_second_however_many_have_come() {
        let (handshake_rate, now) = (HandshakeRate::default(), Instant::now());
        for _ in 0..100_000 {
            assert!(handshake_rate.delay(network(0), now) <= LONGEST);
        }
        assert_eq!(handshake_rate.delay(network(0), now), LONGEST);
        let later = now + LONGEST + EACH * (BURST + 1);
        assert_eq!(handshake_rate.delay(network(0), later), Duration::ZERO, "it starts afresh");
    }

    #[test]
    fn networks_that_have_gone_are_forgotten() {
        let (handshake_rate, now) = (HandshakeRate::default(), Instant::now());
        for n in 0..10_000_u16 {
            handshake_rate.delay(network(n), now + EACH * 2 * u32::from(n));
        }
        assert!(handshake_rate.due.lock().unwrap().len() <= MANY);
    }
}
