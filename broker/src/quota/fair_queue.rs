//! A fair queue for a resource with few concurrent users, such as blocking threads: first come, first served within
//! a key (an identity), round-robin between keys. A thousand waiters of one key delay the first of another by one
//! permit. A key without competition may hold more permits than one under contention. It must not limit the
//! number of waiters: that is a quota's task (`quota`).

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinError;
use tokio::time::timeout;

use crate::sync::lock;

/// A number of permits in all, and a limit for each key.
pub(crate) struct FairQueue<K: Eq + Hash + Clone> {
    concurrency: usize,
    /// Permits beyond these for some keys.
    reserve: Option<Reserve<K>>,
    /// The limit of a key without competition.
    limit_alone: usize,
    /// The limit of a key under contention.
    limit_contended: usize,
    state: Mutex<State<K>>,
}

/// How long a permit waits for the answer of a shim. A healthy shim answers within a millisecond.
const SLOW_ANSWER: Duration = Duration::from_millis(50);
/// Contention ends when no other key has arrived for this long.
const CONTENTION_WINDOW: Duration = Duration::from_secs(1);

/// Permits that only these keys get, when all others are taken.
struct Reserve<K> {
    permits: usize,
    is_for: Box<dyn Fn(&K) -> bool + Send + Sync>,
}

#[derive(Debug)]
struct State<K: Eq + Hash + Clone> {
    /// Permits, but for those of the reserve.
    running: usize,
    reserve_running: usize,
    by_key: HashMap<K, KeyState<K>>,
    /// Keys with a waiter and below their limit, in the order of service.
    ready_keys: VecDeque<K>,
    /// The key of the last arrival, and the time of the last arrival of a different key.
    last_key: Option<K>,
    contended_at: Option<Instant>,
}

#[derive(Debug)]
struct KeyState<K: Eq + Hash + Clone> {
    running: usize,
    waiting: VecDeque<oneshot::Sender<FairPermit<K>>>,
    /// Whether it is in `ready_keys`.
    is_ready: bool,
}

/// A permit; released when dropped.
#[derive(Debug)]
pub(crate) struct FairPermit<K: Eq + Hash + Clone> {
    queue: Arc<FairQueue<K>>,
    key: K,
    is_of_reserve: bool,
}

impl<K: Eq + Hash + Clone> FairQueue<K> {
    /// At most `concurrency` turns, of which `per_key` may be one key's.
    pub(crate) fn new(concurrency: usize, per_key: usize) -> Arc<FairQueue<K>> {
        FairQueue::with_contended_limit(concurrency, per_key, per_key)
    }

    /// At most `concurrency` turns, of which a key may have `limit_alone`, and `limit_contended` while others come, too: for
    /// what takes processors, where whoever comes beside it shares them with all that runs.
    pub(crate) fn with_contended_limit(
        concurrency: usize,
        limit_alone: usize,
        limit_contended: usize,
    ) -> Arc<FairQueue<K>> {
        let queue = FairQueue::unshared(concurrency, limit_alone, limit_contended);
        Arc::new(queue)
    }

    /// The same queue with `permits` more for the keys that `is_for` names: whoever repairs what keeps all others.
    pub(crate) fn and_reserve(
        self: Arc<Self>,
        permits: usize,
        is_for: impl Fn(&K) -> bool + Send + Sync + 'static,
    ) -> Arc<FairQueue<K>> {
        let FairQueue { concurrency, limit_alone, limit_contended, .. } = *self;
        let queue = FairQueue::unshared(concurrency, limit_alone, limit_contended);
        let reserve = Some(Reserve { permits, is_for: Box::new(is_for) });
        Arc::new(FairQueue { reserve, ..queue })
    }

    fn unshared(concurrency: usize, limit_alone: usize, limit_contended: usize) -> FairQueue<K> {
        let state = State {
            running: 0,
            reserve_running: 0,
            by_key: HashMap::new(),
            ready_keys: VecDeque::new(),
            last_key: None,
            contended_at: None,
        };
        let state = Mutex::new(state);
        FairQueue { concurrency, reserve: None, limit_alone, limit_contended, state }
    }

    /// Waits for a permit. A dropped future leaves the queue.
    pub(crate) async fn acquire(self: &Arc<Self>, key: &K) -> FairPermit<K> {
        loop {
            let (sender, receiver) = oneshot::channel();
            self.enqueue(key, sender);
            // A sender is dropped without a permit only after a panic in this module: enqueue again.
            if let Ok(permit) = receiver.await {
                return permit;
            }
        }
    }

    /// Runs `work` on a blocking thread when the key gets a permit. Once started, `work` runs to its end even
    /// if this future is dropped, and holds the permit until then.
    ///
    /// # Errors
    /// `work` panicked.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        key: &K,
        runtime: &Handle,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError>
    where
        K: Send + 'static,
    {
        let permit = self.acquire(key).await;
        let work = move || {
            let done = work();
            drop(permit);
            done
        };
        runtime.spawn_blocking(work).await
    }

    fn enqueue(self: &Arc<Self>, key: &K, sender: oneshot::Sender<FairPermit<K>>) {
        let mut state = self.lock();
        state.note_arrival(key);
        let none = || KeyState { running: 0, waiting: VecDeque::new(), is_ready: false };
        let key_state = state.by_key.entry(key.clone()).or_insert_with(none);
        key_state.waiting.push_back(sender);
        self.queue(&mut state, key);
        self.serve(state);
    }

    /// Appends a key with a waiter and below its limit to `ready_keys`.
    fn queue(&self, state: &mut State<K>, key: &K) {
        let per_key = self.per_key(state);
        let Some(key_state) = state.by_key.get_mut(key) else { return };
        key_state.waiting.retain(|waiting| !waiting.is_closed()); // dropped futures
        if key_state.waiting.is_empty() && key_state.running == 0 {
            state.by_key.remove(key); // so that the map does not grow with every key ever seen
        } else if !key_state.is_ready
            && !key_state.waiting.is_empty()
            && key_state.running < per_key
        {
            key_state.is_ready = true;
            state.ready_keys.push_back(key.clone());
        }
    }

    /// Hands out the free permits.
    fn serve(self: &Arc<Self>, mut state: MutexGuard<'_, State<K>>) {
        let mut served = Vec::new();
        let per_key = self.per_key(&state);
        while let Some((key, is_of_reserve)) = self.next_ready(&mut state) {
            let Some(key_state) = state.by_key.get_mut(&key) else { continue };
            key_state.is_ready = false;
            if key_state.running >= per_key {
                continue; // the limit fell under contention; a released permit of this key queues the key again
            }
            if let Some(waiting) = key_state.waiting.pop_front() {
                key_state.running += 1;
                *state.count(is_of_reserve) += 1;
                let (queue, key) = (Arc::clone(self), key.clone());
                served.push((waiting, FairPermit { queue, key, is_of_reserve }));
            }
            self.queue(&mut state, &key);
        }
        drop(state); // before a permit is dropped, which locks the state
        for (waiting, permit) in served {
            let _ = waiting.send(permit); // fails for a dropped future, which releases the permit
        }
    }

    /// Takes the next key that there is a permit for out of `ready_keys`, and whether the permit is of the reserve.
    fn next_ready(&self, state: &mut State<K>) -> Option<(K, bool)> {
        if state.running < self.concurrency {
            return Some((state.ready_keys.pop_front()?, false));
        }
        let Reserve { permits, is_for } = self.reserve.as_ref()?;
        if state.reserve_running >= *permits {
            return None;
        }
        let at = state.ready_keys.iter().position(is_for)?;
        Some((state.ready_keys.remove(at)?, true))
    }

    /// The current limit of each key.
    fn per_key(&self, state: &State<K>) -> usize {
        let is_contended = state
            .contended_at
            .is_some_and(|contended_at| contended_at.elapsed() < CONTENTION_WINDOW);
        if is_contended { self.limit_contended } else { self.limit_alone }
    }

    /// Survives a panic of another thread.
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        lock(&self.state)
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    fn count(&mut self, is_of_reserve: bool) -> &mut usize {
        if is_of_reserve { &mut self.reserve_running } else { &mut self.running }
    }

    /// Records the arrival of a waiter.
    fn note_arrival(&mut self, key: &K) {
        if self.last_key.as_ref() != Some(key) && self.last_key.replace(key.clone()).is_some() {
            self.contended_at = Some(Instant::now());
        }
    }
}

impl<K: Eq + Hash + Clone> fmt::Debug for FairQueue<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FairQueue({}, {})", self.concurrency, self.limit_alone)
    }
}

impl<K: Eq + Hash + Clone> Drop for FairPermit<K> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        let running = state.count(self.is_of_reserve);
        *running = running.saturating_sub(1);
        if let Some(key_state) = state.by_key.get_mut(&self.key) {
            key_state.running = key_state.running.saturating_sub(1);
        }
        self.queue.queue(&mut state, &self.key);
        self.queue.serve(state);
    }
}

/// Awaits the answer of a shim and releases the permit with the answer, or after [`SLOW_ANSWER`]: a slow shim does
/// not delay other jobs.
pub(crate) async fn release_if_slow<T>(permit: impl Sized, answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    match timeout(SLOW_ANSWER, &mut answer).await {
        Ok(answer) => answer,
        Err(_) => {
            drop(permit);
            answer.await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures_util::FutureExt;

    use super::*;

    type Waiting<'a> = Pin<Box<dyn Future<Output = FairPermit<&'static str>> + 'a>>;

    /// A waiter in the queue, or one with a permit.
    fn enqueue<'a>(queue: &'a Arc<FairQueue<&'static str>>, key: &'static str) -> Waiting<'a> {
        let mut waiting: Waiting<'a> = Box::pin(async move { queue.acquire(&key).await });
        match waiting.as_mut().now_or_never() {
            Some(permit) => Box::pin(std::future::ready(permit)),
            None => waiting,
        }
    }

    #[test]
    fn one_key_has_its_share_and_another_need_not_wait_for_it() {
        let queue = FairQueue::new(3, 2);
        let first = enqueue(&queue, "a").now_or_never().unwrap();
        let _second = enqueue(&queue, "a").now_or_never().unwrap();
        let mut third = enqueue(&queue, "a");
        assert!(third.as_mut().now_or_never().is_none());
        let _other = enqueue(&queue, "b").now_or_never().unwrap();
        drop(first);
        assert!(third.now_or_never().is_some());
    }

    #[test]
    fn keys_are_served_round_robin_however_many_wait_for_one() {
        let queue = FairQueue::new(1, 1);
        let held = enqueue(&queue, "x").now_or_never().unwrap();
        let mut many: Vec<_> = (0..100).map(|_| enqueue(&queue, "a")).collect();
        let mut one = enqueue(&queue, "b");
        drop(held);
        let first = many.remove(0).now_or_never().unwrap();
        assert!(one.as_mut().now_or_never().is_none());
        drop(first);
        let one = one.now_or_never().expect("after one of the hundred");
        drop(one);
        assert!(many.remove(0).now_or_never().is_some());
    }

    #[test]
    fn a_dropped_waiter_gets_no_permit_and_leaves_no_entry() {
        let queue = FairQueue::new(1, 1);
        let held = enqueue(&queue, "a").now_or_never().unwrap();
        let gone: Vec<_> = (0..1000).map(|_| enqueue(&queue, "a")).collect();
        let stays = enqueue(&queue, "b");
        drop(gone);
        drop(held);
        drop(stays.now_or_never().unwrap());
        let state = queue.lock();
        assert!(state.by_key.is_empty() && state.ready_keys.is_empty() && state.running == 0);
    }

    #[test]
    fn a_key_without_competition_has_a_higher_limit_than_under_contention() {
        let queue = FairQueue::with_contended_limit(8, 4, 1);
        let mut many: Vec<_> =
            (0..4).map(|_| enqueue(&queue, "a").now_or_never().expect("alone")).collect();
        let mut fifth = enqueue(&queue, "a");
        assert!(fifth.as_mut().now_or_never().is_none());
        let other = enqueue(&queue, "b").now_or_never().expect("it need not wait");
        for permit in many.drain(1..) {
            drop(permit);
            assert!(fifth.as_mut().now_or_never().is_none(), "one of its own runs");
        }
        drop(many);
        let fifth = fifth.now_or_never().expect("its only one");
        // After the contention window.
        queue.lock().contended_at = Instant::now().checked_sub(CONTENTION_WINDOW);
        let second = enqueue(&queue, "b").now_or_never().expect("alone again");
        drop((fifth, other, second));
    }

    #[test]
    fn a_key_of_the_reserve_is_served_when_all_permits_are_taken() {
        let queue = FairQueue::new(2, 2).and_reserve(1, |key| *key == "admin");
        let users: Vec<_> =
            ["a", "b"].map(|key| enqueue(&queue, key).now_or_never().expect("one is free")).into();
        let mut waiting = enqueue(&queue, "c");
        let admin = enqueue(&queue, "admin").now_or_never().expect("the reserve");
        let mut second = enqueue(&queue, "admin");
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none(), "the reserve has one");
        drop(admin);
        let second = second.now_or_never().expect("it is free again, for an admin");
        assert!(waiting.as_mut().now_or_never().is_none(), "and for nobody else");
        drop(users);
        drop(waiting.now_or_never().expect("a permit of all"));
        drop(second);
        let state = queue.lock();
        assert_eq!((state.running, state.reserve_running), (0, 0));
        assert!(state.by_key.is_empty() && state.ready_keys.is_empty());
    }

    #[tokio::test]
    async fn work_holds_its_permit_to_its_end_and_a_panic_releases_it() {
        let queue: Arc<FairQueue<&str>> = FairQueue::new(1, 1);
        let runtime = Handle::current();
        let panicked = queue.run(&"a", &runtime, || panic!("on purpose")).await;
        assert!(panicked.is_err());
        assert_eq!(queue.run(&"a", &runtime, || 7).await.unwrap(), 7);
    }
}
