//! The ledger: a row of the marker table for each source item says what the item contributes, and
//! is written in one transaction with the rows of state that change with it.
//!
//! A batch is worked on in rounds. Each reads what is known of the items that need it, lets the
//! rule table ([`mod@turn`]) say what changes, packs the changes into transactions ([`pack`]) and sends
//! them ([`mod@write`]); what a refusal taught is the beginning of the next round. Changes of settled items
//! count by their ids in the end. The argument why that is exact is in ARCHITECTURE.md.

mod entry;
mod pack;
mod settled;
mod turn;
mod write;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use futures::StreamExt;
use futures::stream;
use murmur_state::{
    Add, Deadline, ItemId, Key, Known, ListSegment, Listed, MAX_KEYS, Outcome, PipelineName, Place,
    RetryPolicy, StoreError, Timestamp,
};

pub(crate) use settled::Settled;
pub(crate) use turn::Entry;

use crate::attribute::{PK, text};
use crate::deduper::Deduper;
use crate::once::{self, Cell, Slots};
use crate::rows::Scanned;
use crate::table::Table;
use turn::{Fate, Times, Turn, turn};
use write::{Answer, Stopped, Transaction};

/// What the key of a marker row is.
const NAME: &str = "a string";

/// How often an item is written anew in one call before it is given up as contended.
const PATIENCE: u32 = 10;

/// How long is waited after a conflict, at first and in the end.
const WAITS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The ledger of a state table, as one call works with it.
pub(crate) struct Books<'a, C> {
    pub(crate) table: &'a Table,
    pub(crate) markers: &'a Deduper,
    pub(crate) cell: &'a C,
    pub(crate) slots: &'a Slots,
    pub(crate) settled: &'a Settled,
    pub(crate) pipeline: &'a PipelineName,
    pub(crate) deadline: Deadline,
}

impl<C: Cell<i64, Total = i128>> Books<'_, C> {
    /// Has each of `entries` done, one outcome each. Those of one item are taken in order, those of
    /// different items in any.
    pub(crate) async fn enter<'a>(
        &self,
        entries: impl IntoIterator<Item = Entry<'a>>,
    ) -> Vec<Outcome> {
        let mut batch = Batch::of(self, entries);
        while !batch.groups.is_empty() {
            self.round(&mut batch).await;
        }
        self.count_by_id(&mut batch).await;
        batch.outcomes
    }

    /// Counts the changes of settled items, each once by the id of its event.
    async fn count_by_id(&self, batch: &mut Batch<'_>) {
        let place = self.table.place();
        let (mut entries, mut events) = (Vec::new(), Vec::new());
        let mut failed = Vec::new();
        for entry in std::mem::take(&mut batch.by_id) {
            match entry.event(&place) {
                Ok(event) => {
                    entries.push(entry);
                    events.push(event);
                }
                Err(error) => failed.push((entry, Outcome::Failed(error))),
            }
        }
        let once = once::Batch {
            table: self.table,
            markers: self.markers,
            cell: self.cell,
            pipeline: self.pipeline,
            deadline: self.deadline,
        };
        let outcomes = match events.is_empty() {
            true => Vec::new(),
            false => once::apply(&once, self.slots, &events).await,
        };
        for (entry, outcome) in entries.into_iter().zip(outcomes).chain(failed) {
            batch.outcomes[entry.index] = match outcome {
                Outcome::Failed(error) => {
                    Outcome::Failed(error.of_settled(place.clone(), entry.item))
                }
                outcome => outcome,
            };
        }
    }

    async fn round(&self, batch: &mut Batch<'_>) {
        // Before the reading, whose answer may be late.
        let composed = self.now();
        self.read(batch).await;
        let times = Times {
            now: composed,
            too_old: self.markers.table.options.rules.too_old,
        };
        let place = self.table.place();
        let mut turns = Vec::new();
        for mut group in std::mem::take(&mut batch.groups) {
            let gone =
                |add: &Add<i64>| turn::is_over(add, composed) || batch.gone.contains(&add.key);
            let entries = group.next();
            let turn = turn(&place, group.known.read(), entries, &times, gone);
            if turn.after.is_some() {
                turns.push((group, turn));
            } else if group.is_stale && turn.fates.iter().any(Fate::is_failure) {
                // A row that was written a moment ago would tell better.
                (group.known, group.is_stale) = (Look::Unread, false);
                batch.keep(group);
            } else {
                batch.answer(group, turn.fates);
            }
        }
        let answers = self.write(turns, batch, composed).await;
        let mut met = false;
        for (transaction, answer) in answers {
            met |= batch.judge(self, transaction, answer);
        }
        if met && !batch.groups.is_empty() {
            let (base, cap) = WAITS;
            let waits = RetryPolicy::default().waits(base, cap);
            let pause = self
                .table
                .pause(&place, &waits, batch.conflicts, self.deadline);
            if let Err(error) = pause.await {
                for mut group in std::mem::take(&mut batch.groups) {
                    group.fail(&error, &mut batch.outcomes);
                }
            }
            batch.conflicts += 1;
        }
    }

    /// Reads the ledger rows of items of which it is not known what is known.
    async fn read(&self, batch: &mut Batch<'_>) {
        let Batch {
            groups, outcomes, ..
        } = batch;
        for stale in [false, true] {
            let is_open = |group: &&Group<'_>| group.known.is_unread() && group.is_stale == stale;
            let open = groups.iter().filter(is_open);
            let names: Vec<&str> = open.map(|group| &*group.name).collect();
            if names.is_empty() {
                continue;
            }
            let looks = match self.look(&names, !stale).await {
                Ok(looks) => looks,
                Err(error) => vec![Err(error); names.len()],
            };
            let open = groups.iter_mut().filter(|group| is_open(&&**group));
            for (group, look) in open.zip(looks) {
                match look {
                    Ok(known) => {
                        if let Some(known) = &known {
                            self.settled.note(known);
                        }
                        group.known = Look::Read(known);
                    }
                    Err(error) => group.fail(&error, outcomes),
                }
            }
            groups.retain(|group| !group.entries.is_empty());
        }
    }

    /// What is known of each of `items`.
    pub(crate) async fn known(
        &self,
        items: &[ItemId],
    ) -> Result<Vec<Option<Known<i64>>>, StoreError> {
        let name = |item| entry::name(self.pipeline, &self.table.name, item);
        let names: Vec<String> = items.iter().map(name).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.look(&names, true).await?.into_iter().collect()
    }

    /// What each of the rows called `names` says, if it is there and can be read.
    async fn look(
        &self,
        names: &[&str],
        consistent: bool,
    ) -> Result<Vec<Result<Option<Known<i64>>, StoreError>>, StoreError> {
        let rows = self.markers.get_many(names, consistent, self.deadline);
        let rows = rows.await?;
        let place = self.markers.table.place();
        let mut found = HashMap::with_capacity(rows.len());
        for row in &rows {
            found.insert(text(&place, row, PK, NAME)?, row);
        }
        let known = |name: &&str| {
            let row = found.get(name);
            row.map(|row| entry::known(&self.place_of(name), row))
                .transpose()
        };
        Ok(names.iter().map(known).collect())
    }

    /// The row called `name` in the ledger.
    fn place_of(&self, name: &str) -> Place {
        let place = self.markers.place(name);
        place.unwrap_or_else(|_| self.markers.table.place())
    }

    /// A part of all that is known.
    pub(crate) async fn list(
        &self,
        segment: ListSegment,
        after: Option<&str>,
    ) -> Result<Listed<Known<i64>>, StoreError> {
        let markers = &self.markers.table;
        let place = markers.place();
        let start = after.map(|after| {
            let name = AttributeValue::S(after.to_owned());
            HashMap::from([(PK.to_owned(), name)])
        });
        let prefix = entry::prefix(self.pipeline);
        let page = markers.scan(start, Some(&prefix), None, segment, self.deadline);
        let Scanned {
            rows,
            last,
            read_units,
        } = page.await?;
        let mut entries = Vec::with_capacity(rows.len());
        for row in rows {
            let name = text(&place, &row, PK, NAME)?;
            let place = self.place_of(name);
            let item = entry::item(&place, &row)?;
            // Other state tables of this pipeline, earlier versions of it, have ledgers here too.
            if entry::name(self.pipeline, &self.table.name, &item) == name {
                entries.push(entry::known(&place, &row)?);
            }
        }
        let last = last.as_ref().map(|last| text(&place, last, PK, NAME));
        Ok(Listed {
            entries,
            next: last.transpose()?.map(str::to_owned),
            read_units,
        })
    }

    fn now(&self) -> Timestamp {
        self.table.options.clock.now()
    }

    /// Sends the changes in `turns`, several transactions at a time, those that share a row one
    /// after the other.
    async fn write<'a>(
        &self,
        turns: Vec<(Group<'a>, Turn)>,
        batch: &Batch<'_>,
        composed: Timestamp,
    ) -> Vec<(Transaction<'a>, Answer)> {
        let stopped = &Stopped::default();
        let transactions = Transaction::all(turns, &batch.contended).into_iter();
        let send = |transaction: Transaction<'a>| async move {
            let answer = self.send(&transaction, stopped, composed).await;
            (transaction, answer)
        };
        let sent: Vec<_> = transactions.map(send).collect();
        stream::iter(sent)
            .buffer_unordered(self.table.options.concurrency)
            .collect()
            .await
    }
}

/// What is known of an item.
enum Look {
    /// Not asked for yet.
    Unread,
    /// Nothing, it is assumed; a refusal tells better.
    Assumed,
    Read(Option<Known<i64>>),
}

impl Look {
    fn is_unread(&self) -> bool {
        matches!(self, Self::Unread)
    }

    fn read(&self) -> Option<&Known<i64>> {
        match self {
            Self::Unread | Self::Assumed => None,
            Self::Read(known) => known.as_ref(),
        }
    }
}

/// The unsettled entries of one item.
struct Group<'a> {
    item: &'a ItemId,
    /// The key of its ledger row.
    name: String,
    entries: Vec<Entry<'a>>,
    known: Look,
    /// Whether a read as of a moment ago is enough: whatever is written is conditional on what it
    /// says, and what has settled stays so. A failure is not told by such a read.
    is_stale: bool,
    /// Whether it is written in a transaction of its own, since it may be the one to blame.
    alone: bool,
    /// Whether its entries are taken one by one, since one of them is to blame.
    one_by_one: bool,
    /// How often it was composed anew.
    refusals: u32,
}

impl<'a> Group<'a> {
    /// How what is known of the item is found out: mostly nothing is known of what a scan finds,
    /// so that asking would be in vain.
    fn look_first(&mut self, settled: &Settled) {
        self.is_stale = self.entries.iter().all(Entry::settles);
        let assume = self.entries.iter().all(Entry::is_probably_first);
        self.known = match settled.known(self.item) {
            Some(known) => Look::Read(Some(known)),
            None if assume => Look::Assumed,
            None => Look::Unread,
        };
    }

    /// The entries of the next write: mostly all.
    fn next(&self) -> &[Entry<'a>] {
        let entries = self.entries.len();
        &self.entries[..if self.one_by_one { 1 } else { entries }]
    }

    fn fail(&mut self, error: &StoreError, outcomes: &mut [Outcome]) {
        self.end(&Outcome::Failed(error.clone()), outcomes);
    }

    /// All entries have this outcome.
    fn end(&mut self, outcome: &Outcome, outcomes: &mut [Outcome]) {
        for entry in self.entries.drain(..) {
            outcomes[entry.index] = outcome.clone();
        }
    }
}

/// What is left of a batch.
struct Batch<'a> {
    groups: Vec<Group<'a>>,
    outcomes: Vec<Outcome>,
    /// Changes of settled items.
    by_id: Vec<Entry<'a>>,
    /// Rows at which a transaction met another.
    contended: HashSet<Key>,
    /// Rows that Time to Live was found to have removed.
    gone: HashSet<Key>,
    conflicts: u32,
}

impl<'a> Batch<'a> {
    fn of<C>(books: &Books<'_, C>, entries: impl IntoIterator<Item = Entry<'a>>) -> Self {
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
                    known: Look::Unread,
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

    /// The first entries of a group have these fates; the rest is for the next round.
    fn answer(&mut self, mut group: Group<'a>, fates: Vec<Fate>) {
        for (entry, fate) in group.entries.drain(..fates.len()).zip(fates) {
            match fate {
                Fate::Is(outcome) => self.outcomes[entry.index] = outcome,
                Fate::ById => self.by_id.push(entry),
            }
        }
        group.refusals = 0;
        self.keep(group);
    }

    /// Keeps the group for the next round, if anything of it is left.
    fn keep(&mut self, group: Group<'a>) {
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
