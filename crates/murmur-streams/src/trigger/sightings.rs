//! Which other workers exist, as far as this one has seen.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use murmur_state::Clock;

use crate::trigger::workers::Beat;

/// How far two clocks may differ.
const CLOCKS: Duration = Duration::from_secs(90 * 60);

/// What is remembered about another worker.
#[derive(Debug)]
struct Sighting {
    beats: u64,
    /// When its count was seen to change, in monotonic time, or `None` if it had already been gone
    /// for long.
    at: Option<Duration>,
    /// How long it may be silent.
    lease: Duration,
    /// When it was last checked, in monotonic time.
    looked: Duration,
    /// Whether its silence was excused because this worker did not check for a while. Allowed once
    /// per beat.
    excused: bool,
    /// How far its clock is behind at most. Zero unless it was seen to beat between two close
    /// checks, because a time read otherwise may be old.
    behind: Duration,
}

impl Sighting {
    /// Whether it existed at the last check. Silence counts only while this worker checks.
    fn is_there(&self) -> bool {
        self.at
            .is_some_and(|at| self.looked.saturating_sub(at) <= self.lease)
    }

    fn look(&mut self, now: Duration) {
        let looked_away = now.saturating_sub(self.looked) > self.lease;
        if looked_away && self.is_there() && !self.excused {
            (self.at, self.excused) = (Some(now), true);
        }
        self.looked = now;
    }
}

/// What this worker has seen of the others.
#[derive(Debug, Default)]
pub(crate) struct Sightings(Mutex<HashMap<String, Sighting>>);

impl Sightings {
    fn seen(&self) -> MutexGuard<'_, HashMap<String, Sighting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long after the end of its lease, by this clock, `worker` may still hold a shard. While
    /// it beats, this is how far clocks may differ; after that, how far its clock was seen to be
    /// behind.
    pub(crate) fn grace(&self, worker: &str) -> Duration {
        match self.seen().get(worker) {
            Some(sighting) if sighting.is_there() => CLOCKS,
            Some(sighting) => sighting.behind,
            None => Duration::ZERO,
        }
    }

    /// Takes over which workers are in the row. Another worker has seen that the rest are gone.
    pub(crate) fn only(&self, workers: &BTreeMap<String, Beat>, clock: &dyn Clock) {
        let now = clock.monotonic();
        self.seen().retain(|worker, sighting| {
            if workers.contains_key(worker) {
                return true;
            }
            sighting.at = None;
            now.saturating_sub(sighting.looked) <= CLOCKS
        });
    }

    /// Takes over what the row says about a worker. Returns whether it exists.
    pub(crate) fn see(&self, worker: &str, beat: &Beat, clock: &dyn Clock) -> bool {
        let (now, wall) = (clock.monotonic(), clock.now());
        let lease = Duration::from_millis(beat.lease_ms);
        let mut seen = self.seen();
        let known = seen.get(worker);
        if known.is_none_or(|known| known.beats != beat.beats) {
            // A worker that is seen for the first time may have been gone for days.
            let gone = known.is_none() && wall.since(beat.at) > lease.saturating_add(CLOCKS);
            let close = known.filter(|known| now.saturating_sub(known.looked) <= lease);
            let behind = close.map(|_| wall.since(beat.at).min(CLOCKS));
            let sighting = Sighting {
                beats: beat.beats,
                at: (!gone).then_some(now),
                lease,
                looked: now,
                excused: false,
                behind: behind.unwrap_or_default(),
            };
            seen.insert(worker.to_owned(), sighting);
        }
        seen.get_mut(worker).is_some_and(|sighting| {
            sighting.look(now);
            sighting.is_there()
        })
    }
}
