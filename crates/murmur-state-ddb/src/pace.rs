//! How many writes are under way at a time, as the table bears it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::oneshot;

/// Lets writes begin: so many at a time; half as many as are under way when one is throttled; then
/// one more for each time that all of them went well, up to the number at first. Clones share the
/// count.
///
/// That is additive increase and multiplicative decrease, as in Chiu and Jain, "Analysis of the
/// increase and decrease algorithms for congestion avoidance" (1989).
#[derive(Clone)]
pub(crate) struct Pace(Arc<Mutex<State>>);

struct State {
    most: f64,
    limit: f64,
    under_way: usize,
    waiting: VecDeque<oneshot::Sender<()>>,
    /// How often the limit was lowered.
    lowered: u64,
}

/// Somebody who waits. Woken, and gone before he could begin, he wakes the next.
struct Waiting<'a>(Option<&'a Pace>);

/// A write that is under way until this is dropped.
pub(crate) struct Going {
    pace: Pace,
    began_after: u64,
}

impl Pace {
    /// Lets `most` writes be under way at a time.
    pub(crate) fn of(most: usize) -> Self {
        let most = most as f64;
        Self(Arc::new(Mutex::new(State {
            most,
            limit: most,
            under_way: 0,
            waiting: VecDeque::new(),
            lowered: 0,
        })))
    }

    /// Waits for its turn.
    pub(crate) async fn begin(&self) -> Going {
        loop {
            let mut waiting = Waiting(None);
            let turn = {
                let mut state = self.lock();
                if state.has_room() {
                    state.under_way += 1;
                    return Going {
                        pace: self.clone(),
                        began_after: state.lowered,
                    };
                }
                let (wake, turn) = oneshot::channel();
                state.waiting.push_back(wake);
                waiting.0 = Some(self);
                turn
            };
            // Dropped or sent, there may be room.
            let _ = turn.await;
            waiting.0 = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self) -> bool {
        (self.under_way as f64) < self.limit
    }

    /// Wakes as many as there is room for.
    fn wake(&mut self) {
        let mut room = (self.limit - self.under_way as f64).ceil();
        while room > 0.0 {
            match self.waiting.pop_front() {
                None => return,
                // Whoever does not wait any more needs no room.
                Some(waiting) => room -= f64::from(u8::from(waiting.send(()).is_ok())),
            }
        }
    }
}

impl Going {
    /// What the table answered.
    pub(crate) fn answered(&self, throttled: bool) {
        let mut state = self.pace.lock();
        if !throttled {
            state.limit = (state.limit + 1.0 / state.limit).min(state.most);
        } else if state.lowered == self.began_after {
            // Of all that were under way at that time, one is enough to tell.
            state.limit = (state.under_way as f64 / 2.0).max(1.0);
            state.lowered += 1;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(pace) = self.0 {
            pace.lock().wake();
        }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let mut state = self.pace.lock();
        state.under_way -= 1;
        state.wake();
    }
}

impl fmt::Debug for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State {
            limit, under_way, ..
        } = &*self.lock();
        f.debug_struct("Pace")
            .field("limit", limit)
            .field("under_way", under_way)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt;
    use futures::future::join_all;

    use super::*;

    fn begin(pace: &Pace, writes: usize) -> Vec<Going> {
        let begun = (0..writes).map(|_| pace.begin().now_or_never());
        begun.map_while(|going| going).collect()
    }

    #[test]
    fn a_throttled_write_halves_what_is_under_way_and_those_that_go_well_bring_it_back() {
        let pace = Pace::of(40);
        let all = begin(&pace, 50);
        assert_eq!(all.len(), 40, "at first there are as many as may be");
        all.iter().for_each(|going| going.answered(true));
        drop(all);
        assert_eq!(begin(&pace, 40).len(), 20, "they tell of one moment");
        for limit in 20..30 {
            let going = begin(&pace, 40);
            assert!(
                (limit - 1..=limit).contains(&going.len()),
                "{}",
                going.len()
            );
            going.iter().for_each(|going| going.answered(false));
        }
        let going = begin(&pace, 40);
        going.iter().for_each(|going| going.answered(true));
        assert!(going.len() >= 28);
        drop(going);
        let half = begin(&pace, 40);
        assert!((14..=15).contains(&half.len()), "{}", half.len());
        drop(half);
        for _ in 0..40 {
            begin(&pace, 40)
                .iter()
                .for_each(|going| going.answered(false));
        }
        assert_eq!(begin(&pace, 50).len(), 40, "never more than at first");
    }

    #[test]
    fn one_write_is_always_let_begin() {
        let pace = Pace::of(32);
        for _ in 0..10 {
            let one = begin(&pace, 5);
            assert!(!one.is_empty());
            one.iter().for_each(|going| going.answered(true));
        }
        assert_eq!(begin(&pace, 5).len(), 1);
    }

    #[test]
    fn who_waits_goes_on_when_there_is_room_also_after_one_that_gave_up() {
        let pace = Pace::of(32);
        let first = begin(&pace, 2);
        first.iter().for_each(|going| going.answered(true));
        let [one, two] = <[Going; 2]>::try_from(first).unwrap_or_else(|_| panic!("two began"));
        drop(one);
        {
            let gives_up = pin!(pace.begin());
            assert!(gives_up.now_or_never().is_none());
        }
        let mut waits = pin!(pace.begin());
        assert!(waits.as_mut().now_or_never().is_none());
        drop(two);
        assert!(waits.now_or_never().is_some());
    }

    #[test]
    fn who_was_woken_and_gave_up_wakes_the_next() {
        let pace = Pace::of(1);
        let going = begin(&pace, 1);
        let mut gives_up = Box::pin(pace.begin());
        assert!(gives_up.as_mut().now_or_never().is_none());
        let mut waits = pin!(pace.begin());
        assert!(waits.as_mut().now_or_never().is_none());
        drop(going);
        drop(gives_up);
        assert!(waits.now_or_never().is_some());
    }

    #[tokio::test]
    async fn all_get_their_turn() {
        let pace = Pace::of(32);
        let writes = (0..200).map(|n| {
            let pace = pace.clone();
            async move {
                let going = pace.begin().await;
                tokio::task::yield_now().await;
                going.answered(n % 7 == 0);
            }
        });
        assert_eq!(join_all(writes).await.len(), 200);
    }
}
