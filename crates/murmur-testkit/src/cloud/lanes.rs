//! Activity at single items: transactions hold them, plain writes queue, partitions reach their
//! limits.

use std::collections::HashMap;
use std::time::Duration;

/// The items with activity, by [`Touch::id`](super::items::Touch::id). All times are since the
/// start.
#[derive(Default)]
pub(super) struct Lanes(HashMap<String, Lane>);

#[derive(Default)]
struct Lane {
    /// Held by a transaction.
    held: bool,
    /// Busy with plain writes until this time.
    busy: Duration,
    /// The write units used and not yet freed, and the time of that value.
    taken: (f64, Duration),
}

impl Lane {
    /// The write units not yet freed at `now`, if `rate` units per second are freed.
    fn taken(&self, now: Duration, rate: f64) -> f64 {
        let passed = now.saturating_sub(self.taken.1).as_secs_f64();
        (self.taken.0 - passed * rate).max(0.0)
    }
}

impl Lanes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Which of the items are held by a transaction.
    pub(super) fn held(&self, ids: &[String]) -> Vec<bool> {
        self.which(ids, |lane| lane.held)
    }

    /// Which of the items are being written, by a plain write or a transaction.
    pub(super) fn busy(&self, ids: &[String], now: Duration) -> Vec<bool> {
        self.which(ids, |lane| lane.held || lane.busy > now)
    }

    /// Which of the items have used all that `limit` units per second allow.
    pub(super) fn full(&self, ids: &[String], now: Duration, limit: f64) -> Vec<bool> {
        self.which(ids, |lane| lane.taken(now, limit) >= limit)
    }

    fn which(&self, ids: &[String], is: impl Fn(&Lane) -> bool) -> Vec<bool> {
        ids.iter()
            .map(|id| self.0.get(id).is_some_and(&is))
            .collect()
    }

    /// Queues a plain write that takes `service` at each of the items. Returns when it is done.
    pub(super) fn queue(&mut self, ids: &[String], now: Duration, service: Duration) -> Duration {
        ids.iter().fold(now, |free, id| {
            let lane = self.0.entry(id.clone()).or_default();
            lane.busy = lane.busy.max(now) + service;
            free.max(lane.busy)
        })
    }

    /// Holds the items until they are released. Returns when the writes before it are done.
    pub(super) fn hold(&mut self, ids: &[String], now: Duration) -> Duration {
        ids.iter().fold(now, |free, id| {
            let lane = self.0.entry(id.clone()).or_default();
            lane.held = true;
            free.max(lane.busy)
        })
    }

    pub(super) fn release(&mut self, ids: &[String]) {
        for id in ids {
            if let Some(lane) = self.0.get_mut(id) {
                lane.held = false;
            }
        }
    }

    /// Charges `units` to the item; `limit` units per second are freed.
    pub(super) fn charge(&mut self, id: String, units: f64, now: Duration, limit: f64) {
        let lane = self.0.entry(id).or_default();
        lane.taken = (lane.taken(now, limit) + units, now);
    }

    /// Removes items without activity, from time to time.
    pub(super) fn forget_quiet(&mut self, now: Duration, limit: Option<f64>) {
        if self.0.len() > 10_000 || limit.is_none() {
            let rate = limit.unwrap_or(f64::INFINITY);
            self.0
                .retain(|_, lane| lane.held || lane.busy > now || lane.taken(now, rate) > 0.0);
        }
    }
}
