//! Which other workers read the stream, and how many shards each should have.
//!
//! A row names the workers. Each adds one to its own count of beats in every round. A worker exists
//! as long as its count changes by the clock of the worker that checks, so clocks need not agree.
//! Shares follow from that row and from how many shards can be read, so workers that see the same
//! compute the same. Shares add up to all shards, and differ by at most one where `maximum_shards`
//! allows.
//!
//! A worker takes free shards up to its share. A worker with more gives some up, but only shards
//! that others lack and cannot find free, only after two such rounds in a row, and then half of
//! them. So shards do not move back and forth while lists and rows are a round apart. A shard that
//! is given up is free for all workers, so it is not lost if the worker it was meant for dies.

use std::collections::BTreeMap;

use murmur_state::Timestamp;
use serde::{Deserialize, Serialize};

use crate::trigger::form::StoredForm;

/// The workers that share the shards, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Workers {
    pub(crate) workers: BTreeMap<String, Beat>,
}

impl StoredForm for Workers {
    const VERSION: u32 = 1;
}

/// What a worker says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    /// Rises by one in every round.
    pub(crate) beats: u64,
    /// How long it may be silent.
    pub(crate) lease_ms: u64,
    /// The most shards it takes.
    pub(crate) room: u64,
    /// When it said so, by its own clock.
    pub(crate) at: Timestamp,
}

impl Workers {
    /// How many of `shards` each worker should have.
    pub(crate) fn shares(&self, shards: usize) -> BTreeMap<&str, usize> {
        let mut shares: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut left, mut open) = (shards, self.workers.iter().collect::<Vec<_>>());
        // Workers with less room than their share take what they can. The others share the rest.
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
