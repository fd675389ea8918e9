//! The state that the operations of one run share, so that an outage is reported once.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::metrics::Causes;

/// How long an operation must fail before it is first reported.
const TOLD_AFTER: Duration = Duration::from_secs(30);

/// The interval of further reports.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// An outage: operations fail again and again with errors that a retry can help. Its `Display` is a
/// sentence for people.
///
/// All operations that share a [`Retry`](crate::retry::Retry) report it once: after 30 seconds, then once
/// a minute, and when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outage<'a> {
    /// It continues.
    Lasts {
        /// For how long the operation that has failed longest has had no success.
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

/// A duration in the form people write: `45 s`, `3 min`, `1 h 5 min`.
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

/// The state that the operations of one run share. Times are monotonic.
#[derive(Default)]
pub(crate) struct State {
    /// The number of places given out so far.
    places: u64,
    /// For each failing operation, the time since which it has had no success.
    failing: BTreeMap<u64, Duration>,
    told: Option<Told>,
    /// How long the operation had failed that last used up its time.
    pub(crate) gave_up_after: Option<Duration>,
    /// Whether any operation used up its attempts or its time.
    pub(crate) is_exhausted: bool,
    /// When the operations were told to stop.
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

    /// Gives a failing operation its place.
    pub(crate) fn place(&self) -> u64 {
        let mut state = self.state();
        state.places += 1;
        state.places
    }

    /// Notes that the operation at `place`, without success since `since`, failed again at `now`.
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

    /// Notes that an operation, or a part of it, succeeded; `place` is set if it had failed before.
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

    /// Notes that an operation ended; `place` is set if it had failed.
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
