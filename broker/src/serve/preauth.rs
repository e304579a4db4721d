//! The limit of unauthenticated connections, as OpenSSH's MaxStartups. It must reject a connection only while too
//! many evicted ones are still open.
//!
//! At the limit a new connection evicts a random one of the network with the most connections. So a flood of silent
//! connections evicts only its own. Other clients authenticate within a few packets and leave this limit.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::oneshot;

use crate::serve::network::Network;
use crate::sync::lock;

/// The limit, and the connections below it.
#[derive(Debug)]
pub(super) struct PreauthLimit {
    size: Size,
    inside: Mutex<Inside>,
}

/// The thresholds, as of OpenSSH's MaxStartups.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// From here on, some new connections evict another one.
    begin: usize,
    /// From here on, every new connection evicts another one.
    full: usize,
    /// Connections of one network, from which on every new one evicts another of the same network.
    network: usize,
}

/// The percentage of new connections that evict another one at `begin`: OpenSSH's default.
const RATE: usize = 30;

#[derive(Debug)]
struct Inside {
    networks: HashMap<Network, Vec<PendingConnection>>,
    /// Connections of all networks.
    count: usize,
    /// Slots that are not dropped yet, those of evicted connections included: of each network, and in all.
    lingering: HashMap<Network, usize>,
    held: usize,
    next: u64,
    /// State of the xorshift generator.
    random: u64,
}

#[derive(Debug)]
struct PendingConnection {
    number: u64,
    /// Dropped to evict the connection.
    #[allow(dead_code, reason = "its other end notices")]
    evicted: oneshot::Sender<()>,
}

/// A slot below the limit, held until it is dropped.
#[derive(Debug)]
pub(super) struct PreauthSlot {
    preauth: Arc<PreauthLimit>,
    network: Network,
    number: u64,
    evicted: oneshot::Receiver<()>,
}

impl PreauthLimit {
    /// A limit of `full` connections.
    pub(super) fn new(full: usize) -> Arc<PreauthLimit> {
        let size = Size { begin: (full / 2).max(1), full, network: (full / 8).max(1) };
        let networks = HashMap::new();
        let random = RandomState::new().hash_one(full) | 1;
        let inside = Mutex::new(Inside {
            networks,
            count: 0,
            lingering: HashMap::new(),
            held: 0,
            next: 0,
            random,
        });
        Arc::new(PreauthLimit { size, inside })
    }

    /// Admits a connection, and evicts another one if need be. `None` while too many evicted connections are still
    /// open, of this network or in all. The limit of each network keeps a flood from shutting out others.
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr) -> Option<PreauthSlot> {
        let network = Network::from(from);
        let mut inside = self.lock();
        let lingering = inside.lingering.get(&network).copied().unwrap_or(0);
        if lingering >= 2 * self.limit_of(network) || inside.held >= 2 * self.size.full {
            return None;
        }
        let own = inside.networks.get(&network).map_or(0, Vec::len);
        if own >= self.limit_of(network) {
            inside.evict(network);
        } else if inside.random(100) < self.size.chance(inside.count) {
            inside.evict_from_largest();
        }
        let (sender, evicted) = oneshot::channel();
        let number = inside.next;
        inside.next += 1;
        inside
            .networks
            .entry(network)
            .or_default()
            .push(PendingConnection { number, evicted: sender });
        inside.count += 1;
        inside.held += 1;
        *inside.lingering.entry(network).or_default() += 1;
        Some(PreauthSlot { preauth: Arc::clone(self), network, number, evicted })
    }

    /// Evicts one connection, to free its descriptor.
    pub(super) fn evict_one(&self) {
        self.lock().evict_from_largest();
    }

    /// The limit of one network. Loopback has half of the slots: local users start hundreds of clients at once, and
    /// could do worse harm.
    fn limit_of(&self, network: Network) -> usize {
        if network.is_loopback() { self.size.full / 2 } else { self.size.network }.max(1)
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        lock(&self.inside)
    }
}

impl Size {
    /// The percentage of new connections that evict another one.
    fn chance(self, count: usize) -> usize {
        let Some(beyond) = count.checked_sub(self.begin) else { return 0 };
        RATE + (100 - RATE) * beyond / (self.full - self.begin).max(1)
    }
}

impl Inside {
    /// A random number less than `bound`. A client gains nothing by a guess, so xorshift is enough.
    fn random(&mut self, bound: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % bound.max(1) as u64) as usize
    }

    fn evict_from_largest(&mut self) {
        let most = self.networks.values().map(Vec::len).max().unwrap_or(0);
        let crowded = |pending: &Vec<PendingConnection>| pending.len() == most;
        let count = self.networks.values().filter(|pending| crowded(pending)).count();
        let one = self.random(count);
        let mut crowded = self.networks.iter().filter(|(_, pending)| crowded(pending));
        if let Some(network) = crowded.nth(one).map(|(network, _)| *network) {
            self.evict(network);
        }
    }

    fn evict(&mut self, network: Network) {
        let count = self.networks.get(&network).map_or(0, Vec::len);
        let one = self.random(count);
        self.remove(network, |_, at| at == one);
    }

    fn remove(&mut self, network: Network, is_it: impl Fn(&PendingConnection, usize) -> bool) {
        let Some(pending) = self.networks.get_mut(&network) else { return };
        let at = pending.iter().enumerate().position(|(at, one)| is_it(one, at));
        let Some(at) = at else { return };
        pending.swap_remove(at);
        self.count -= 1;
        if pending.is_empty() {
            self.networks.remove(&network);
        }
    }
}

impl PreauthSlot {
    /// Resolves when the connection is evicted.
    pub(super) async fn evict(&mut self) {
        let _ = (&mut self.evicted).await; // the sender only drops its end
    }
}

impl Drop for PreauthSlot {
    fn drop(&mut self) {
        let mut inside = self.preauth.lock();
        inside.held -= 1;
        if let Some(lingering) = inside.lingering.get_mut(&self.network) {
            *lingering -= 1;
            if *lingering == 0 {
                inside.lingering.remove(&self.network);
            }
        }
        inside.remove(self.network, |guest, _| guest.number == self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_out(place: &mut PreauthSlot) -> bool {
        place.evicted.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    fn address(network: u16, host: u8) -> IpAddr {
        let [a, b] = network.to_be_bytes();
        IpAddr::from([10, a, b, host])
    }

    #[test]
    fn a_network_that_floods_puts_out_its_own_alone() {
        let preauth = PreauthLimit::new(64);
        let mut others: Vec<_> = (1..=4).map(|n| preauth.enter(address(n, 1)).unwrap()).collect();
        let mut flood = Vec::new();
        for n in 0..1000 {
            flood.push(preauth.enter(address(0, n as u8)).unwrap());
            flood.retain_mut(|place| !is_out(place));
        }
        assert_eq!(flood.len(), 8);
        assert!(others.iter_mut().all(|place| !is_out(place)));
    }

    #[test]
    fn many_networks_never_have_more_than_there_are_places() {
        let preauth = PreauthLimit::new(64);
        let mut held = Vec::new();
        for n in 0..5000 {
            held.push(preauth.enter(address(n, 1)).unwrap());
            held.retain_mut(|place| !is_out(place));
            assert!(held.len() <= 64, "{}", held.len());
        }
        // A client that needs a moment among them still has a fair chance to authenticate.
        let through = (0..200).filter(|n| {
            let mut place = preauth.enter(address(6000 + n, 1)).unwrap();
            for n in 0..8 {
                held.push(preauth.enter(address(7000 + n, 1)).unwrap());
                held.retain_mut(|place| !is_out(place));
            }
            !is_out(&mut place)
        });
        assert!(through.count() > 100);
    }

    #[test]
    fn below_the_beginning_nobody_is_put_out_and_what_leaves_leaves_nothing() {
        let preauth = PreauthLimit::new(64);
        let mut held: Vec<_> = (0..16).map(|n| preauth.enter(address(n, 1)).unwrap()).collect();
        assert!(held.iter_mut().all(|place| !is_out(place)));
        drop(held);
        let inside = preauth.lock();
        assert!(inside.networks.is_empty() && inside.count == 0 && inside.held == 0);
        assert!(inside.lingering.is_empty());
    }

    #[test]
    fn a_network_whose_connections_linger_keeps_no_other_out() {
        let preauth = PreauthLimit::new(64);
        let held: Vec<_> = (0..1000).map_while(|_| preauth.enter(address(0, 1))).collect();
        assert_eq!(held.len(), 16, "twice as many as it may have inside");
        let mut other = preauth.enter(address(1, 1)).expect("another network");
        assert!(!is_out(&mut other));
        drop(held);
        assert!(preauth.enter(address(0, 1)).is_some());
    }

    #[test]
    fn those_who_were_put_out_and_linger_count_as_well() {
        let preauth = PreauthLimit::new(4);
        let held: Vec<_> = (0..100).map_while(|n| preauth.enter(address(n, 1))).collect();
        assert_eq!(held.len(), 8);
    }
}
