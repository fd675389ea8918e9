//! How many writes run concurrently, adapted to what the table can take.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

/// Lets writes start in the order in which they asked, up to a limit of concurrent writes. A
/// throttled write halves the limit, counted from the writes that are running. Each time all of
/// them succeed, the limit rises by one, up to its initial value. Clones share the limit.
///
/// This is additive increase and multiplicative decrease, as in Chiu and Jain, "Analysis of the
/// increase and decrease algorithms for congestion avoidance" (1989).
#[derive(Clone)]
pub(crate) struct WriteGate(Arc<Gate>);

struct Gate {
    /// One permit for each further write that may start.
    free: Semaphore,
    state: Mutex<State>,
}

struct State {
    most: f64,
    limit: f64,
    /// How many permits there are, both free ones and those of running writes. It exceeds the limit
    /// until enough of the writes that were running when the limit was lowered are done.
    permits: usize,
    /// How often the limit was lowered.
    lowered: u64,
}

/// A running write, until this is dropped.
pub(crate) struct Writing {
    gate: Arc<Gate>,
    began_after: u64,
}

impl WriteGate {
    /// Allows up to `most` concurrent writes.
    pub(crate) fn of(most: usize) -> Self {
        let permits = most.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Gate {
            free: Semaphore::new(permits),
            state: Mutex::new(State {
                most: permits as f64,
                limit: permits as f64,
                permits,
                lowered: 0,
            }),
        }))
    }

    /// Waits for its turn.
    pub(crate) async fn enter(&self) -> Writing {
        // The semaphore is never closed. When the write is done, its permit is returned, or removed
        // if there are too many.
        if let Ok(permit) = self.0.free.acquire().await {
            permit.forget();
        }
        Writing {
            gate: Arc::clone(&self.0),
            began_after: self.0.state().lowered,
        }
    }
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// How many permits there should be.
    fn allowed(&self) -> usize {
        self.limit.ceil() as usize
    }
}

impl Writing {
    /// Records whether the table throttled the write.
    pub(crate) fn answered(&self, throttled: bool) {
        let Gate { free, .. } = &*self.gate;
        let mut state = self.gate.state();
        if !throttled {
            state.limit = (state.limit + 1.0 / state.limit).min(state.most);
            let more = state.allowed().saturating_sub(state.permits);
            state.permits += more;
            free.add_permits(more);
        } else if state.lowered == self.began_after {
            // One throttled write of those that were running at that time is enough.
            let under_way = state.permits - free.available_permits();
            state.limit = (under_way as f64 / 2.0).max(1.0);
            state.lowered += 1;
            let less = state.permits.saturating_sub(state.allowed());
            state.permits -= free.forget_permits(less);
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        match state.permits > state.allowed() {
            true => state.permits -= 1,
            false => self.gate.free.add_permits(1),
        }
    }
}

impl fmt::Debug for WriteGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteGate")
            .field("limit", &self.0.state().limit)
            .field("free", &self.0.free.available_permits())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt;
    use futures::future::join_all;

    use super::*;

    fn begin(gate: &WriteGate, writes: usize) -> Vec<Writing> {
        let begun = (0..writes).map(|_| gate.enter().now_or_never());
        begun.map_while(|writing| writing).collect()
    }

    #[test]
    fn a_throttled_write_halves_what_is_under_way_and_those_that_go_well_bring_it_back() {
        let gate = WriteGate::of(40);
        let all = begin(&gate, 50);
        assert_eq!(all.len(), 40, "at first there are as many as may be");
        all.iter().for_each(|writing| writing.answered(true));
        drop(all);
        assert_eq!(begin(&gate, 40).len(), 20, "they tell of one moment");
        for limit in 20..30 {
            let writing = begin(&gate, 40);
            assert!(
                (limit - 1..=limit).contains(&writing.len()),
                "{}",
                writing.len()
            );
            writing.iter().for_each(|writing| writing.answered(false));
        }
        let writing = begin(&gate, 40);
        writing.iter().for_each(|writing| writing.answered(true));
        assert!(writing.len() >= 28);
        drop(writing);
        let half = begin(&gate, 40);
        assert!((14..=15).contains(&half.len()), "{}", half.len());
        drop(half);
        for _ in 0..40 {
            begin(&gate, 40)
                .iter()
                .for_each(|writing| writing.answered(false));
        }
        assert_eq!(begin(&gate, 50).len(), 40, "never more than at first");
    }

    #[test]
    fn one_write_is_always_let_begin() {
        let gate = WriteGate::of(32);
        for _ in 0..10 {
            let one = begin(&gate, 5);
            assert!(!one.is_empty());
            one.iter().for_each(|writing| writing.answered(true));
        }
        assert_eq!(begin(&gate, 5).len(), 1);
    }

    #[test]
    fn who_waits_goes_on_when_there_is_room_also_after_one_that_gave_up() {
        let gate = WriteGate::of(32);
        let first = begin(&gate, 2);
        first.iter().for_each(|writing| writing.answered(true));
        let [one, two] = <[Writing; 2]>::try_from(first).unwrap_or_else(|_| panic!("two began"));
        drop(one);
        {
            let gives_up = pin!(gate.enter());
            assert!(gives_up.now_or_never().is_none());
        }
        let mut waits = pin!(gate.enter());
        assert!(waits.as_mut().now_or_never().is_none());
        drop(two);
        assert!(waits.now_or_never().is_some());
    }

    #[test]
    fn who_was_woken_and_gave_up_wakes_the_next() {
        let gate = WriteGate::of(1);
        let writing = begin(&gate, 1);
        let mut gives_up = Box::pin(gate.enter());
        assert!(gives_up.as_mut().now_or_never().is_none());
        let mut waits = pin!(gate.enter());
        assert!(waits.as_mut().now_or_never().is_none());
        drop(writing);
        drop(gives_up);
        assert!(waits.now_or_never().is_some());
    }

    #[test]
    fn who_comes_later_overtakes_nobody() {
        let gate = WriteGate::of(1);
        let writing = begin(&gate, 1);
        let mut first = pin!(gate.enter());
        assert!(first.as_mut().now_or_never().is_none());
        drop(writing);
        assert!(gate.enter().now_or_never().is_none());
        assert!(first.now_or_never().is_some());
    }

    #[tokio::test]
    async fn all_get_their_turn() {
        let gate = WriteGate::of(32);
        let writes = (0..200).map(|n| {
            let gate = gate.clone();
            async move {
                let writing = gate.enter().await;
                tokio::task::yield_now().await;
                writing.answered(n % 7 == 0);
            }
        });
        assert_eq!(join_all(writes).await.len(), 200);
    }
}
