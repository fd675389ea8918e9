//! The events: inserts of orders, as Lambda delivers them.

use std::collections::HashMap;
use std::fmt;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use chrono::DateTime;
use fastrand::Rng;
use murmur_core::{AttributeValue, Item};
use murmur_state::Timestamp;
use serde::Serialize;

const STREAM: &str =
    "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-01-01T00:00:00.000";

/// The distribution of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Keys {
    /// 1,000 keys, by Zipf's law with exponent 1.1.
    Zipf,
    /// 100,000 keys with equal probability.
    Uniform,
}

impl Keys {
    pub(super) const ALL: [Self; 2] = [Self::Zipf, Self::Uniform];

    pub(super) fn count(self) -> usize {
        match self {
            Self::Zipf => 1_000,
            Self::Uniform => 100_000,
        }
    }

    /// The `nth` key. With [`Keys::Zipf`] lower keys are drawn more often.
    pub(super) fn name(self, nth: usize) -> String {
        format!("customer-{nth:06}")
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Zipf => "zipf",
            Self::Uniform => "uniform",
        })
    }
}

/// An endless stream of inserts, the same for the same seed.
pub(super) struct Workload {
    keys: Keys,
    dice: Rng,
    /// For each key, the probability of it or an earlier one.
    chances: Vec<f64>,
    made: u64,
    /// The sum of all orders so far.
    pub(super) total: i64,
}

impl Workload {
    pub(super) fn new(keys: Keys, seed: u64) -> Self {
        let weight = |rank: usize| match keys {
            Keys::Zipf => (rank as f64).powf(-1.1),
            Keys::Uniform => 1.0,
        };
        let chances = (1..=keys.count()).scan(0.0, |sum, rank| {
            *sum += weight(rank);
            Some(*sum)
        });
        Self {
            keys,
            dice: Rng::with_seed(seed),
            chances: chances.collect(),
            made: 0,
            total: 0,
        }
    }

    /// The next `records` inserts. `created` returns the creation time of the nth one.
    pub(super) fn batch(&mut self, records: usize, created: impl Fn(usize) -> Timestamp) -> Event {
        let keys: Vec<usize> = (0..records).map(|_| self.draw()).collect();
        self.event(&keys, created)
    }

    /// Draws a key.
    pub(super) fn draw(&mut self) -> usize {
        let drawn = self.dice.f64() * self.all();
        let key = self.chances.partition_point(|chance| *chance <= drawn);
        key.min(self.chances.len() - 1)
    }

    /// The key's share of all events.
    pub(super) fn share(&self, key: usize) -> f64 {
        let until = |key: Option<usize>| key.map_or(0.0, |key| self.chances[key]);
        (until(Some(key)) - until(key.checked_sub(1))) / self.all()
    }

    fn all(&self) -> f64 {
        self.chances.last().copied().unwrap_or(1.0)
    }

    /// One insert for each of `keys`.
    pub(super) fn event(&mut self, keys: &[usize], created: impl Fn(usize) -> Timestamp) -> Event {
        let records = keys.iter().enumerate();
        let records = records.map(|(nth, key)| self.record(*key, created(nth)));
        let mut event = Event::default();
        event.records = records.collect();
        event
    }

    fn record(&mut self, key: usize, created: Timestamp) -> EventRecord {
        let amount = self.dice.i64(1..1_000);
        self.total += amount;
        self.made += 1;
        let id = format!("order-{}", self.made);
        let change = Change {
            event_id: format!("{:032x}", self.dice.u128(..)),
            number: self.made,
            created,
            before: None,
            after: order(&id, &self.keys.name(key), amount),
        };
        change.record(&id)
    }
}

/// A change of an order, as in a stream record.
pub(super) struct Change {
    pub(super) event_id: String,
    /// Its position in the stream.
    pub(super) number: u64,
    pub(super) created: Timestamp,
    /// `None` for an insert.
    pub(super) before: Option<Item>,
    pub(super) after: Item,
}

impl Change {
    pub(super) fn record(self, id: &str) -> EventRecord {
        let mut record = EventRecord::default();
        record.event_id = self.event_id;
        let name = if self.before.is_some() {
            "MODIFY"
        } else {
            "INSERT"
        };
        record.event_name = name.to_owned();
        record.event_source_arn = Some(STREAM.to_owned());
        record.change.sequence_number = Some(format!("1{:020}", self.number));
        record.change.approximate_creation_date_time =
            DateTime::from_timestamp(self.created.as_secs(), 0).unwrap_or_default();
        record.change.keys = item(&[("id", AttributeValue::S(id.to_owned()))]);
        record.change.old_image = self.before.unwrap_or_default();
        record.change.new_image = self.after;
        record
    }
}

/// An order as it is stored in its table.
pub(super) fn order(id: &str, customer: &str, amount: i64) -> Item {
    item(&[
        ("id", AttributeValue::S(id.to_owned())),
        ("customer", AttributeValue::S(customer.to_owned())),
        ("amount", AttributeValue::N(amount.to_string())),
    ])
}

fn item(attributes: &[(&str, AttributeValue)]) -> Item {
    let named = attributes.iter().cloned();
    let named = named.map(|(name, value)| (name.to_owned(), value));
    named.collect::<HashMap<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn customers(keys: Keys, count: usize) -> Vec<String> {
        let mut workload = Workload::new(keys, 1);
        let event = workload.batch(count, |_| Timestamp::from_secs(1_767_225_600));
        let customer = |record: EventRecord| match record.change.new_image.get("customer") {
            Some(AttributeValue::S(name)) => name.clone(),
            other => panic!("{other:?}"),
        };
        event.records.into_iter().map(customer).collect()
    }

    #[test]
    fn zipf_draws_the_first_key_most_and_uniform_hardly_any_twice() {
        let zipf = customers(Keys::Zipf, 10_000);
        let of = |nth| {
            zipf.iter()
                .filter(|name| **name == Keys::Zipf.name(nth))
                .count()
        };
        // The first of the 1,000 keys has 17.9 % of all events, the second 1 / 2^1.1 of that.
        assert!((1_600..2_000).contains(&of(0)), "{}", of(0));
        assert!((700..1_000).contains(&of(1)), "{}", of(1));

        let uniform: HashSet<String> = customers(Keys::Uniform, 1_000).into_iter().collect();
        assert!(uniform.len() > 980, "{}", uniform.len());
    }

    #[test]
    fn the_same_seed_gives_the_same_events_and_no_event_twice() {
        let made = || {
            let mut workload = Workload::new(Keys::Zipf, 7);
            let event = workload.batch(100, |_| Timestamp::from_secs(1));
            let ids = event.records.into_iter().map(|record| record.event_id);
            (ids.collect::<Vec<_>>(), workload.total)
        };
        assert_eq!(made(), made());
        let distinct: HashSet<String> = made().0.into_iter().collect();
        assert_eq!(distinct.len(), 100);
    }
}
