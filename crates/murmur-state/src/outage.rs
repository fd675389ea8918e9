//! What the operations of one run have in common: an outage that all of them meet is told once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::metrics::Causes;

/// How long an operation has failed when it is told for the first time.
const TOLD_AFTER: Duration = Duration::from_secs(30);

/// How often it is told after that.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// An outage: operations fail in passing, again and again. Its `Display` is a sentence for people.
///
/// It is told once for all operations that share a [`Retry`](crate::Retry): after 30 seconds, then
/// once a minute, and when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outage<'a> {
    /// It goes on.
    Lasts {
        /// How long the operation that has failed longest has had no success.
        lasted: Duration,
        /// The last error, with its causes.
        error: &'a str,
    },
    /// Every operation that failed has ended, and one succeeded.
    Over {
        /// How long it lasted.
        lasted: Duration,
    },
}

impl fmt::Display for Outage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lasts { lasted, error } => {
                let lasted = Roughly(*lasted);
                write!(f, "no success for {lasted}, still trying: {error}")
            }
            Self::Over { lasted } => write!(f, "it succeeds again after {}", Roughly(*lasted)),
        }
    }
}

/// A duration for people: `45 s`, `3 min`, `1 h 5 min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roughly(pub Duration);

impl fmt::Display for Roughly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 3600, seconds / 60 % 60) {
            (0, 0) => write!(f, "{seconds} s"),
            (0, minutes) => write!(f, "{minutes} min"),
            (hours, 0) => write!(f, "{hours} h"),
            (hours, minutes) => write!(f, "{hours} h {minutes} min"),
        }
    }
}

pub(crate) type Tell = dyn Fn(&Outage<'_>) + Send + Sync;

/// The operations that fail at the moment.
#[derive(Default)]
pub(crate) struct Outages {
    tell: Option<Box<Tell>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Since when each has had no success.
    failing: BTreeMap<u64, Duration>,
    told: Option<Told>,
    gave_up: Option<Duration>,
    exhausted: bool,
    stopped: Option<Duration>,
}

#[derive(Clone, Copy)]
struct Told {
    since: Duration,
    at: Duration,
}

/// The place of a failing operation among the others.
#[derive(Debug)]
pub(crate) struct Ticket(u64);

impl Outages {
    pub(crate) fn told_to(tell: Box<Tell>) -> Self {
        Self {
            tell: Some(tell),
            state: Mutex::default(),
        }
    }

    /// An operation without success `since` then failed again `now`.
    pub(crate) fn failed(
        &self,
        ticket: &mut Option<Ticket>,
        since: Duration,
        now: Duration,
        error: &(dyn std::error::Error + 'static),
    ) {
        let lasted = {
            let mut state = self.state();
            let Ticket(place) = ticket.get_or_insert_with(|| {
                state.next += 1;
                Ticket(state.next)
            });
            state.failing.insert(*place, since);
            let longest = state.failing.values().min().copied().unwrap_or(since);
            let since = state.told.map_or(longest, |told| told.since.min(longest));
            let again = |told: Told| now.saturating_sub(told.at) >= TOLD_EVERY;
            if now.saturating_sub(longest) < TOLD_AFTER || !state.told.is_none_or(again) {
                return;
            }
            state.told = Some(Told { since, at: now });
            now.saturating_sub(since)
        };
        let error = Causes(error).to_string();
        self.tell(&Outage::Lasts {
            lasted,
            error: &error,
        });
    }

    /// An operation succeeded, or a part of it.
    pub(crate) fn succeeded(&self, ticket: &mut Option<Ticket>, now: Duration) {
        let over = {
            let mut state = self.state();
            if let Some(Ticket(place)) = ticket.take() {
                state.failing.remove(&place);
            }
            let failing: Vec<_> = state.failing.values().copied().collect();
            let is_over = |told: &mut Told| failing.iter().all(|since| *since > told.at);
            state.told.take_if(is_over)
        };
        if let Some(told) = over {
            let lasted = now.saturating_sub(told.since);
            self.tell(&Outage::Over { lasted });
        }
    }

    /// An operation ended without success.
    pub(crate) fn ended(&self, ticket: &mut Option<Ticket>) {
        if let Some(Ticket(place)) = ticket.take() {
            self.state().failing.remove(&place);
        }
    }

    /// An operation used up its time.
    pub(crate) fn gave_up(&self, after: Duration) {
        let mut state = self.state();
        (state.gave_up, state.exhausted) = (Some(after), true);
    }

    /// An operation used up its attempts.
    pub(crate) fn exhausted(&self) {
        self.state().exhausted = true;
    }

    pub(crate) fn is_exhausted(&self) -> bool {
        self.state().exhausted
    }

    pub(crate) fn gave_up_after(&self) -> Option<Duration> {
        self.state().gave_up
    }

    pub(crate) fn stop(&self, now: Duration) {
        self.state().stopped.get_or_insert(now);
    }

    /// Whether nothing is to be tried again, `grace` after the stop.
    pub(crate) fn is_stopped(&self, now: Duration, grace: Duration) -> bool {
        let stopped = self.state().stopped;
        stopped.is_some_and(|at| now >= at.saturating_add(grace))
    }

    fn tell(&self, outage: &Outage<'_>) {
        match outage {
            Outage::Lasts { .. } => tracing::warn!("{outage}"),
            Outage::Over { .. } => tracing::info!("{outage}"),
        }
        if let Some(tell) = &self.tell {
            tell(outage);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Outages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outages").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_the_two_greatest_units() {
        for (seconds, told) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (239, "3 min"),
            (3600, "1 h"),
            (3901, "1 h 5 min"),
        ] {
            assert_eq!(Roughly(Duration::from_secs(seconds)).to_string(), told);
        }
    }
}
