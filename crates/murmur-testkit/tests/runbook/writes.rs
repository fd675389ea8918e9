//! What is written to the table of orders, and when.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use fastrand::Rng;
use murmur_core::{AttributeValue, Item};

/// The orders that a writer works on, and the customers that they are moved between.
const ORDERS: usize = 90;
const CUSTOMERS: usize = 9;

/// A change of one order.
pub(crate) struct Change {
    pub(crate) at: Duration,
    pub(crate) id: String,
    pub(crate) before: Option<Item>,
    pub(crate) after: Option<Item>,
}

/// All that is written, in its order.
pub(crate) struct Writes {
    rng: Rng,
    now: BTreeMap<String, Item>,
    /// What was there before the stream was switched on.
    pub(crate) older: BTreeMap<String, Item>,
    pub(crate) changes: Vec<Change>,
    /// How many changes there were before the first of these.
    pub(crate) first: usize,
}

/// An order as it stands in the table.
pub(crate) fn order(id: &str, customer: &str, cents: AttributeValue) -> Item {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    HashMap::from([
        ("id".to_owned(), text(id)),
        ("customer".to_owned(), text(customer)),
        ("cents".to_owned(), cents),
    ])
    .into()
}

impl Writes {
    /// A table of 60 orders, of which the stream knows nothing.
    pub(crate) fn seeded(seed: u64) -> Self {
        let mut writes = Self {
            rng: Rng::with_seed(seed),
            now: BTreeMap::new(),
            older: BTreeMap::new(),
            changes: Vec::new(),
            first: 0,
        };
        for n in 0..60 {
            let id = format!("o-{n}");
            let item = writes.any(&id);
            writes.older.insert(id, item);
        }
        writes.now = writes.older.clone();
        writes
    }

    fn any(&mut self, id: &str) -> Item {
        let customer = format!("c{}", self.rng.usize(..CUSTOMERS));
        // Sums of few amounts differ, so that one too many cannot make up for one too few.
        let cents = self.rng.i64(1..1_000_000_000).to_string();
        order(id, &customer, AttributeValue::N(cents))
    }

    /// The same table, all of this written.
    pub(crate) fn written(self) -> Self {
        Self {
            first: self.first + self.changes.len(),
            changes: Vec::new(),
            ..self
        }
    }

    /// Writes any order every so often: inserts, other amounts, moves, deletions, re-inserts.
    pub(crate) fn between(mut self, from: Duration, to: Duration, every: Duration) -> Self {
        let mut at = from;
        while at < to {
            let id = format!("o-{}", self.rng.usize(..ORDERS));
            let mut after = Some(self.any(&id));
            if let (Some(now), Some(after)) = (self.now.get(&id), &mut after)
                && self.rng.bool()
            {
                let customer = now.get("customer").cloned();
                after.extend(customer.map(|customer| ("customer".to_owned(), customer)));
            }
            if self.now.contains_key(&id) && self.rng.u8(..5) == 0 {
                after = None;
            }
            self = self.change(at, &id, after);
            at += every.mul_f64(0.5 + self.rng.f64());
        }
        self
    }

    /// Puts or deletes an order at a point in time; in the order of time.
    pub(crate) fn change(mut self, at: Duration, id: &str, after: Option<Item>) -> Self {
        let last = self.changes.last();
        assert!(last.is_none_or(|last| last.at <= at), "{at:?}");
        let before = match &after {
            Some(item) => self.now.insert(id.to_owned(), item.clone()),
            None => self.now.remove(id),
        };
        self.changes.push(Change {
            at,
            id: id.to_owned(),
            before,
            after,
        });
        self
    }

    /// Sees that among what was written in `from..to` is something of every kind.
    pub(crate) fn assert_all_kinds(&self, from: Duration, to: Duration) {
        let customer = |item: &Item| item["customer"].clone();
        let within = |change: &&Change| (from..to).contains(&change.at);
        let kinds = self.changes.iter().filter(within).map(|change| {
            match (&change.before, &change.after) {
                (None, _) => "insert",
                (Some(_), None) => "deletion",
                (Some(before), Some(after)) if customer(before) == customer(after) => "amount",
                (Some(_), Some(_)) => "move",
            }
        });
        let kinds: HashSet<&str> = kinds.collect();
        assert_eq!(kinds.len(), 4, "{kinds:?}");
    }
}
