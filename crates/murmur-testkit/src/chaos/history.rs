//! The history of a source table, and the totals that follow from it if every event counts once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use aws_lambda_events::event::dynamodb::EventRecord;
use fastrand::Rng;
use murmur_core::{AttributeValue, Item};
use murmur_state::Timestamp;

use super::pipeline::RETENTION_DAYS;
use super::scenario::{Aggregate, Ids, Scenario};
use crate::esm::Incoming;

/// The ARN of the stream that all records come from.
const STREAM: &str =
    "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2027-01-15T08:00:00.000";

/// The first sequence number. DynamoDB's shortest sequence numbers have 21 digits.
const FIRST_NUMBER: u128 = 100_000_000_000_000_000_000;

/// A row's address.
pub(super) type Address = (String, i64);

/// What one event adds to each row.
#[derive(Debug)]
pub(super) struct Contribution {
    pub(super) event: String,
    pub(super) adds: BTreeMap<Address, i64>,
}

/// The changes of a source table.
#[derive(Debug)]
pub(super) struct History {
    pub(super) shards: Vec<Vec<Incoming>>,
    pub(super) contributions: Vec<Contribution>,
    /// The time of the last change.
    pub(super) end: Timestamp,
}

/// An item of the source table.
#[derive(Debug, Clone)]
struct Source {
    name: String,
    entities: BTreeSet<String>,
    amount: i64,
    at: Timestamp,
}

impl Source {
    fn item(&self) -> Item {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let entities = self.entities.iter().map(|entity| text(entity)).collect();
        HashMap::from([
            ("id".to_owned(), text(&self.name)),
            ("entities".to_owned(), AttributeValue::L(entities)),
            (
                "amount".to_owned(),
                AttributeValue::N(self.amount.to_string()),
            ),
            (
                "at".to_owned(),
                AttributeValue::N(self.at.as_millis().to_string()),
            ),
        ])
        .into()
    }

    fn key(&self) -> Item {
        let name = AttributeValue::S(self.name.clone());
        HashMap::from([("id".to_owned(), name)]).into()
    }
}

struct Writer<'a> {
    scenario: &'a Scenario,
    rng: Rng,
    items: Vec<Source>,
    made: usize,
    history: History,
}

impl History {
    pub(super) fn of(scenario: &Scenario, start: Timestamp) -> Self {
        let mut writer = Writer {
            scenario,
            rng: Rng::with_seed(scenario.seed ^ 0x4849_5354),
            items: Vec::new(),
            made: 0,
            history: Self {
                shards: vec![Vec::new(); scenario.shards],
                contributions: Vec::new(),
                end: start,
            },
        };
        for part in &scenario.parts {
            let begin = writer.history.end.plus(part.pause);
            let mut offsets: Vec<Duration> = (0..part.events)
                .map(|_| part.span.mul_f64(writer.rng.f64()))
                .collect();
            offsets.sort_unstable();
            for offset in offsets {
                let created = begin.plus(offset);
                let lag = Duration::from_millis(writer.rng.u64(0..=2000));
                let seen = created.plus(lag).max(begin.plus(part.outage));
                writer.change(created, seen);
            }
        }
        writer.history
    }
}

impl Writer<'_> {
    /// Makes one change to one item.
    fn change(&mut self, created: Timestamp, seen: Timestamp) {
        let retract = self.scenario.retract && !self.items.is_empty();
        let (old, new) = match self.rng.u8(..10) {
            0..=1 if retract => {
                let gone = self.rng.usize(..self.items.len());
                (Some(self.items.swap_remove(gone)), None)
            }
            2..=5 if retract => {
                let at = self.rng.usize(..self.items.len());
                let old = self.items[at].clone();
                let name = old.name.clone();
                let new = match self.rng.u8(..4) {
                    // Another amount under the same keys, or no change that affects a total.
                    0 => old.clone(),
                    1 => Source {
                        amount: self.amount(),
                        ..old.clone()
                    },
                    _ => self.source(name, created),
                };
                self.items[at] = new.clone();
                (Some(old), Some(new))
            }
            _ => {
                let new = self.source(format!("item-{}", self.made), created);
                self.made += 1;
                self.items.push(new.clone());
                (None, Some(new))
            }
        };
        self.record(created, seen, old, new);
    }

    fn source(&mut self, name: String, created: Timestamp) -> Source {
        let count = match self.scenario.several_keys {
            true => self.rng.usize(1..=3),
            false => 1,
        };
        let entities = (0..count)
            .map(|_| format!("key-{}", self.rng.usize(..self.scenario.entities)))
            .collect();
        let before = Duration::from_secs(self.rng.u64(..12 * 3600));
        Source {
            name,
            entities,
            amount: self.amount(),
            at: created.minus(before),
        }
    }

    /// Amounts are chosen so that sums of a few of them differ: an event counted twice cannot hide
    /// one that is missing.
    fn amount(&mut self) -> i64 {
        self.rng.i64(1..1_000_000_000)
    }

    fn record(
        &mut self,
        created: Timestamp,
        seen: Timestamp,
        old: Option<Source>,
        new: Option<Source>,
    ) {
        let bits = self.rng.u128(..);
        let hex = format!("{bits:032x}");
        let event_id = match self.scenario.ids {
            Ids::Hex => hex,
            Ids::Dashed => [
                &hex[..8],
                &hex[8..12],
                &hex[12..16],
                &hex[16..20],
                &hex[20..],
            ]
            .join("-"),
            Ids::Text => format!("event {bits}"),
        };
        let number = FIRST_NUMBER + self.history.contributions.len() as u128;
        let mut record = EventRecord::default();
        record.event_id.clone_from(&event_id);
        record.event_source_arn = Some(STREAM.to_owned());
        record.event_name = match (&old, &new) {
            (None, _) => "INSERT",
            (Some(_), Some(_)) => "MODIFY",
            (Some(_), None) => "REMOVE",
        }
        .to_owned();
        record.change.sequence_number = Some(number.to_string());
        if self.scenario.dated {
            let second = chrono::DateTime::from_timestamp(created.as_secs(), 0);
            record.change.approximate_creation_date_time = second.unwrap_or_default();
        }
        let mut shard = 0;
        for (side, image) in [
            (&old, &mut record.change.old_image),
            (&new, &mut record.change.new_image),
        ] {
            if let Some(source) = side {
                *image = source.item();
                record.change.keys = source.key();
                shard = source.name.len() + source.name.bytes().map(usize::from).sum::<usize>();
            }
        }
        let mut adds = BTreeMap::new();
        for (image, sign) in [(&old, -1), (&new, 1)] {
            if let Some(image) = image {
                self.contribute(image, sign, created, &mut adds);
            }
        }
        let shards = self.history.shards.len();
        self.history.shards[shard % shards].push(Incoming {
            created,
            seen,
            record,
        });
        self.history.contributions.push(Contribution {
            event: event_id,
            adds,
        });
        self.history.end = created;
    }

    fn contribute(
        &self,
        image: &Source,
        sign: i64,
        created: Timestamp,
        adds: &mut BTreeMap<Address, i64>,
    ) {
        if sign < 0 && !self.scenario.retract {
            return;
        }
        let value = match self.scenario.aggregate {
            Aggregate::Count => 1,
            Aggregate::Sum | Aggregate::Bytes | Aggregate::Max | Aggregate::Set => image.amount,
        };
        let bucket = match self.scenario.window {
            None => 0,
            Some(length) => {
                let bucket = image.at.as_millis().div_euclid(length.as_millis() as i64);
                // The bucket's end and retention are computed here instead of by `Window`, which is
                // under test.
                let end = (bucket + 1) * length.as_millis() as i64;
                let over = end + i64::from(RETENTION_DAYS) * 86_400_000;
                if over <= created.as_secs() * 1000 {
                    return;
                }
                bucket
            }
        };
        for entity in &image.entities {
            *adds.entry((entity.clone(), bucket)).or_insert(0) += sign * value;
        }
    }
}
