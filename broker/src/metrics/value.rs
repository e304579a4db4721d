//! Counters, gauges and histograms: relaxed atomics, one cache line's worth of work each. None of them may take a lock
//! but [`Refusals`], whose path has formatted a status before.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sync::lock;

/// A number that only grows.
#[derive(Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that grows and shrinks.
#[derive(Debug)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    pub(crate) const fn new() -> Gauge {
        Gauge(AtomicU64::new(0))
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Stores a time, to be read with [`Gauge::seconds`].
    pub(crate) fn set_time(&self, time: Duration) {
        self.set(nanoseconds(time));
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The time that [`Gauge::set_time`] has stored.
    pub(crate) fn seconds(&self) -> f64 {
        self.get() as f64 / 1e9
    }

    /// Counts one more until the guard is dropped.
    #[must_use = "dropped, it counts no more"]
    pub(crate) fn enter(&'static self) -> Entered {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(self)
    }
}

/// One of those that a [`Gauge`] counts.
#[derive(Debug)]
pub(crate) struct Entered(&'static Gauge);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A counter for each value of a label.
#[derive(Debug)]
pub(crate) struct Family<L, const N: usize> {
    counters: [Counter; N],
    label: std::marker::PhantomData<fn(L)>,
}

impl<L: Into<usize>, const N: usize> Family<L, N> {
    pub(crate) const fn new() -> Family<L, N> {
        Family { counters: [const { Counter::new() }; N], label: std::marker::PhantomData }
    }

    pub(crate) fn add(&self, label: L, count: u64) {
        self.counters[label.into()].add(count);
    }

    /// The values, with the names of the labels.
    pub(crate) fn samples(&self, names: [&'static str; N]) -> [(&'static str, u64); N] {
        let mut at = 0;
        names.map(|name| {
            at += 1;
            (name, self.counters[at - 1].get())
        })
    }
}

/// Upper bounds of the buckets in seconds: a start takes 2 ms on an idle host, and its shim has 30 s to answer.
pub(crate) const BOUNDS: [f64; 15] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
    30.0,
];

/// How long something took, in buckets.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// The last has what is longer than all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_ns: AtomicU64,
}

impl Histogram {
    pub(crate) const fn new() -> Histogram {
        Histogram {
            buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1],
            sum_ns: AtomicU64::new(0),
        }
    }

    pub(crate) fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(nanoseconds(took), Ordering::Relaxed);
    }

    /// The cumulative counts, the last of which counts all; and the sum in seconds.
    pub(crate) fn read(&self) -> ([u64; BOUNDS.len() + 1], f64) {
        let mut sum = 0;
        let counts = std::array::from_fn(|at| {
            sum += self.buckets[at].load(Ordering::Relaxed);
            sum
        });
        (counts, self.sum_ns.load(Ordering::Relaxed) as f64 / 1e9)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Refusals by gRPC code and reason. Both are literals of this program, so there are as many as it has places that
/// refuse.
#[derive(Debug)]
pub(crate) struct Refusals(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl Refusals {
    pub(crate) const fn new() -> Refusals {
        Refusals(Mutex::new(BTreeMap::new()))
    }

    /// Counts one; `reason` is empty where the code says all.
    pub(crate) fn add(&self, code: &'static str, reason: &'static str) {
        *lock(&self.0).entry((code, reason)).or_default() += 1;
    }

    /// The counts so far.
    pub(crate) fn samples(&self) -> Vec<((&'static str, &'static str), u64)> {
        lock(&self.0).iter().map(|(key, count)| (*key, *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_its_bucket_and_in_all_above() {
        let histogram = Histogram::new();
        for took in [0, 100_000, 100_001, 2_000_000, 31_000_000_000] {
            histogram.observe(Duration::from_nanos(took));
        }
        let (counts, sum) = histogram.read();
        assert_eq!(counts[..5], [2, 3, 3, 3, 4]);
        assert_eq!(counts[BOUNDS.len() - 1..], [4, 5]);
        assert!((sum - 31.002_200_001).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn what_is_open_is_counted_until_it_is_dropped() {
        static OPEN: Gauge = Gauge::new();
        let held = [OPEN.enter(), OPEN.enter()];
        assert_eq!(OPEN.get(), 2);
        drop(held);
        assert_eq!(OPEN.get(), 0);
    }
}
