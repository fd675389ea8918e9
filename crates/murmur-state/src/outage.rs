//! What the operations of one run have in common: an outage that all of them meet is told once.

use std::collections::BTreeMap;
use std::error::Error;
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

type Tell = dyn Fn(&Outage<'_>) + Send + Sync;

/// The operations that fail at the moment.
#[derive(Default)]
pub(crate) struct Outages {
    tell: Option<Box<Tell>>,
    state: Mutex<State>,
}

/// What the operations of one run have in common. Times are monotonic.
#[derive(Default)]
pub(crate) struct State {
    /// How many operations have had a place.
    places: u64,
    /// Since when each has had no success.
    failing: BTreeMap<u64, Duration>,
    told: Option<Told>,
    /// How long the operation had failed that last used up its time.
    pub(crate) gave_up_after: Option<Duration>,
    /// Whether any used up its attempts or its time.
    pub(crate) is_exhausted: bool,
    /// When all were told to stop.
    pub(crate) stopped: Option<Duration>,
}

#[derive(Clone, Copy)]
struct Told {
    since: Duration,
    at: Duration,
}

impl Outages {
    pub(crate) fn new(tell: impl Fn(&Outage<'_>) + Send + Sync + 'static) -> Self {
        Self {
            tell: Some(Box::new(tell)),
            state: Mutex::default(),
        }
    }

    /// A place among the others for an operation that fails.
    pub(crate) fn place(&self) -> u64 {
        let mut state = self.state();
        state.places += 1;
        state.places
    }

    /// The operation at `place`, without success `since` then, failed again `now`.
    pub(crate) fn failed(
        &self,
        place: u64,
        since: Duration,
        now: Duration,
        error: &(dyn Error + 'static),
    ) {
        let lasted = {
            let mut state = self.state();
            state.failing.insert(place, since);
            let longest = state.failing.values().min().copied().unwrap_or(since);
            let is_told = |told: Told| now.saturating_sub(told.at) < TOLD_EVERY;
            if now.saturating_sub(longest) < TOLD_AFTER || state.told.is_some_and(is_told) {
                return;
            }
            let since = state.told.map_or(longest, |told| told.since.min(longest));
            state.told = Some(Told { since, at: now });
            now.saturating_sub(since)
        };
        let error = &Causes(error).to_string();
        self.tell(&Outage::Lasts { lasted, error });
    }

    /// An operation succeeded, or a part of it; it had `place` if it had failed before.
    pub(crate) fn succeeded(&self, place: Option<u64>, now: Duration) {
        self.ended(place);
        let mut state = self.state();
        let State { told, failing, .. } = &mut *state;
        let over = told.take_if(|told| failing.values().all(|since| *since > told.at));
        drop(state);
        if let Some(told) = over {
            let lasted = now.saturating_sub(told.since);
            self.tell(&Outage::Over { lasted });
        }
    }

    /// An operation ended; it had `place` if it had failed.
    pub(crate) fn ended(&self, place: Option<u64>) {
        if let Some(place) = place {
            self.state().failing.remove(&place);
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
