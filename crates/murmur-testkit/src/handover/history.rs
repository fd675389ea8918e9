//! The source table: the writes to it, and its contents at the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use fastrand::Rng;
use murmur_core::{AttributeValue, BoxError, Decoded, Decoder, Item};
use murmur_state::{SequenceNumber, Timestamp};
use serde::Deserialize;

use super::scenario::{Aggregate, Scenario};
use crate::runs::must;

/// Rows of windows may be removed this many days after their bucket's end.
pub(super) const RETENTION_DAYS: u32 = 1;

/// The first sequence number. DynamoDB's shortest have 21 digits. Each number is a thousand above
/// the previous one.
const FIRST_NUMBER: u128 = 100_000_000_000_000_000_000;

/// The address of a state row.
pub(super) type Address = (String, i64);

/// The contribution of an item to each row.
pub(super) type Contribution = BTreeMap<Address, i64>;

/// An item as the pipeline decodes it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Row {
    pub(super) entities: BTreeSet<String>,
    pub(super) amount: i64,
    pub(super) at: i64,
    #[serde(default)]
    draft: bool,
}

/// Skips drafts, and fails for items without an amount.
pub(super) fn decoder() -> Decoder<Row> {
    Decoder::item(|item| {
        let row: Row = serde_dynamo::from_item(item.clone()).map_err(BoxError::from)?;
        Ok(match row.draft {
            true => Decoded::Skip,
            false => Decoded::Record(row),
        })
    })
}

/// The condition of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    /// The decoder skips the item.
    Draft,
    /// The decoder fails for the item.
    Broken,
    /// One of the item's keys is not usable.
    Keyless,
}

/// A version of an item of the source table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Version {
    row: Row,
    form: Form,
}

impl Version {
    /// The item in its stored form.
    pub(super) fn item(&self, name: &str) -> Item {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let unusable = (self.form == Form::Keyless).then(|| text(""));
        let entities = self.row.entities.iter().map(|entity| text(entity));
        let entities = entities.chain(unusable);
        let amount = match self.form {
            Form::Broken => text("many"),
            _ => AttributeValue::N(self.row.amount.to_string()),
        };
        let mut attributes = HashMap::from([
            ("id".to_owned(), text(name)),
            ("entities".to_owned(), AttributeValue::L(entities.collect())),
            ("amount".to_owned(), amount),
            ("at".to_owned(), AttributeValue::N(self.row.at.to_string())),
        ]);
        if self.form == Form::Draft {
            attributes.insert("draft".to_owned(), AttributeValue::Bool(true));
        }
        attributes.into()
    }

    /// The item's contribution, computed without the pipeline.
    pub(super) fn contribution(&self, scenario: &Scenario) -> Contribution {
        if self.form != Form::Plain {
            return Contribution::new();
        }
        let value = match scenario.aggregate {
            Aggregate::Count => 1,
            Aggregate::Sum => self.row.amount,
        };
        let bucket = bucket(scenario, self.row.at);
        let entities = self.row.entities.iter().cloned();
        entities.map(|entity| ((entity, bucket), value)).collect()
    }
}

fn bucket(scenario: &Scenario, at: i64) -> i64 {
    scenario.window.map_or(0, |length| {
        at.div_euclid(must("a window", i64::try_from(length.as_millis())))
    })
}

/// One change of one item.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// When it happens, since the start.
    pub(super) at: Duration,
    pub(super) item: String,
    pub(super) before: Option<Version>,
    pub(super) after: Option<Version>,
    /// Whether Time to Live removed the item.
    pub(super) expired: bool,
    pub(super) event: String,
    pub(super) number: SequenceNumber,
    /// The kind of change, under which it is counted.
    pub(super) kind: &'static str,
}

/// All changes of the source table.
#[derive(Debug)]
pub(super) struct History {
    /// Items that were written before the stream was enabled.
    pub(super) older: Vec<(String, Version)>,
    pub(super) changes: Vec<Change>,
}

struct Writer<'a> {
    scenario: &'a Scenario,
    start: Timestamp,
    rng: Rng,
    /// The current version of the item in each slot; `None` if the item is absent.
    slots: Vec<Option<Version>>,
    known: Vec<bool>,
}

impl History {
    pub(super) fn of(scenario: &Scenario, start: Timestamp) -> Self {
        let mut writer = Writer {
            scenario,
            start,
            rng: Rng::with_seed(scenario.seed ^ 0x4849_5354),
            slots: vec![None; scenario.items],
            known: vec![false; scenario.items],
        };
        let older = (0..scenario.older).map(|slot| {
            let version = writer.version(Duration::ZERO);
            writer.slots[slot] = Some(version.clone());
            writer.known[slot] = true;
            (name(slot), version)
        });
        let older = older.collect();
        let changes = scenario.writes.iter().enumerate();
        let changes = changes.map(|(nth, at)| writer.change(nth, *at));
        Self {
            changes: changes.collect(),
            older,
        }
    }

    /// The required total of each state row, and the optional contributions to it, if the stream
    /// consumer sees every change from `told_from` on, since the start.
    pub(super) fn expected(&self, scenario: &Scenario, told_from: Duration) -> Expected {
        let mut table: HashMap<&str, &Version> = HashMap::new();
        table.extend(self.older.iter().map(|(item, version)| (&**item, version)));
        let mut expected = Expected::default();
        for change in &self.changes {
            let Change {
                at, item, after, ..
            } = change;
            let before = match after {
                Some(after) => table.insert(item, after),
                None => table.remove(item.as_str()),
            };
            if let (true, Some(before)) = (change.expired && scenario.keeps_expired, before) {
                let kept = before.contribution(scenario);
                let whether = match *at < told_from {
                    true => &mut expected.perhaps,
                    false => &mut expected.certain,
                };
                whether.push(kept);
            }
        }
        let left = table.values().map(|version| version.contribution(scenario));
        expected.certain.extend(left);
        expected
    }

    /// The names of all possible items.
    pub(super) fn names(&self, scenario: &Scenario) -> impl Iterator<Item = String> + use<> {
        (0..scenario.items).map(name)
    }

    /// The item of this name as it was at `at`.
    pub(super) fn version_at(&self, item: &str, at: Duration) -> Option<&Version> {
        let older = self.older.iter().find(|(name, _)| name == item);
        let older = older.map(|(_, version)| version);
        let changes = self.changes.iter();
        let mut changes = changes.filter(|change| change.item == item && change.at <= at);
        changes
            .next_back()
            .map_or(older, |change| change.after.as_ref())
    }
}

/// The totals of a recount.
#[derive(Debug, Default)]
pub(super) struct Expected {
    certain: Vec<Contribution>,
    /// The contributions of items that Time to Live removed and that continue to count, if the
    /// stream consumer saw the removal.
    perhaps: Vec<Contribution>,
}

impl Expected {
    /// All addresses of any contribution.
    pub(super) fn addresses(&self) -> BTreeSet<&Address> {
        let all = self.certain.iter().chain(&self.perhaps);
        all.flat_map(BTreeMap::keys).collect()
    }

    /// The certain total of a row.
    pub(super) fn of(&self, address: &Address) -> i64 {
        let at = |contribution: &Contribution| contribution.get(address).copied();
        self.certain.iter().filter_map(at).sum()
    }

    /// Whether `total` is allowed for a row.
    pub(super) fn allows(&self, address: &Address, total: i64) -> bool {
        let mut sums = BTreeSet::from([self.of(address)]);
        for value in self.perhaps.iter().filter_map(|one| one.get(address)) {
            let more: Vec<i64> = sums.iter().map(|sum| sum + value).collect();
            sums.extend(more);
        }
        sums.contains(&total)
    }
}

fn name(slot: usize) -> String {
    format!("item-{slot}")
}

/// The primary key of the item of this name.
pub(super) fn keys_of(name: &str) -> Item {
    let id = AttributeValue::S(name.to_owned());
    HashMap::from([("id".to_owned(), id)]).into()
}

impl Writer<'_> {
    fn change(&mut self, nth: usize, at: Duration) -> Change {
        let Scenario {
            quiet, bootstraps, ..
        } = self.scenario;
        let before_scan = bootstraps.first().is_some_and(|first| at < first.begin);
        let first = if before_scan { 0 } else { *quiet };
        let slot = self.rng.usize(first..self.slots.len());
        let before = self.slots[slot].clone();
        let (after, expired, kind) = match &before {
            None => {
                let again = std::mem::replace(&mut self.known[slot], true);
                let kind = if again { "re-inserts" } else { "inserts" };
                (Some(self.version(at)), false, kind)
            }
            Some(before) => self.successor(before, at),
        };
        self.slots[slot].clone_from(&after);
        let number = FIRST_NUMBER + 1000 * (nth as u128 + 1);
        Change {
            at,
            item: name(slot),
            before,
            after,
            expired,
            event: format!("{:032x}", self.rng.u128(..)),
            number: must("a number", SequenceNumber::new(number.to_string())),
            kind,
        }
    }

    fn successor(
        &mut self,
        before: &Version,
        at: Duration,
    ) -> (Option<Version>, bool, &'static str) {
        let fresh = self.version(at);
        let of = |form, row: Row| Some(Version { row, form });
        let mut row = before.row.clone();
        match self.rng.u8(..20) {
            0..=2 => (None, false, "deletes"),
            // The ledger may forget items that were removed.
            17..=19 if self.scenario.forgets => (None, false, "deletes"),
            3..=4 if self.scenario.keeps_expired => (None, true, "removals by TTL kept"),
            3..=4 => (None, true, "removals by TTL taken back"),
            5 => (of(Form::Draft, row), false, "rows to be skipped"),
            7 if self.scenario.settling.is_some() => {
                (of(Form::Keyless, row), false, "rows with an unusable key")
            }
            6 => (of(Form::Broken, row), false, "rows to be rejected"),
            7..=12 => {
                row.amount = fresh.row.amount;
                (of(Form::Plain, row), false, "changes of amounts")
            }
            13..=16 => {
                row.entities = fresh.row.entities;
                (of(Form::Plain, row), false, "moves between keys")
            }
            _ if self.scenario.window.is_some() => {
                row.at = fresh.row.at;
                (of(Form::Plain, row), false, "moves between windows")
            }
            _ => (of(Form::Plain, fresh.row), false, "moves between keys"),
        }
    }

    fn version(&mut self, at: Duration) -> Version {
        let count = self.rng.usize(1..=3);
        let entities = (0..count)
            .map(|_| format!("key-{}", self.rng.usize(..self.scenario.entities)))
            .collect();
        let before = Duration::from_secs(self.rng.u64(..30 * 3600));
        let form = match self.rng.u8(..20) {
            0 => Form::Draft,
            1 => Form::Broken,
            2 if self.scenario.settling.is_some() => Form::Keyless,
            _ => Form::Plain,
        };
        Version {
            row: Row {
                entities,
                // Amounts are chosen so that sums of a few of them differ: one too many cannot hide
                // one that is missing.
                amount: self.rng.i64(1..1_000_000_000),
                at: self.start.plus(at).minus(before).as_millis(),
                draft: false,
            },
            form,
        }
    }
}
