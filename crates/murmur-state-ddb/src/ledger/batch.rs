//! The unsettled entries of a batch, grouped by item.

use std::collections::{HashMap, HashSet};

use murmur_state::error::Place;
use murmur_state::store::{LedgerEntry, MAX_KEYS, Outcome};
use murmur_state::{ItemId, Key, StoreError};

use super::books::Books;
use super::entry;
use super::settled::Settled;
use super::turn::{Entry, Fate};

/// What is known about an item.
pub(super) enum KnownSoFar {
    /// Not read yet.
    Unread,
    /// Assumed to be unknown. A refusal corrects the assumption.
    Assumed,
    Read(Option<LedgerEntry<i64>>),
}

impl KnownSoFar {
    pub(super) fn is_unread(&self) -> bool {
        matches!(self, Self::Unread)
    }

    pub(super) fn read(&self) -> Option<&LedgerEntry<i64>> {
        match self {
            Self::Unread | Self::Assumed => None,
            Self::Read(known) => known.as_ref(),
        }
    }
}

/// The unsettled entries of one item.
pub(super) struct Group<'a> {
    pub(super) item: &'a ItemId,
    /// The key of its ledger row.
    pub(super) name: String,
    pub(super) entries: Vec<Entry<'a>>,
    pub(super) known: KnownSoFar,
    /// Whether an eventually consistent read is enough. What is written is conditional on what was
    /// read, and a settled item stays settled. To judge a failure, a consistent read is needed.
    pub(super) is_stale: bool,
    /// Whether it is written in a transaction of its own, because it may be the one to blame.
    pub(super) alone: bool,
    /// Whether its entries are taken one by one, because one of them is to blame.
    pub(super) one_by_one: bool,
    /// How often it was composed again.
    pub(super) refusals: u32,
}

impl<'a> Group<'a> {
    /// Decides how to find out what is known about the item. For items found by a scan usually
    /// nothing is known, so that a read would be wasted.
    pub(super) fn look_first(&mut self, settled: &Settled) {
        self.is_stale = self.entries.iter().all(Entry::settles);
        let assume = self.entries.iter().all(Entry::is_probably_first);
        self.known = match settled.known(self.item) {
            Some(known) => KnownSoFar::Read(Some(known)),
            None if assume => KnownSoFar::Assumed,
            None => KnownSoFar::Unread,
        };
    }

    /// The entries of the next write; usually all of them.
    pub(super) fn next(&self) -> &[Entry<'a>] {
        let entries = self.entries.len();
        &self.entries[..if self.one_by_one { 1 } else { entries }]
    }

    pub(super) fn fail(&mut self, error: &StoreError, outcomes: &mut [Outcome]) {
        self.end(&Outcome::Failed(error.clone()), outcomes);
    }

    /// Gives this outcome to all entries.
    pub(super) fn end(&mut self, outcome: &Outcome, outcomes: &mut [Outcome]) {
        for entry in self.entries.drain(..) {
            outcomes[entry.index] = outcome.clone();
        }
    }
}

/// The unsettled part of a batch.
pub(super) struct LedgerBatch<'a> {
    pub(super) groups: Vec<Group<'a>>,
    pub(super) outcomes: Vec<Outcome>,
    /// Changes of settled items.
    pub(super) by_id: Vec<Entry<'a>>,
    /// Rows at which a transaction conflicted with another.
    pub(super) contended: HashSet<Key>,
    /// Rows that Time to Live was found to have removed.
    pub(super) gone: HashSet<Key>,
    pub(super) conflicts: u32,
}

impl<'a> LedgerBatch<'a> {
    pub(super) fn of<C>(
        books: &Books<'_, C>,
        entries: impl IntoIterator<Item = Entry<'a>>,
    ) -> Self {
        let mut batch = Self {
            groups: Vec::new(),
            outcomes: Vec::new(),
            by_id: Vec::new(),
            contended: HashSet::new(),
            gone: HashSet::new(),
            conflicts: 0,
        };
        let mut group_of: HashMap<&ItemId, usize> = HashMap::new();
        for entry in entries {
            if entry.keys() > MAX_KEYS {
                let place = books.table.place();
                batch
                    .outcomes
                    .push(Outcome::Failed(too_wide(place, &entry)));
                continue;
            }
            batch.outcomes.push(Outcome::Blocked);
            let groups = &mut batch.groups;
            let group = *group_of.entry(entry.item).or_insert_with(|| {
                groups.push(Group {
                    item: entry.item,
                    name: entry::name(books.pipeline, &books.table.name, entry.item),
                    entries: Vec::new(),
                    known: KnownSoFar::Unread,
                    is_stale: false,
                    alone: false,
                    one_by_one: false,
                    refusals: 0,
                });
                groups.len() - 1
            });
            batch.groups[group].entries.push(entry);
        }
        for group in &mut batch.groups {
            group.look_first(books.settled);
        }
        batch
    }

    /// Gives these fates to the first entries of a group. The rest is for the next round.
    pub(super) fn answer(&mut self, mut group: Group<'a>, fates: Vec<Fate>) {
        for (entry, fate) in group.entries.drain(..fates.len()).zip(fates) {
            match fate {
                Fate::Is(outcome) => self.outcomes[entry.index] = outcome,
                Fate::ById => self.by_id.push(entry),
            }
        }
        group.refusals = 0;
        self.keep(group);
    }

    /// Keeps the group for the next round, if any of it is left.
    pub(super) fn keep(&mut self, group: Group<'a>) {
        if !group.entries.is_empty() {
            self.groups.push(group);
        }
    }
}

fn too_wide(place: Place, entry: &Entry<'_>) -> StoreError {
    StoreError::InvalidValue {
        place,
        reason: format!(
            "item {} has {} keys, and in a ledger an item can have {MAX_KEYS}; leave some out, or \
             split the pipeline",
            entry.item,
            entry.keys()
        ),
        source: None,
    }
}
