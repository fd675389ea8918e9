//! Items that settle: when a run allows it, what it encounters, and what must be known at the end.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use murmur_core::{Processor, item_id};
use murmur_state::store::{Add, LedgerEntry, Mend, Outcome, Position, Replace};
use murmur_state::{Causes, Deadline, Key};
use murmur_state::{ItemId, SequenceNumber};
use serde_json::Value;

use super::body::{Body, Shared};
use super::history::{Contribution, decoder, keys_of};
use super::pipeline::{Held, MARKERS};
use super::report::Wrong;
use super::scenario::Life;
use super::world::World;
use crate::cloud::{Answered, Cloud};
use crate::rewrite::parts;
use crate::runs::{lock, must, pick, within};

/// How a run's items settle.
#[derive(Debug, Clone, PartialEq)]
pub struct Settling {
    /// When the state is told that items settle, since the start.
    pub told_at: Duration,
    /// The share of the processes that never learn of it.
    pub deaf: f64,
}

impl Settling {
    /// Derives when items start to settle, for a bootstrap that takes about `scan`: before it,
    /// during it or, in most cases, within `span` after it.
    pub(super) fn of(rng: &mut Rng, scan: Range<Duration>, span: Duration) -> Self {
        let Range {
            start: begin,
            end: scanned,
        } = scan;
        Self {
            told_at: match rng.u8(..8) {
                0 => within(rng, Duration::ZERO, begin),
                1 | 2 => within(rng, begin, scanned),
                _ => within(rng, scanned, scanned + span),
            },
            deaf: pick(rng, &[(1, 0.0), (2, 0.3), (1, 0.6)]),
        }
    }

    /// Whether the process with this seed never learns of it.
    pub(super) fn is_deaf(&self, seed: u64) -> bool {
        Rng::with_seed(seed ^ 0x4445_4146).f64() < self.deaf
    }
}

/// For each settled item, the position up to which its changes had counted when it settled.
pub(super) type Settled = HashMap<String, SequenceNumber>;

/// The prefix of a settled item's position on a table.
pub(super) const SETTLED: &str = "settled ";

/// The position of the settled item that a write puts, if there is one.
pub(super) fn settled_at(put: &Value) -> Option<&str> {
    put["Item"]["at"]["S"].as_str()?.strip_prefix(SETTLED)
}

impl Shared {
    /// Records that an item has settled: alone, or together with changed state rows.
    pub(super) fn has_settled(&self, item: &str, at: &SequenceNumber, alone: bool) {
        let mut log = lock(&self.log);
        if log.settled.insert(item.to_owned(), at.clone()).is_none() {
            let kind = match alone {
                true => "items settled by a mark",
                false => "items settled by a transaction",
            };
            log.met.add(kind, 1);
        }
    }
}

/// Watches the requests to the tables of a state for items that settle.
pub(super) fn watch(cloud: &Cloud, shared: &Arc<Shared>) {
    // A weak reference, so that the observer does not keep the shared state alive.
    let shared = Arc::downgrade(shared);
    cloud.observe(move |Answered { request, is_ok, .. }: &Answered<'_>| {
        let Some(shared) = shared.upgrade().filter(|_| *is_ok) else {
            return;
        };
        let alone = request.body.get("TransactItems").is_none();
        for put in parts(&request.body).filter(|put| put["TableName"] == MARKERS) {
            if let (Some(at), Some(item)) = (settled_at(put), put["Item"]["item"]["S"].as_str()) {
                let at = must("a number", SequenceNumber::new(at));
                shared.has_settled(item, &at, alone);
            }
        }
    });
}

impl Body {
    /// Counts the situation of an entry whose item has settled or could have settled.
    pub(super) fn met_settled(&self, entry: &Replace<i64>, outcome: &Outcome) {
        let mut log = lock(&self.shared.log);
        let settled = log.settled.get(entry.item.as_str()).cloned();
        let again = matches!(outcome, Outcome::Duplicate | Outcome::Superseded);
        let (Some(known), at) = (settled, &entry.at) else {
            let is_change = entry.at != Position::Scan;
            let seen = u64::from(is_change && again && self.shared.scenario.settling.is_some());
            log.met.add("records seen by unsettled items", seen);
            return;
        };
        let Position::Stream(at) = at else {
            log.met.add("scanned rows over settled items", 1);
            return;
        };
        let hears = entry.change.as_ref().is_some_and(|change| change.settles);
        log.met
            .add("settled items and who had not heard", u64::from(!hears));
        match (outcome, *at > known) {
            (_, false) if again => log.met.add("records seen by settled items", 1),
            (Outcome::Duplicate, true) => log.met.add("records by id again", 1),
            (Outcome::Applied, true) => {
                log.met.add("records counted by id", 1);
                let told = self.shared.told.get(at);
                let kind = match told.map(|told| told.kind) {
                    Some("re-inserts") => "re-inserts of settled items",
                    Some("deletes") => "deletes of settled items",
                    Some("removals by TTL kept") => "settled items kept after TTL",
                    Some("removals by TTL taken back") => "settled items taken back after TTL",
                    _ => return,
                };
                log.met.add(kind, 1);
            }
            _ => {}
        }
    }
}

impl World {
    /// Runs a process that tells the state that items settle.
    pub(super) async fn tell(&self, told_at: Duration) {
        self.time().reached(told_at).await;
        let body = self.body(0, &Life::EASY);
        let processor = Processor::with_decoder([self.state.pipeline(&body)], decoder())
            .clock(Arc::clone(&body.clock))
            .random(body.random.clone())
            .build();
        let processor = must("the processor", processor);
        loop {
            // Only refusals of this attempt excuse it.
            body.connection.was_refused();
            let was_bound = lock(&self.shared.log).bound;
            let deadline = Deadline::within(&*body.clock, Duration::from_secs(60));
            match processor.settle(deadline).await {
                Ok(()) => break,
                Err(error) if error.is_retryable() || body.connection.was_refused() => {}
                // Neither a bootstrap nor the stream consumer has started yet.
                Err(_) if !was_bound => {}
                Err(error) => {
                    let error = Causes(&error).to_string();
                    self.shared
                        .wrong(format!("items cannot be let settle: {error}"));
                    return;
                }
            }
            body.sleep(self.scenario().poll).await;
        }
        let mut log = lock(&self.shared.log);
        log.met.add("told that items settle", 1);
        let early = u64::from(!log.finished);
        log.met.add("told so before the bootstrap's end", early);
    }

    /// Runs repairs when nothing was lost and every change has arrived: neither an item nor a key
    /// differs.
    pub(super) async fn mend_nothing(&self) {
        let body = self.body(0, &Life::EASY);
        let (found, left) = must("a repair in vain", self.repairing(&body).await);
        if found.differing + found.unsettled + left > 0 {
            self.shared
                .wrong(format!("nothing was lost: {left} left of {found:?}"));
        }
        lock(&self.shared.log)
            .met
            .add("settled items that a repair met", found.settled);
    }

    /// Tries to correct every settled item from the table, which must change nothing.
    pub(super) async fn mend_settled(&self) {
        let body = self.body(0, &Life::EASY);
        let held = self.state.held().await;
        let mut mends = Vec::new();
        for (name, id) in self.items() {
            let Some(known) = of(&held.known, &id).filter(|known| known.settled) else {
                continue;
            };
            mends.push(Mend {
                item: id,
                over: Some(known.version),
                now: adds(&self.in_the_table(&name)),
            });
        }
        for (mend, outcome) in mends.iter().zip(self.state.mend(&body, &mends).await) {
            if !matches!(outcome, Outcome::Superseded) {
                let what = format!("a settled item was to be mended: {mend:?}, {outcome:?}");
                self.shared.wrong(what);
            }
        }
    }

    /// For an item that has not settled, the ledger must agree with the table. For a settled item,
    /// the ledger must not state a contribution.
    pub(super) fn look_up(&self, held: &Held) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        for (name, id) in self.items() {
            let known = of(&held.known, &id);
            let now = known.map_or(&[][..], |known| &known.now);
            let kept = known.map_or(&[][..], |known| &known.kept);
            if known.is_some_and(|known| known.settled) {
                if !now.is_empty() || !kept.is_empty() {
                    wrong.push(format!("{name} has settled and contributes: {known:?}"));
                }
                continue;
            }
            let now: Contribution = now
                .iter()
                .map(|add| ((add.key.entity().to_owned(), add.key.bucket()), add.value))
                .filter(|((_, bucket), _)| !self.is_over(*bucket))
                .collect();
            let there = self.in_the_table(&name);
            if now != there {
                wrong.push(format!("{name} is {there:?}, and known as {known:?}"));
            }
        }
        wrong.into_iter().map(Wrong::Other).collect()
    }

    fn items(&self) -> impl Iterator<Item = (String, ItemId)> {
        let names = self.shared.history.names(self.scenario());
        names.map(|name| {
            let id = item_id(&keys_of(&name));
            (name, id)
        })
    }

    /// The contribution of an item at the end, without windows that may be over.
    fn in_the_table(&self, name: &str) -> Contribution {
        let last = self.shared.history.version_at(name, Duration::MAX);
        let contributes = last.map(|last| last.contribution(self.scenario()));
        let mut contributes = contributes.unwrap_or_default();
        contributes.retain(|(_, bucket), _| !self.is_over(*bucket));
        contributes
    }
}

fn of<'a>(known: &'a [LedgerEntry<i64>], item: &ItemId) -> Option<&'a LedgerEntry<i64>> {
    known.iter().find(|known| known.item == *item)
}

fn adds(contribution: &Contribution) -> Vec<Add<i64>> {
    let adds = contribution.iter().map(|((entity, bucket), value)| Add {
        key: must("a key", Key::new(entity.as_str(), *bucket)),
        value: *value,
        ttl: None,
    });
    adds.collect()
}
