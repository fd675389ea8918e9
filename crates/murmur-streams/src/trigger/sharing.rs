//! Who else reads the stream, and how many shards are each one's.
//!
//! A row names the workers; each adds one to its own count of beats in every round. A worker is
//! there as long as its count changes: by the clock of whoever looks, so that clocks need not
//! agree. Shares follow from that row and from how many shards can be read, so that workers that
//! see the same come to the same: they add up to all shards, and differ by one where
//! `maximum_shards` lets them.
//!
//! A worker takes free shards up to its share. One that has more gives some up, but only what
//! others lack and cannot find free, only if it was so in two rounds in a row, and then half of it:
//! so shards do not go to and fro while lists and rows are a round apart. A shard that is given up
//! is free from then on to all, so it is lost to no one if the worker it was meant for dies.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use murmur_state::{Clock, Timestamp};
use serde::{Deserialize, Serialize};

use crate::trigger::error::TriggerError;
use crate::trigger::positions::{Kept, Positions};

/// How often a beat is tried when others save theirs at the same time; the next round comes soon.
const ATTEMPTS: u32 = 8;

/// How far two clocks may be apart.
const CLOCKS: Duration = Duration::from_secs(90 * 60);

/// The workers that share the shards, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Workers {
    pub(crate) workers: BTreeMap<String, Beat>,
}

impl Kept for Workers {
    const VERSION: u32 = 1;
}

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// One more in every round.
    beats: u64,
    /// How long it may be silent.
    lease_ms: u64,
    /// How many shards it takes at most.
    room: u64,
    /// When it said so, by its own clock.
    at: Timestamp,
}

/// What is remembered of another worker.
#[derive(Debug)]
struct Sighting {
    beats: u64,
    /// When its count was seen to change, in monotonic time; `None` if it was gone long before.
    at: Option<Duration>,
    /// How long it may be silent.
    lease: Duration,
    /// When it was looked at last, in monotonic time.
    looked: Duration,
    /// Whether its silence was excused, since nobody looked for a while. Once for each beat.
    excused: bool,
    /// How far its clock is behind, at the most; zero unless it was seen to beat between two looks
    /// that were close, since what it says may be old.
    behind: Duration,
}

impl Sighting {
    /// Whether it was there at the last look: silence counts only while one looks.
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

    /// How long after the end of its lease, by this clock, `worker` may still hold a shard: as long
    /// as clocks may be apart while it beats, and as far as its clock was seen to be behind after.
    pub(crate) fn grace(&self, worker: &str) -> Duration {
        match self.seen().get(worker) {
            Some(sighting) if sighting.is_there() => CLOCKS,
            Some(sighting) => sighting.behind,
            None => Duration::ZERO,
        }
    }

    /// Takes in who is in the row: another has seen that the rest are gone.
    fn only(&self, workers: &BTreeMap<String, Beat>, clock: &dyn Clock) {
        let now = clock.monotonic();
        self.seen().retain(|worker, sighting| {
            if workers.contains_key(worker) {
                return true;
            }
            sighting.at = None;
            now.saturating_sub(sighting.looked) <= CLOCKS
        });
    }

    /// Takes in what the row says of a worker; whether it is there.
    fn see(&self, worker: &str, beat: &Beat, clock: &dyn Clock) -> bool {
        let (now, wall) = (clock.monotonic(), clock.now());
        let lease = Duration::from_millis(beat.lease_ms);
        let mut seen = self.seen();
        let known = seen.get(worker);
        if known.is_none_or(|known| known.beats != beat.beats) {
            // One that is met for the first time may have been gone for days.
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

impl Positions {
    fn workers_name(&self) -> String {
        self.name.marker("workers", &[])
    }

    /// Says that this worker is there, and has room for so many shards; answers who is.
    pub(crate) async fn beat(&self, room: usize) -> Result<Workers, TriggerError> {
        let name = self.workers_name();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let found: Option<(Workers, u64)> = self.load(&name).await?;
            let over = found.as_ref().map(|(_, version)| *version);
            let mut all = found.map(|(workers, _)| workers).unwrap_or_default();
            self.sightings.only(&all.workers, &*self.clock);
            all.workers.retain(|worker, beat| {
                *worker == self.owner || self.sightings.see(worker, beat, &*self.clock)
            });
            // One that is forgotten and comes again must not be taken for what was seen before.
            let first = || u64::try_from(self.clock.now().as_millis()).unwrap_or(0);
            let beats = all
                .workers
                .get(&self.owner)
                .map_or_else(first, |beat| beat.beats);
            let beat = Beat {
                beats: beats.wrapping_add(1),
                lease_ms: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
                room: room as u64,
                at: self.clock.now(),
            };
            all.workers.insert(self.owner.clone(), beat);
            if self.save(&name, &all, over).await?.is_some() || attempts >= ATTEMPTS {
                return Ok(all);
            }
        }
    }

    /// Says that this worker is no longer there.
    pub(crate) async fn leave(&self) -> Result<(), TriggerError> {
        let name = self.workers_name();
        let found: Option<(Workers, u64)> = self.load(&name).await?;
        if let Some((mut all, version)) = found
            && all.workers.remove(&self.owner).is_some()
        {
            self.save(&name, &all, Some(version)).await?;
        }
        Ok(())
    }
}

impl Workers {
    /// How many of `shards` are each worker's.
    pub(crate) fn shares(&self, shards: usize) -> BTreeMap<&str, usize> {
        let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut left, mut open) = (shards, self.workers.iter().collect::<Vec<_>>());
        // Those who have less room than would be theirs take what they can; the others share the
        // rest.
        loop {
            let even = left.checked_div(open.len()).unwrap_or(0);
            let room = |beat: &Beat| usize::try_from(beat.room).unwrap_or(usize::MAX);
            let (small, rest): (Vec<_>, Vec<_>) =
                open.iter().partition(|(_, beat)| room(beat) <= even);
            for (worker, beat) in &small {
                shares.insert(worker, room(beat));
                left -= room(beat);
            }
            if small.is_empty() {
                break;
            }
            open = rest;
        }
        let (even, odd) = match open.len() {
            0 => (0, 0),
            workers => (left / workers, left % workers),
        };
        for (at, (worker, _)) in open.iter().enumerate() {
            shares.insert(worker, even + usize::from(at < odd));
        }
        shares
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn beat(room: u64) -> Beat {
        Beat {
            beats: 1,
            lease_ms: 30_000,
            room,
            at: Timestamp::from_secs(0),
        }
    }

    proptest! {
        #[test]
        fn shares_are_all_there_is_or_all_there_is_room_for_and_even(
            rooms in prop::collection::vec(prop_oneof![1..5u64, Just(u64::MAX)], 1..6),
            shards in 0..40usize,
        ) {
            let named = rooms.iter().enumerate();
            let workers = named.map(|(at, room)| (at.to_string(), beat(*room))).collect();
            let workers = Workers { workers };
            let shares: Vec<usize> = workers.shares(shards).into_values().collect();
            let room = rooms.iter().fold(0u64, |all, room| all.saturating_add(*room));
            prop_assert_eq!(shares.iter().sum::<usize>() as u64, room.min(shards as u64));
            let most = shares.iter().max().copied().unwrap_or(0);
            for (share, room) in shares.iter().zip(&rooms) {
                prop_assert!(*share as u64 <= *room);
                prop_assert!(*share as u64 == *room || share + 1 >= most, "{:?} of {:?}", shares, rooms);
            }
        }
    }
}
