//! Random puts, splits, roll-overs, passing time and readers, compared with a model that keeps
//! everything and says what must remain.

use std::collections::BTreeMap;
use std::time::Duration;

use murmur_state::{Clock, ManualClock, SequenceNumber, Timestamp};
use murmur_streams::source::{Cursor, ReadBatch, Start};
use murmur_streams::{EventRecord, StreamError, StreamRecord, StreamStatus, StreamStore};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::{ARN, batch, id_of, info, record, sharded};

const RETENTION: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone)]
enum Step {
    /// A change of an item, made so many hours before or after now.
    Put(u8, Option<i64>),
    /// With a number this far above the last one, or at or below it for 0 and 1.
    PutNumbered(u8, u8),
    Split(usize),
    RollOverShard(usize),
    RollOver,
    Hours(u64),
    Disable,
    Enable,
    /// The reader of a shard reads on.
    Read(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6u8).prop_map(|item| Step::Put(item, None)),
        2 => (0..6u8, -30..10i64).prop_map(|(item, hours)| Step::Put(item, Some(hours))),
        2 => (0..6u8, 0..9u8).prop_map(|(item, above)| Step::PutNumbered(item, above)),
        2 => any::<usize>().prop_map(Step::Split),
        2 => any::<usize>().prop_map(Step::RollOverShard),
        1 => Just(Step::RollOver),
        4 => (1..20u64).prop_map(Step::Hours),
        1 => Just(Step::Disable),
        1 => Just(Step::Enable),
        6 => (any::<usize>(), 1..4usize).prop_map(|(shard, limit)| Step::Read(shard, limit)),
    ]
}

struct Change {
    item: String,
    number: SequenceNumber,
    created_at: Timestamp,
}

/// What the model knows of a shard, from its first record on.
struct Shard {
    parent: Option<String>,
    changes: Vec<Change>,
    closed_at: Option<Timestamp>,
    /// The reader's place, and the record that it must get next.
    reader: Option<(Cursor, usize, Timestamp)>,
}

struct World {
    store: StreamStore,
    clock: ManualClock,
    enabled: bool,
    shards: BTreeMap<String, Shard>,
}

impl Shard {
    fn trimmed(&self, now: Timestamp) -> usize {
        let changes = self.changes.iter();
        changes
            .take_while(|change| is_past(change.created_at, now))
            .count()
    }

    fn is_listed(&self, now: Timestamp) -> bool {
        let empty = self.trimmed(now) == self.changes.len();
        !(empty
            && self
                .closed_at
                .is_some_and(|closed_at| is_past(closed_at, now)))
    }
}

fn is_past(at: Timestamp, now: Timestamp) -> bool {
    now.as_millis() - at.as_millis() >= RETENTION.as_millis() as i64
}

fn numbers(records: &[EventRecord]) -> Vec<(String, SequenceNumber)> {
    let number = |record: &EventRecord| record.change.sequence_number.clone().unwrap();
    records
        .iter()
        .map(|record| {
            let number = SequenceNumber::new(number(record)).unwrap();
            (id_of(&record.change.keys), number)
        })
        .collect()
}

fn expected(changes: &[Change]) -> Vec<(String, SequenceNumber)> {
    let pair = |change: &Change| (change.item.clone(), change.number.clone());
    changes.iter().map(pair).collect()
}

impl World {
    fn new(shards: usize) -> Self {
        let (store, clock) = sharded(shards);
        let mut world = Self {
            store,
            clock,
            enabled: true,
            shards: BTreeMap::new(),
        };
        world.meet_new_shards();
        world
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn listed(&self) -> Vec<String> {
        let listed = self.shards.iter();
        let listed = listed.filter(|(_, shard)| shard.is_listed(self.now()));
        listed.map(|(id, _)| id.clone()).collect()
    }

    fn last(&self) -> Option<SequenceNumber> {
        let changes = self.shards.values().flat_map(|shard| &shard.changes);
        changes.map(|change| change.number.clone()).max()
    }

    fn is_descendant(&self, id: &str, of: &str) -> bool {
        let mut at = Some(id);
        while let Some(id) = at {
            if id == of {
                return true;
            }
            at = self.shards[id].parent.as_deref();
        }
        false
    }

    /// Adds shards that were opened, and records how that closed their parents.
    fn meet_new_shards(&mut self) -> Vec<String> {
        let now = self.now();
        let mut new = vec![];
        for shard in self.store.describe_stream(ARN).unwrap().shards {
            if self.shards.contains_key(&shard.id) {
                continue;
            }
            if let Some(parent) = &shard.parent {
                let parent = self
                    .shards
                    .get_mut(parent)
                    .expect("a parent that was there");
                parent.closed_at.get_or_insert(now);
            }
            new.push(shard.id.clone());
            let known = Shard {
                parent: shard.parent,
                changes: vec![],
                closed_at: None,
                reader: None,
            };
            self.shards.insert(shard.id, known);
        }
        new
    }

    fn go(&mut self, step: &Step) {
        match *step {
            Step::Put(item, hours) => {
                let now = self.now().as_millis();
                let at = |hours: i64| Timestamp::from_millis(now + hours * 3_600_000);
                self.put(StreamRecord {
                    created_at: hours.map(at),
                    ..record(&item.to_string())
                });
            }
            Step::PutNumbered(item, above) => {
                let Some(last) = self.last() else { return };
                let last: u128 = last.as_str().parse().unwrap();
                let given = last + u128::from(above) - 1;
                self.put(StreamRecord {
                    sequence_number: SequenceNumber::new(given.to_string()).ok(),
                    ..record(&item.to_string())
                });
            }
            Step::Split(which) => {
                self.close_one(which, |store, id| store.split(ARN, id).map(Vec::from));
            }
            Step::RollOverShard(which) => self.close_one(which, |store, id| {
                store.roll_over_shard(ARN, id).map(|child| vec![child])
            }),
            Step::RollOver => self.roll_over(),
            Step::Hours(hours) => self.clock.advance(Duration::from_secs(3_600 * hours)),
            Step::Disable => {
                let info = info().with_status(StreamStatus::Disabled);
                self.store.register_stream(info);
                self.enabled = false;
                let now = self.now();
                for shard in self.shards.values_mut() {
                    shard.closed_at.get_or_insert(now);
                }
            }
            Step::Enable => {
                self.store.register_stream(info());
                self.enabled = true;
                self.meet_new_shards();
            }
            Step::Read(which, limit) => self.read_on(which, limit),
        }
    }

    fn put(&mut self, record: StreamRecord) {
        let (now, last) = (self.now(), self.last());
        let item = id_of(&record.keys);
        let created_at = record.created_at.unwrap_or(now);
        let given = record.sequence_number.clone();
        let counts = |world: &Self| {
            let count = |id: &String| world.store.shard_record_count(ARN, id).unwrap();
            let listed = world.listed();
            let counts: BTreeMap<_, _> = listed.iter().map(|id| (id.clone(), count(id))).collect();
            counts
        };
        let before = counts(self);
        let number = match self.store.put_record(record) {
            Ok(number) => number,
            Err(StreamError::Disabled { .. }) => {
                assert!(!self.enabled);
                return assert_eq!(before, counts(self));
            }
            Err(StreamError::NotRising { .. }) => {
                // Above 1 it may still be below the number an empty shard was closed with.
                assert!(given.is_some());
                return assert_eq!(before, counts(self));
            }
            Err(error) => panic!("{error}"),
        };
        assert!(self.enabled && Some(&number) > last.as_ref());
        assert!(given.is_none_or(|given| given == number));
        let grown: Vec<String> = counts(self)
            .into_iter()
            .filter(|(id, count)| before.get(id) != Some(count))
            .map(|(id, _)| id)
            .collect();
        let [shard] = &grown[..] else {
            panic!("{grown:?} have grown")
        };
        assert_eq!(self.shards[shard].closed_at, None);
        let of_item = |shard: &Shard| shard.changes.iter().any(|change| change.item == item);
        for (earlier, known) in &self.shards {
            assert!(
                !of_item(known) || self.is_descendant(shard, earlier),
                "{item} went from {earlier} to {shard}"
            );
        }
        self.shards.get_mut(shard).unwrap().changes.push(Change {
            item,
            number,
            created_at,
        });
    }

    fn close_one(
        &mut self,
        which: usize,
        close: impl Fn(&StreamStore, &str) -> Result<Vec<String>, StreamError>,
    ) {
        let Some((id, closed_at)) = self
            .shards
            .iter()
            .nth(which % self.shards.len())
            .map(|(id, shard)| (id.clone(), shard.closed_at))
        else {
            return;
        };
        let listed = self.listed();
        match close(&self.store, &id) {
            Ok(children) => {
                assert!(self.enabled && closed_at.is_none());
                assert_eq!(self.meet_new_shards(), children);
                for child in children {
                    assert_eq!(self.shards[&child].parent.as_ref(), Some(&id));
                }
            }
            Err(StreamError::Disabled { .. }) => assert!(!self.enabled),
            Err(StreamError::UnknownShard { .. }) => assert!(!listed.contains(&id)),
            Err(StreamError::ShardClosed { .. }) => {
                assert!(listed.contains(&id) && closed_at.is_some());
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn roll_over(&mut self) {
        let open = self.shards.iter().filter(|(_, s)| s.closed_at.is_none());
        let mut open: Vec<_> = open.map(|(id, _)| id.clone()).collect();
        match self.store.roll_over(ARN) {
            Ok(children) => {
                assert_eq!(self.meet_new_shards(), children);
                let parent = |child: &String| self.shards[child].parent.clone().unwrap();
                let mut parents: Vec<_> = children.iter().map(parent).collect();
                parents.sort();
                open.sort();
                assert_eq!(parents, open);
            }
            Err(error) => {
                assert!(matches!(error, StreamError::Disabled { .. }) && !self.enabled);
            }
        }
    }

    fn read_on(&mut self, which: usize, limit: usize) {
        let now = self.now();
        let at = which % self.shards.len();
        let (id, shard) = self.shards.iter_mut().nth(at).unwrap();
        let trimmed = shard.trimmed(now);
        let begin = || (Start::TrimHorizon.into(), trimmed, now);
        let (cursor, position, given_at) = shard.reader.take().unwrap_or_else(begin);
        let expired = now.since(given_at) >= Duration::from_secs(15 * 60);
        match batch(&self.store, id, cursor, limit) {
            Ok(ReadBatch { records, next, .. }) => {
                assert!(position >= trimmed && shard.is_listed(now));
                let end = shard.changes.len().min(position + limit);
                assert_eq!(numbers(&records), expected(&shard.changes[position..end]));
                let ended = shard.closed_at.is_some() && end == shard.changes.len();
                assert_eq!(next.is_none(), ended);
                if let Some(Cursor::Iterator { renew, .. }) = &next {
                    // The place is the same without the iterator.
                    let from = if *renew == Start::TrimHorizon {
                        trimmed
                    } else {
                        end
                    };
                    match batch(&self.store, id, renew.clone(), 1000) {
                        Ok(again) => {
                            assert_eq!(numbers(&again.records), expected(&shard.changes[from..]));
                        }
                        Err(error) => {
                            assert!(matches!(error, StreamError::Trimmed { .. }));
                            assert!(records.is_empty() && from <= trimmed);
                        }
                    }
                }
                shard.reader = next.map(|next| (next, end, now));
            }
            Err(StreamError::Trimmed { .. }) => {
                let number_gone = expired && position <= trimmed;
                assert!((position < trimmed || number_gone) && shard.is_listed(now));
            }
            Err(StreamError::IteratorExpired { .. }) => assert!(expired),
            Err(StreamError::UnknownShard { .. }) => assert!(!shard.is_listed(now)),
            Err(error) => panic!("{error}"),
        }
    }

    /// Compares everything that can be read with what must be there.
    fn check(&self) {
        let now = self.now();
        let described = self.store.describe_stream(ARN).unwrap().shards;
        let ids: Vec<_> = described.iter().map(|shard| shard.id.clone()).collect();
        assert_eq!(ids, self.listed());
        let mut seen: BTreeMap<String, Vec<SequenceNumber>> = BTreeMap::new();
        for shard in &described {
            let known = &self.shards[&shard.id];
            assert_eq!(shard.parent, known.parent);
            assert_eq!(shard.ending.is_some(), known.closed_at.is_some());
            let (trimmed, count) = (known.trimmed(now), known.changes.len());
            assert_eq!(
                self.store.shard_record_count(ARN, &shard.id).unwrap(),
                count
            );
            for change in &known.changes {
                assert!(shard.first.as_ref() <= Some(&change.number));
                assert!(
                    shard
                        .ending
                        .as_ref()
                        .is_none_or(|end| *end >= change.number)
                );
            }
            if let Some(parent) = described
                .iter()
                .find(|p| Some(&p.id) == shard.parent.as_ref())
            {
                assert!(parent.ending < shard.first, "{parent:?} {shard:?}");
            }
            for position in 0..=count + 1 {
                self.check_position(&shard.id, position, trimmed, known);
            }
            let records = batch(&self.store, &shard.id, Start::TrimHorizon, 1000);
            for (item, number) in numbers(&records.unwrap().records) {
                seen.entry(item).or_default().push(number);
            }
        }
        let mut kept: BTreeMap<String, Vec<SequenceNumber>> = BTreeMap::new();
        for shard in self.shards.values() {
            for change in &shard.changes[shard.trimmed(now)..] {
                kept.entry(change.item.clone())
                    .or_default()
                    .push(change.number.clone());
            }
        }
        assert_eq!(seen, kept, "each change that is left is read once");
        // Shards are listed parents first, so this is the order of every reader's lineage.
        assert!(
            seen.values()
                .all(|numbers| numbers.is_sorted_by(|a, b| a < b))
        );
    }

    fn check_position(&self, id: &str, position: usize, trimmed: usize, known: &Shard) {
        let read = self.store.get_records(ARN, id, position, 2);
        let is_trimmed = |error| matches!(error, Some(StreamError::Trimmed { .. }));
        if position < trimmed {
            assert!(is_trimmed(read.err()));
        } else {
            let (records, next) = read.unwrap();
            let records: Vec<EventRecord> = records.iter().map(|r| (&**r).into()).collect();
            let rest = known.changes.get(position..).unwrap_or_default();
            assert_eq!(numbers(&records), expected(&rest[..rest.len().min(2)]));
            assert_eq!(next, position + records.len());
        }
        let Some(change) = known.changes.get(position) else {
            return;
        };
        let at = batch(&self.store, id, Start::At(change.number.clone()), 1000);
        let after = batch(&self.store, id, Start::After(change.number.clone()), 1000);
        for (read, from) in [(at, position), (after, position + 1)] {
            if position < trimmed {
                assert!(is_trimmed(read.err()));
            } else {
                let records = read.unwrap().records;
                assert_eq!(numbers(&records), expected(&known.changes[from..]));
            }
        }
    }

    fn check_pages(&self) {
        let whole = self.store.describe_stream(ARN).unwrap().shards;
        for limit in 1..=100.min(whole.len() + 1) {
            let (mut shards, mut after) = (vec![], None);
            loop {
                let page = self
                    .store
                    .describe_stream_page(ARN, after.as_deref(), limit);
                let page = page.unwrap();
                assert!(page.description.shards.len() <= limit);
                shards.extend(page.description.shards);
                assert!(shards.len() <= whole.len());
                after = page.last_evaluated_shard_id;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(shards, whole, "{limit}");
        }
        // From every shard there ever was, gone ones included.
        for id in self.shards.keys() {
            let page = self.store.describe_stream_page(ARN, Some(id), 100).unwrap();
            let later = whole.iter().filter(|shard| shard.id > *id);
            let later: Vec<_> = later.take(100).cloned().collect();
            assert_eq!(page.description.shards, later);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 250,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_done_each_items_changes_are_read_in_order_and_once(
        shards in 1..5usize,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = World::new(shards);
        for step in &steps {
            world.go(step);
            world.check();
        }
        world.check_pages();
    }
}
