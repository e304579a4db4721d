//! Turns at what few can do at a time, such as threads that may block. Whoever waits is served in the
//! order of coming within a key (an identity), and the keys in turn: a thousand that wait for one
//! delay another's first by one turn. A key that is alone may have more at a time than one beside which
//! others come. How many may wait is not decided here, see `quota`.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinError;
use tokio::time::timeout;

use crate::sync::lock;

/// So many turns at a time, and so many of one key.
#[derive(Debug)]
pub(crate) struct Turns<K: Eq + Hash + Clone> {
    at_once: usize,
    /// Of one key.
    alone: usize,
    /// Of one key while others come, too.
    beside: usize,
    state: Mutex<State<K>>,
}

/// How long one answer keeps others waiting: a shim that is well answers within a millisecond.
const MOMENT: Duration = Duration::from_millis(50);
/// A key counts as alone once no other has come for so long.
const ALONE_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct State<K: Eq + Hash + Clone> {
    running: usize,
    by_key: HashMap<K, Own<K>>,
    /// Keys that have somebody waiting and may run another, in the order in which they are served.
    next: VecDeque<K>,
    /// Who came last, and when last another than the one before.
    last: Option<K>,
    mixed: Option<Instant>,
}

#[derive(Debug)]
struct Own<K: Eq + Hash + Clone> {
    running: usize,
    waiting: VecDeque<oneshot::Sender<Turn<K>>>,
    /// Whether it is in `next`.
    is_next: bool,
}

/// Somebody's turn; over when dropped.
#[derive(Debug)]
pub(crate) struct Turn<K: Eq + Hash + Clone> {
    turns: Arc<Turns<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// At most `at_once` turns, of which `per_key` may be one key's.
    pub(crate) fn new(at_once: usize, per_key: usize) -> Arc<Turns<K>> {
        Turns::yielding(at_once, per_key, per_key)
    }

    /// At most `at_once` turns, of which a key may have `alone`, and `beside` while others come, too: for
    /// what takes processors, where whoever comes beside it shares them with all that runs.
    pub(crate) fn yielding(at_once: usize, alone: usize, beside: usize) -> Arc<Turns<K>> {
        let state = State {
            running: 0,
            by_key: HashMap::new(),
            next: VecDeque::new(),
            last: None,
            mixed: None,
        };
        Arc::new(Turns { at_once, alone, beside, state: Mutex::new(state) })
    }

    /// Waits for a turn. Whoever goes away meanwhile (drops this) has left the queue.
    pub(crate) async fn take(self: &Arc<Self>, key: &K) -> Turn<K> {
        loop {
            let (sender, receiver) = oneshot::channel();
            self.enter(key, sender);
            // No sender is dropped without its turn but in a panic of ours: then we wait anew.
            if let Ok(turn) = receiver.await {
                return turn;
            }
        }
    }

    /// Does `work` on a thread that may block, when it is the key's turn. Once begun it goes on
    /// whether or not anybody waits for it, and its turn lasts until then.
    ///
    /// # Errors
    /// `work` has panicked.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        key: &K,
        runtime: &Handle,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError>
    where
        K: Send + 'static,
    {
        let turn = self.take(key).await;
        let work = move || {
            let done = work();
            drop(turn);
            done
        };
        runtime.spawn_blocking(work).await
    }

    fn enter(self: &Arc<Self>, key: &K, sender: oneshot::Sender<Turn<K>>) {
        let mut state = self.lock();
        state.note(key);
        let none = || Own { running: 0, waiting: VecDeque::new(), is_next: false };
        let own = state.by_key.entry(key.clone()).or_insert_with(none);
        own.waiting.push_back(sender);
        self.queue(&mut state, key);
        self.serve(state);
    }

    /// Puts a key that may run another at the end of the line.
    fn queue(&self, state: &mut State<K>, key: &K) {
        let per_key = self.per_key(state);
        let Some(own) = state.by_key.get_mut(key) else { return };
        own.waiting.retain(|waiting| !waiting.is_closed()); // those that have gone away
        if own.waiting.is_empty() && own.running == 0 {
            state.by_key.remove(key); // keys come and go
        } else if !own.is_next && !own.waiting.is_empty() && own.running < per_key {
            own.is_next = true;
            state.next.push_back(key.clone());
        }
    }

    /// Gives out what turns there are.
    fn serve(self: &Arc<Self>, mut state: MutexGuard<'_, State<K>>) {
        let mut served = Vec::new();
        let per_key = self.per_key(&state);
        while state.running < self.at_once {
            let Some(key) = state.next.pop_front() else { break };
            let Some(own) = state.by_key.get_mut(&key) else { continue };
            own.is_next = false;
            if own.running >= per_key {
                continue; // it was alone when it was put there; the end of one of its own queues it again
            }
            if let Some(waiting) = own.waiting.pop_front() {
                own.running += 1;
                state.running += 1;
                served.push((waiting, Turn { turns: Arc::clone(self), key: key.clone() }));
            }
            self.queue(&mut state, &key);
        }
        drop(state); // before turns are dropped that nobody takes any more
        for (waiting, turn) in served {
            let _ = waiting.send(turn); // to one that has gone away: its turn is over
        }
    }

    /// The turns that one key may have now.
    fn per_key(&self, state: &State<K>) -> usize {
        let is_mixed = state.mixed.is_some_and(|mixed| mixed.elapsed() < ALONE_AFTER);
        if is_mixed { self.beside } else { self.alone }
    }

    /// A panic elsewhere must not take everybody's turns away.
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        lock(&self.state)
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    /// Somebody has come.
    fn note(&mut self, key: &K) {
        if self.last.as_ref() != Some(key) && self.last.replace(key.clone()).is_some() {
            self.mixed = Some(Instant::now());
        }
    }
}

impl<K: Eq + Hash + Clone> Drop for Turn<K> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        state.running = state.running.saturating_sub(1);
        if let Some(own) = state.by_key.get_mut(&self.key) {
            own.running = own.running.saturating_sub(1);
        }
        self.turns.queue(&mut state, &self.key);
        self.turns.serve(state);
    }
}

/// Awaits the answer of a shim and gives the turn back when it has come, or after [`MOMENT`]: who is slow is
/// waited for, but holds up nobody.
pub(crate) async fn for_a_moment<T>(turn: impl Sized, answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    match timeout(MOMENT, &mut answer).await {
        Ok(answer) => answer,
        Err(_) => {
            drop(turn);
            answer.await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use futures_util::FutureExt;

    use super::*;

    type Waiting<'a> = Pin<Box<dyn Future<Output = Turn<&'static str>> + 'a>>;

    /// In the queue, or served already.
    fn enter<'a>(turns: &'a Arc<Turns<&'static str>>, key: &'static str) -> Waiting<'a> {
        let mut waiting: Waiting<'a> = Box::pin(async move { turns.take(&key).await });
        match waiting.as_mut().now_or_never() {
            Some(turn) => Box::pin(std::future::ready(turn)),
            None => waiting,
        }
    }

    #[test]
    fn one_key_has_its_share_and_another_need_not_wait_for_it() {
        let turns = Turns::new(3, 2);
        let first = enter(&turns, "a").now_or_never().unwrap();
        let _second = enter(&turns, "a").now_or_never().unwrap();
        let mut third = enter(&turns, "a");
        assert!(third.as_mut().now_or_never().is_none());
        let _other = enter(&turns, "b").now_or_never().unwrap();
        drop(first);
        assert!(third.now_or_never().is_some());
    }

    #[test]
    fn the_keys_are_served_in_turn_however_many_wait_for_one() {
        let turns = Turns::new(1, 1);
        let held = enter(&turns, "x").now_or_never().unwrap();
        let mut many: Vec<_> = (0..100).map(|_| enter(&turns, "a")).collect();
        let mut one = enter(&turns, "b");
        drop(held);
        let first = many.remove(0).now_or_never().unwrap();
        assert!(one.as_mut().now_or_never().is_none());
        drop(first);
        let one = one.now_or_never().expect("after one of the hundred");
        drop(one);
        assert!(many.remove(0).now_or_never().is_some());
    }

    #[test]
    fn whoever_goes_away_has_no_turn_and_leaves_nothing() {
        let turns = Turns::new(1, 1);
        let held = enter(&turns, "a").now_or_never().unwrap();
        let gone: Vec<_> = (0..1000).map(|_| enter(&turns, "a")).collect();
        let stays = enter(&turns, "b");
        drop(gone);
        drop(held);
        drop(stays.now_or_never().unwrap());
        let state = turns.lock();
        assert!(state.by_key.is_empty() && state.next.is_empty() && state.running == 0);
    }

    #[test]
    fn a_key_that_is_alone_has_more_than_one_beside_which_others_come() {
        let turns = Turns::yielding(8, 4, 1);
        let mut many: Vec<_> =
            (0..4).map(|_| enter(&turns, "a").now_or_never().expect("alone")).collect();
        let mut fifth = enter(&turns, "a");
        assert!(fifth.as_mut().now_or_never().is_none());
        let other = enter(&turns, "b").now_or_never().expect("it need not wait");
        for turn in many.drain(1..) {
            drop(turn);
            assert!(fifth.as_mut().now_or_never().is_none(), "one of its own runs");
        }
        drop(many);
        let fifth = fifth.now_or_never().expect("its only one");
        // As long after that as it takes to be alone.
        turns.lock().mixed = Instant::now().checked_sub(ALONE_AFTER);
        let second = enter(&turns, "b").now_or_never().expect("alone again");
        drop((fifth, other, second));
    }

    #[tokio::test]
    async fn work_keeps_its_turn_until_it_is_done_and_a_panic_gives_it_back() {
        let turns: Arc<Turns<&str>> = Turns::new(1, 1);
        let runtime = Handle::current();
        let panicked = turns.run(&"a", &runtime, || panic!("on purpose")).await;
        assert!(panicked.is_err());
        assert_eq!(turns.run(&"a", &runtime, || 7).await.unwrap(), 7);
    }
}
