//! The position and the reader of each shard: the state that outlives a run.
//!
//! Under the trigger's name there is one *beginning*, saved before anything is read, which says how
//! each shard of the first generation begins. There is also one row per shard, with its position
//! and its lease. Every row is saved only over the version that was read. If two readers each
//! believe that the other is gone, one of them finds out with its next save.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use murmur_state::checkpoint::{Checkpoint, Removed, Saved};
use murmur_state::{Checkpoints, Clock, HandoffToken, PipelineName, StoreError, Timestamp};

use crate::description::StreamDescription;
use crate::trigger::beginning::Beginning;
use crate::trigger::error::TriggerError;
use crate::trigger::form::{StoredForm, decode, encode};
use crate::trigger::options::StartingPosition;
use crate::trigger::row::{At, Held, Row};
use crate::trigger::sightings::Sightings;
use crate::trigger::workers::{Beat, Workers};

/// How often a beat is tried when other readers save theirs at the same time. The next round is
/// soon.
const ATTEMPTS: u32 = 8;

pub(crate) struct Positions {
    pub(crate) place: Arc<dyn Checkpoints>,
    pub(crate) name: PipelineName,
    pub(crate) owner: String,
    pub(crate) lease: Duration,
    /// Whether other readers can see the positions. If not, no reader waits for a lease to end.
    pub(crate) lasting: bool,
    pub(crate) sightings: Sightings,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Positions {
    fn beginning_name(&self) -> String {
        self.name.marker("stream", &[])
    }

    fn shard_name(&self, shard: &str) -> String {
        self.name.marker("shard", &[shard])
    }

    fn workers_name(&self) -> String {
        self.name.marker("workers", &[])
    }

    /// The beginning of the `listed` stream: the saved one, or a new one.
    pub(crate) async fn begin(
        &self,
        listed: &StreamDescription,
        position: StartingPosition,
        token: Option<&HandoffToken>,
    ) -> Result<Beginning, TriggerError> {
        let arn = &listed.info.stream_arn;
        if let Some(token) = token.filter(|token| token.stream_arn != *arn) {
            return Err(TriggerError::OtherStream {
                whose: "the handoff token".to_owned(),
                known: token.stream_arn.clone(),
                arn: arn.clone(),
            });
        }
        let name = self.beginning_name();
        loop {
            let found: Option<(Beginning, u64)> = self.load(&name).await?;
            if let Some((beginning, _)) = found {
                return self.same(beginning, arn, token);
            }
            let beginning = Beginning::of(listed, position, token, self.clock.now());
            if self.save(&name, &beginning, None).await?.is_some() {
                return Ok(beginning);
            }
        }
    }

    fn same(
        &self,
        known: Beginning,
        arn: &str,
        token: Option<&HandoffToken>,
    ) -> Result<Beginning, TriggerError> {
        if known.stream_arn != arn {
            return Err(TriggerError::OtherStream {
                whose: format!("the positions of `{}`", self.name),
                known: known.stream_arn,
                arn: arn.to_owned(),
            });
        }
        match token {
            Some(token) if known.captured_at != Some(token.captured_at) => {
                Err(TriggerError::OtherHandoff {
                    name: self.name.to_string(),
                    known: known.captured_at,
                    captured_at: token.captured_at,
                })
            }
            _ => Ok(known),
        }
    }

    /// The saved row of a shard, for any owner, and its version.
    pub(crate) async fn find(&self, shard: &str) -> Result<Option<(Row, u64)>, TriggerError> {
        self.load(&self.shard_name(shard)).await
    }

    /// Whether another reader has the row's lease and it has not expired, by this clock and with
    /// the owner's [grace](Sightings::grace).
    pub(crate) fn is_elsewhere(&self, row: &Row) -> bool {
        let owner = row.owner.as_ref().filter(|owner| **owner != self.owner);
        owner.zip(row.until).is_some_and(|(owner, until)| {
            until.plus(self.sightings.grace(owner)) > self.clock.now()
        })
    }

    /// Whether the row's lease is of an earlier run of this reader's process, one before `began`.
    pub(crate) fn is_left_over(&self, row: &Row, began: Timestamp) -> bool {
        let own = row.owner.as_ref().filter(|owner| **owner == self.owner);
        own.and(row.until)
            .is_some_and(|until| until < began.plus(self.lease))
    }

    /// A row under this reader's lease, which starts now.
    pub(crate) fn leased(&self, at: At, through: Option<Timestamp>) -> Row {
        Row {
            at,
            through,
            owner: Some(self.owner.clone()),
            until: Some(self.clock.now().plus(self.lease)),
        }
    }

    /// Saves a shard's row over the version that was read. Returns `None` if it was saved by
    /// another reader since. The same row can be saved again after a lost answer.
    pub(crate) async fn put(
        &self,
        shard: &Arc<str>,
        row: &Row,
        over: Option<u64>,
    ) -> Result<Option<Held>, TriggerError> {
        let version = self.save(&self.shard_name(shard), row, over).await?;
        Ok(version.map(|version| Held {
            shard: Arc::clone(shard),
            row: row.clone(),
            version,
        }))
    }

    /// Removes the row of a shard that ended, is no longer listed, and whose children have begun.
    pub(crate) async fn forget(&self, shard: &str) -> Result<(), TriggerError> {
        let name = self.shard_name(shard);
        let found: Option<(Row, u64)> = self.load(&name).await?;
        if let Some((row, version)) = found.filter(|(row, _)| row.at == At::Ended) {
            // A reader that saved it since then has a reason to keep it.
            let (Removed::Gone | Removed::Conflict) = self
                .place
                .remove(&name, version)
                .await
                .map_err(|source| failed(&name, source))?;
            tracing::debug!(shard, through = ?row.through, "its position is no longer needed");
        }
        Ok(())
    }

    /// Announces this worker, with room for so many shards. Returns all workers.
    pub(crate) async fn beat(&self, room: usize) -> Result<Workers, TriggerError> {
        let name = self.workers_name();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let found: Option<(Workers, u64)> = self.load(&name).await?;
            let over = found.as_ref().map(|(_, version)| *version);
            let mut all = found.map(|(workers, _)| workers).unwrap_or_default();
            self.sightings.only(&all.workers, &*self.clock);
            all.workers.retain(|worker, beat| {
                *worker == self.owner || self.sightings.see(worker, beat, &*self.clock)
            });
            // A worker that was removed and returns must not be taken for its earlier beats.
            let first = || u64::try_from(self.clock.now().as_millis()).unwrap_or(0);
            let beats = all
                .workers
                .get(&self.owner)
                .map_or_else(first, |beat| beat.beats);
            let beat = Beat {
                beats: beats.wrapping_add(1),
                lease_ms: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
                room: room as u64,
                at: self.clock.now(),
            };
            all.workers.insert(self.owner.clone(), beat);
            if self.save(&name, &all, over).await?.is_some() || attempts >= ATTEMPTS {
                return Ok(all);
            }
        }
    }

    /// Announces that this worker is leaving.
    pub(crate) async fn leave(&self) -> Result<(), TriggerError> {
        let name = self.workers_name();
        let found: Option<(Workers, u64)> = self.load(&name).await?;
        if let Some((mut all, version)) = found
            && all.workers.remove(&self.owner).is_some()
        {
            self.save(&name, &all, Some(version)).await?;
        }
        Ok(())
    }

    /// The content stored as `name`, and its version.
    async fn load<T: StoredForm>(&self, name: &str) -> Result<Option<(T, u64)>, TriggerError> {
        let loaded = self.place.load(name).await;
        let Some(Checkpoint { data, version }) = loaded.map_err(|source| failed(name, source))?
        else {
            return Ok(None);
        };
        Ok(Some((decode(name, &data)?, version)))
    }

    /// `None` if another reader saved since.
    async fn save<T: StoredForm>(
        &self,
        name: &str,
        content: &T,
        over: Option<u64>,
    ) -> Result<Option<u64>, TriggerError> {
        let data = encode(content).to_string();
        let saved = self.place.save(name, &data, over).await;
        Ok(match saved.map_err(|source| failed(name, source))? {
            Saved::Version(version) => Some(version),
            Saved::Conflict => None,
        })
    }
}

impl fmt::Debug for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Positions")
            .field("name", &self.name)
            .field("owner", &self.owner)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

fn failed(name: &str, source: StoreError) -> TriggerError {
    TriggerError::Position {
        name: name.to_owned(),
        source: Box::new(source),
    }
}
