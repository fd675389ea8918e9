use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use murmur_state::store::{Add, Outcome};
use murmur_state::{RetryPolicy, Timestamp};

use super::batch::{Group, KnownSoFar, LedgerBatch};
use super::books::Books;
use super::turn::{self, Entry, Fate, Times, Turn, turn};
use super::write::{Answer, Stopped, Transaction};
use crate::once::{self, Cell};

/// The longest wait after a conflict, at first and in the end.
const WAITS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

impl<C: Cell<i64, Total = i128>> Books<'_, C> {
    /// Enters each of `entries`, with one outcome each. The entries of one item are taken in order,
    /// those of different items in any order.
    pub(crate) async fn enter<'a>(
        &self,
        entries: impl IntoIterator<Item = Entry<'a>>,
    ) -> Vec<Outcome> {
        let mut batch = LedgerBatch::of(self, entries);
        while !batch.groups.is_empty() {
            self.round(&mut batch).await;
        }
        self.count_by_id(&mut batch).await;
        batch.outcomes
    }

    /// Counts the changes of settled items, each once by the id of its event.
    async fn count_by_id(&self, batch: &mut LedgerBatch<'_>) {
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
        let once = once::OnceBatch {
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

    async fn round(&self, batch: &mut LedgerBatch<'_>) {
        // Before the read, whose answer may be late.
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
                // A row that was written a moment ago needs a consistent read.
                (group.known, group.is_stale) = (KnownSoFar::Unread, false);
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

    /// Reads the ledger rows of the items that have not been read yet.
    async fn read(&self, batch: &mut LedgerBatch<'_>) {
        let LedgerBatch {
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
                        group.known = KnownSoFar::Read(known);
                    }
                    Err(error) => group.fail(&error, outcomes),
                }
            }
            groups.retain(|group| !group.entries.is_empty());
        }
    }

    /// Sends the changes in `turns`. Several transactions are sent concurrently; those that share a
    /// row, one after the other.
    async fn write<'a>(
        &self,
        turns: Vec<(Group<'a>, Turn)>,
        batch: &LedgerBatch<'_>,
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
