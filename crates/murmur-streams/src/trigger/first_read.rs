//! Where reading a shard starts, and whether any record before that is missing.

use std::sync::Arc;
use std::time::Duration;

use murmur_state::Timestamp;
use murmur_state::store::SURE_LIFE;

use crate::source::{Cursor, Start};
use crate::trigger::beginning::{Begin, Beginning};
use crate::trigger::engine::Engine;
use crate::trigger::error::TriggerError;
use crate::trigger::gap::{Gap, OnGap};
use crate::trigger::lineage::{Left, ShardTask};
use crate::trigger::monitor::Tally;
use crate::trigger::row::{At, Held, Row};

/// How late a shard's first read may be after reading was begun at LATEST.
const LATE: Duration = Duration::from_secs(60);

/// A shard under lease, and where to read on.
pub(crate) struct Begun {
    pub(crate) held: Held,
    pub(crate) cursor: Cursor,
}

/// What is known about the time before a shard's first read.
enum Before {
    /// Nothing, not even whether there was any record.
    Nothing,
    /// Everything that was put before this time is done, or not wanted.
    Through(Timestamp),
    Gap(Gap),
    /// Its parent is read elsewhere.
    Unfinished,
}

impl<S, H> Engine<S, H> {
    /// Takes the lease of a shard and finds out where to read on. Returns how to leave the shard if
    /// it cannot be read here and now.
    pub(crate) async fn begin(
        &self,
        task: &ShardTask,
        beginning: &Beginning,
    ) -> Result<Result<Begun, Left>, TriggerError> {
        let shard = &task.shard;
        let found = self.persistently(|| self.positions.find(shard)).await?;
        match &found {
            Some((row, _)) if row.at == At::Ended => return Ok(Err(Left::Ended)),
            Some((row, _)) if self.positions.is_elsewhere(row) => return Ok(Err(Left::Elsewhere)),
            _ => {}
        }
        let over = found.as_ref().map(|(_, version)| *version);
        let kept = over.and_then(|version| self.cursors.at(shard, version));
        let known = found.map(|(row, _)| row);
        let latest = beginning.shards.get(&**shard) == Some(&Begin::Latest);
        let (at, through, start) = match known {
            Some(Row {
                at: At::After(number),
                through,
                ..
            }) => {
                let start = Start::After(number.clone());
                (At::After(number), through, start)
            }
            Some(Row {
                at: At::From(number),
                through,
                ..
            }) => {
                let start = Start::At(number.clone());
                (At::From(number), through, start)
            }
            Some(row) if latest && kept.is_some() => (At::Begun, row.through, Start::Latest),
            known if latest => {
                let now = self.options.clock.now();
                if known.is_some() || self.is_late(beginning.begun_at) {
                    self.missed_latest(shard);
                }
                (At::Begun, Some(now), Start::Latest)
            }
            known => {
                let before = match &known {
                    Some(row) => row.through.map_or(Before::Nothing, Before::Through),
                    None => self.before(task, beginning).await?,
                };
                let gap = match before {
                    // A record put from now on is missed if it is trimmed.
                    Before::Nothing => Ok(Some(self.options.clock.now())),
                    Before::Through(through) => match self.away(through, task, beginning) {
                        Some(gap) if kept.is_none() => Err(gap),
                        _ => Ok(Some(through)),
                    },
                    Before::Gap(gap) => Err(gap),
                    Before::Unfinished => return Ok(Err(Left::Elsewhere)),
                };
                let through = match gap {
                    Ok(through) => through,
                    Err(gap) => {
                        self.on_gap(shard, gap)?;
                        Some(self.options.clock.now())
                    }
                };
                (At::Begun, through, Start::TrimHorizon)
            }
        };
        let row = self.positions.leased(at, through);
        let held = self
            .persistently(|| self.positions.put(shard, &row, over))
            .await?;
        Ok(match held {
            Some(held) => Ok(Begun {
                held,
                cursor: kept.unwrap_or_else(|| start.into()),
            }),
            None => Err(Left::Elsewhere),
        })
    }

    /// What is known about the time before a shard that has no row.
    async fn before(
        &self,
        task: &ShardTask,
        beginning: &Beginning,
    ) -> Result<Before, TriggerError> {
        let begun_at = beginning.since();
        let is_first = beginning.shards.contains_key(&*task.shard);
        let Some(parent) = &task.parent else {
            return Ok(match is_first {
                true => Before::Through(begun_at),
                false => Before::Nothing,
            });
        };
        match beginning.shards.get(&**parent) {
            Some(Begin::Skip) => return Ok(Before::Through(begun_at)),
            None if is_first => return Ok(Before::Through(begun_at)),
            _ => {}
        }
        let gone = || {
            Before::Gap(Gap::ParentGone {
                parent: parent.to_string(),
            })
        };
        let found = self.persistently(|| self.positions.find(parent)).await?;
        Ok(match found.map(|(row, _)| row) {
            Some(row) if row.at == At::Ended => {
                row.through.map_or(Before::Nothing, Before::Through)
            }
            Some(row) if task.parent_listed || self.positions.is_elsewhere(&row) => {
                Before::Unfinished
            }
            Some(_) | None => gone(),
        })
    }

    /// Whether records put since then may have been trimmed.
    fn away(&self, through: Timestamp, task: &ShardTask, beginning: &Beginning) -> Option<Gap> {
        let gap = self.trimmed_since(Some(through))?;
        Some(match beginning.captured_at {
            Some(captured_at)
                if captured_at == through && beginning.shards.contains_key(&*task.shard) =>
            {
                Gap::HandoffVoid { captured_at }
            }
            _ => gap,
        })
    }

    /// The gap that may exist if a shard is read from its oldest record and everything put before
    /// `through` is done.
    pub(crate) fn trimmed_since(&self, through: Option<Timestamp>) -> Option<Gap> {
        let Some(through) = through else {
            return Some(Gap::Trimmed);
        };
        let since = self.options.clock.now().since(through);
        (since > SURE_LIFE).then_some(Gap::Away { through, since })
    }

    /// Whether reading at LATEST starts later than requested.
    pub(crate) fn is_late(&self, asked_for: Timestamp) -> bool {
        self.options.clock.now().since(asked_for) > LATE
    }

    /// Reports that a shard is begun at LATEST later than requested.
    pub(crate) fn missed_latest(&self, shard: &str) {
        tracing::warn!(
            shard,
            "the shard was begun at LATEST and had no record since; records put while it was not read are missed"
        );
        self.monitor.count(Tally::Gaps, 1);
    }

    /// Fails or counts the gap, according to the options.
    pub(crate) fn on_gap(&self, shard: &Arc<str>, gap: Gap) -> Result<(), TriggerError> {
        match self.options.on_gap {
            OnGap::Fail => Err(TriggerError::Gap {
                shard: shard.to_string(),
                gap,
            }),
            OnGap::Continue => {
                tracing::error!(
                    shard = &**shard,
                    %gap,
                    "records that were not read are gone; reading continues without them"
                );
                self.monitor.count(Tally::Gaps, 1);
                Ok(())
            }
        }
    }
}
