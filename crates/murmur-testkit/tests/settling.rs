//! Random batches of one stream over a real DynamoDB, by two pollers and a scan at once: the items
//! settle meanwhile, of which one poller hears later than the other or never. Without the condition of
//! a mark, or with another position in it, totals go wrong.
//!
//! `SETTLING_SEEDS=300` plays more of them, `SETTLING_SEED=7` one.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::collections::BTreeMap;
use std::env;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use fastrand::Rng;
use futures::future::join3;
use murmur_core::Sum;
use murmur_state::conformance::bound;
use murmur_state::store::{Add, ItemChange, LedgerEntry, ListSegment, Outcome, Position, Replace};
use murmur_state::{Deadline, EventId, Fault, ItemId, Key, Ledger, ReadExt as _, SequenceNumber};
use murmur_state_ddb::{
    Int64SumStore, Marked, TableOptions, create_dedup_table, create_int64_table,
};
use murmur_testkit::Dynamo;
use murmur_testkit::cloud::{Cloud, START, Weather};
use murmur_testkit::time::Time;
use serde_json::{Map, Value, json};

/// How many seeds are played unless told otherwise.
const SEEDS: u64 = 10;

/// How many seeds are played without a rule at the most, until one is wrong.
const NOTICED_BY: u64 = 100;

/// What the position of a settled item begins with.
const SETTLED: &str = "settled ";

const FIRST: u128 = 100_000_000_000_000_000_000;

const KEYS: usize = 3;

/// How often a batch is sent until all of it is done.
const ENDLESS: usize = 200;

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap())
}

/// What an item contributes; nothing, where it is gone.
type Version = Vec<Add<i64>>;

fn version(rng: &mut Rng) -> Version {
    let keys = match rng.u8(..5) {
        0 => 0,
        _ => rng.usize(1..=2),
    };
    let mut all: Vec<usize> = (0..KEYS).collect();
    rng.shuffle(&mut all);
    let add = |key: usize| Add {
        key: Key::new(format!("key-{key}"), 0).unwrap(),
        value: rng.i64(1..1_000_000_000),
        ttl: None,
    };
    all.into_iter().take(keys).map(add).collect()
}

/// A change of an item.
struct Change {
    item: usize,
    before: Version,
    after: Version,
}

struct History {
    items: usize,
    /// What the items were before their changes.
    first: Vec<Version>,
    changes: Vec<Change>,
    /// The first change that the stream tells of; the scan begins after those before it.
    told_from: usize,
}

impl History {
    fn of(rng: &mut Rng) -> Self {
        let items = rng.usize(2..=5);
        let first: Vec<Version> = (0..items).map(|_| version(rng)).collect();
        let mut now = first.clone();
        let changes = (0..rng.usize(20..=40)).map(|_| {
            let item = rng.usize(..items);
            let after = version(rng);
            let before = std::mem::replace(&mut now[item], after.clone());
            Change {
                item,
                before,
                after,
            }
        });
        let changes: Vec<Change> = changes.collect();
        Self {
            items,
            first,
            told_from: rng.usize(..=changes.len() / 4),
            changes,
        }
    }

    /// An item after so many changes.
    fn at(&self, item: usize, changes: usize) -> &Version {
        let of_item = |change: &&Change| change.item == item;
        let last = self.changes[..changes].iter().rev().find(of_item);
        last.map_or(&self.first[item], |last| &last.after)
    }

    fn totals(&self) -> BTreeMap<String, i64> {
        let nothing = (0..KEYS).map(|key| (format!("key-{key}"), 0));
        let mut totals: BTreeMap<String, i64> = nothing.collect();
        for item in 0..self.items {
            for add in self.at(item, self.changes.len()) {
                *totals.entry(add.key.entity().to_owned()).or_default() += add.value;
            }
        }
        totals
    }
}

fn name(item: usize) -> ItemId {
    ItemId::from_parts([item.to_string().as_str()])
}

/// One process.
struct Process {
    store: Marked<Int64SumStore>,
    time: Time,
}

impl Process {
    fn of(cloud: &Cloud, time: &Time, [totals, markers]: &[String; 2]) -> Self {
        let options = TableOptions::default().clock(time.clock(0));
        // The SDK would really wait before it tries again.
        let config = cloud.process().client_config();
        let config = config.retry_config(RetryConfig::disabled());
        let client = Client::from_conf(config.build());
        let store = Int64SumStore::with_options(client, &**totals, options);
        Self {
            store: store.unwrap().markers(&**markers),
            time: time.clone(),
        }
    }

    fn scanned(&self, item: usize, now: &Version) -> Replace<i64> {
        Replace {
            item: name(item),
            at: Position::Scan,
            created: None,
            now: now.clone(),
            keep: Vec::new(),
            change: None,
        }
    }

    fn told(&self, nth: usize, change: &Change, settles: bool) -> Replace<i64> {
        let at = FIRST + 1000 * (nth as u128 + 1);
        Replace {
            at: Position::Stream(SequenceNumber::new(at.to_string()).unwrap()),
            created: Some(START),
            change: Some(ItemChange {
                id: EventId::new(format!("{nth:032x}")).unwrap(),
                handed_over: self.time.now(),
                before: change.before.clone(),
                settles,
            }),
            ..self.scanned(change.item, &change.after)
        }
    }

    /// Sends entries again and again until all are done.
    async fn send(&self, entries: &[Replace<i64>]) {
        let bound = bound("settling");
        let mut last = None;
        for _ in 0..ENDLESS {
            let replaced = Ledger::<Sum>::replace(&self.store, &bound, entries, Deadline::NONE);
            let outcomes = replaced.await;
            last = outcomes.into_iter().find(|outcome| match outcome {
                Outcome::Failed(error) => {
                    assert_ne!(error.fault(), Fault::Record, "{error}");
                    assert_ne!(error.fault(), Fault::Setup, "{error}");
                    true
                }
                outcome => matches!(outcome, Outcome::Blocked),
            });
            if last.is_none() {
                return;
            }
        }
        panic!("not done: {last:?}");
    }

    /// Brings the stream in batches, of which some come again in other ones.
    async fn poll(&self, history: &History, hears_from: usize, mut rng: Rng) {
        let mut next = history.told_from;
        while next < history.changes.len() {
            let end = history.changes.len().min(next + rng.usize(1..=8));
            let batch = next..end;
            let batch = batch.map(|nth| self.told(nth, &history.changes[nth], nth >= hears_from));
            self.send(&batch.collect::<Vec<_>>()).await;
            next = match rng.u8(..4) {
                0 => next.saturating_sub(rng.usize(..8)).max(history.told_from),
                _ => end,
            };
        }
    }

    async fn scan(&self, history: &History, mut rng: Rng) {
        for item in 0..history.items {
            let seen_after = rng.usize(history.told_from..=history.changes.len());
            let now = history.at(item, seen_after);
            if !now.is_empty() {
                self.send(&[self.scanned(item, now)]).await;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn known(&self) -> Vec<LedgerEntry<i64>> {
        let (bound, segment) = (bound("settling"), ListSegment::WHOLE);
        let known = Ledger::<Sum>::list_known(&self.store, &bound, segment, None);
        known.await.unwrap().entries
    }
}

/// What a run shows.
#[derive(Debug, Default)]
struct Played {
    wrong: Vec<String>,
    settled: usize,
    unsettled: usize,
}

/// Plays a run in which marks are changed by `change` on their way.
async fn play(dynamo: &Dynamo, seed: u64, change: fn(&mut Map<String, Value>)) -> Played {
    let rng = &mut Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5345_5454);
    let history = &History::of(rng);
    let rate = [0.0, 0.02, 0.05][rng.usize(..3)];
    let weather = Weather {
        fail_before: rate,
        drop_before: rate,
        fail_after: rate,
        drop_after: rate,
        stall: rate,
        conflict: rate,
        ..Weather::calm()
    };
    let time = Time::stepped(START);
    let cloud = Cloud::over_at(&time, dynamo, seed, weather);
    cloud.rewrite(move |request| {
        let Some(put) = request.body.as_object_mut() else {
            return;
        };
        let at = put.get("Item").and_then(|item| item["at"]["S"].as_str());
        if at.is_some_and(|at| at.starts_with(SETTLED)) {
            change(put);
        }
    });
    let tables = [dynamo.table("totals"), dynamo.table("markers")];
    create_int64_table(&cloud.admin(), &tables[0])
        .await
        .unwrap();
    create_dedup_table(&cloud.admin(), &tables[1])
        .await
        .unwrap();
    let [one, other, scanning] = [(); 3].map(|()| Process::of(&cloud, &time, &tables));
    let changes = history.changes.len();
    let early = match rng.u8(..3) {
        0 => changes - rng.usize(..=4),
        _ => rng.usize(..changes),
    };
    let late = rng.usize(early..2 * changes);
    let dice = [(); 3].map(|()| Rng::with_seed(rng.u64(..)));
    let [dice_of_one, dice_of_other, dice_of_scan] = dice;
    join3(
        one.poll(history, early, dice_of_one),
        other.poll(history, late, dice_of_other),
        scanning.scan(history, dice_of_scan),
    )
    .await;
    cloud.flush().await;
    cloud.set_weather(Weather::calm());
    let mut played = Played::default();
    for (entity, wanted) in history.totals() {
        let found = one.store.get(&Key::new(&*entity, 0).unwrap()).await;
        let found = found.unwrap().unwrap_or(0);
        if found != wanted {
            let what = format!("seed {seed}: {entity} is {found}, and {wanted} by a recount");
            played.wrong.push(what);
        }
    }
    let known = one.known().await;
    for item in 0..history.items {
        let known = known.iter().find(|known| known.item == name(item));
        let now = known.map_or(&[][..], |known| &known.now);
        let settled = known.is_some_and(|known| known.settled);
        let wanted = match settled {
            true => &[][..],
            false => history.at(item, changes),
        };
        if now != wanted {
            let what = format!("seed {seed}: {item} is {wanted:?}, and known as {known:?}");
            played.wrong.push(what);
        }
        played.settled += usize::from(settled);
        played.unsettled += usize::from(!settled);
    }
    played
}

#[tokio::test]
async fn totals_are_right_whoever_hears_that_items_settle() {
    let dynamo = Dynamo::connect().await;
    let (first, seeds) = match number("SETTLING_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SETTLING_SEEDS").unwrap_or(SEEDS)),
    };
    let (mut settled, mut unsettled) = (0, 0);
    for seed in first..first + seeds {
        let played = play(&dynamo, seed, |_| ()).await;
        assert_eq!(played.wrong, [""; 0]);
        settled += played.settled;
        unsettled += played.unsettled;
    }
    if seeds > 1 {
        assert!(settled > 0 && unsettled > 0, "{settled}, {unsettled}");
    }
}

#[tokio::test]
async fn marks_that_are_not_as_they_should_be_are_noticed() {
    let unconditional = |put: &mut Map<String, Value>| {
        put.remove("ConditionExpression");
        put.remove("ExpressionAttributeValues");
    };
    // As if the record had counted by then.
    let at_the_record = |put: &mut Map<String, Value>| {
        let at = put["Item"]["at"]["S"].as_str().unwrap();
        let below: u128 = at[SETTLED.len()..].parse().unwrap();
        put["Item"]["at"]["S"] = json!(format!("{SETTLED}{}", below + 1));
    };
    let dynamo = Dynamo::connect().await;
    for change in [unconditional, at_the_record] {
        let mut noticed = false;
        for seed in 0..NOTICED_BY {
            noticed |= !play(&dynamo, seed, change).await.wrong.is_empty();
            if noticed {
                break;
            }
        }
        assert!(noticed, "no run of {NOTICED_BY} is wrong");
    }
}
