//! The checkpoints of the segments of a run.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use murmur_state::checkpoint::{Checkpoint, Removed, Saved};
use murmur_state::retry::Retry;
use murmur_state::{Checkpoints, Deadline, PipelineName, StoreError};
use serde::{Deserialize, Serialize};

use super::counts::{Counts, Tally};
use super::error::BootstrapError;
use crate::rejected_row::RejectedRow;
use crate::run_record::{RunRecord, RunRecordError, decode_version};
use crate::source::Cursor;

/// The version of the row this release writes.
const VERSION: u32 = 1;

/// How many rejected rows a checkpoint keeps.
pub(crate) const MAX_KEPT: usize = 10;

/// How many characters of a reason are kept.
const MAX_REASON: usize = 300;

/// How many rows are loaded or removed at a time.
const AT_ONCE: usize = 16;

/// How far a segment is done without a gap.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum At {
    /// All pages before this cursor.
    Cursor(Cursor),
    /// All pages.
    End,
}

/// The content of a segment's checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SegmentRow {
    pub(crate) at: At,
    /// The outcome of the rows of those pages.
    pub(crate) tally: Tally,
}

/// The row as it is saved.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    /// The process that saved it, so that two processes do not take each other's saves for their
    /// own.
    by: String,
    #[serde(deserialize_with = "Option::deserialize")]
    cursor: Option<Cursor>,
    done: bool,
    counts: Counts,
    rejected: Vec<KeptRow>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptRow {
    id: String,
    #[serde(deserialize_with = "Option::deserialize")]
    pipeline: Option<String>,
    reason: String,
}

/// The rows of one run, where its first pipeline keeps its checkpoints.
#[derive(Clone)]
pub(crate) struct SegmentRows<'a> {
    pub(crate) place: Arc<dyn Checkpoints>,
    pub(crate) pipeline: PipelineName,
    pub(crate) source_name: &'a str,
    pub(crate) run: String,
    /// This process.
    pub(crate) by: String,
    pub(crate) retry: &'a Retry,
}

impl SegmentRows<'_> {
    fn name(&self, segment: u32) -> String {
        let parts = [self.source_name, &self.run, &segment.to_string()];
        self.pipeline.marker("segment", &parts)
    }

    /// Loads the row of `segment` and its version, if there is one.
    pub(crate) async fn load(
        &self,
        segment: u32,
    ) -> Result<Option<(SegmentRow, u64)>, BootstrapError> {
        let name = self.name(segment);
        let row = self
            .found(&name)
            .await
            .map_err(RunRecordError::Store)
            .and_then(|found| {
                let decode = |found: Checkpoint| Ok((decode(&name, &found.data)?, found.version));
                found.map(decode).transpose()
            });
        row.map_err(|source| BootstrapError::SegmentRow {
            source_name: self.source_name.to_owned(),
            segment,
            source: Box::new(source),
        })
    }

    /// Loads the rows of the segments in `range`.
    pub(crate) async fn load_all(
        &self,
        range: Range<u32>,
    ) -> Result<BTreeMap<u32, (SegmentRow, u64)>, BootstrapError> {
        let load = |segment| async move { Ok((segment, self.load(segment).await?)) };
        let loads = stream::iter(range).map(load).buffered(AT_ONCE);
        let found =
            loads.try_filter_map(|(segment, row)| async move { Ok(row.map(|row| (segment, row))) });
        found.try_collect().await
    }

    /// Whether the rows of all segments in `range` say that they are done. Stops at the first that
    /// does not.
    pub(crate) async fn all_done(&self, range: Range<u32>) -> Result<bool, BootstrapError> {
        let mut rows = stream::iter(range)
            .map(|segment| self.load(segment))
            .buffered(AT_ONCE);
        while let Some(row) = rows.next().await {
            match row? {
                Some((row, _)) if row.at == At::End => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Saves `row` over the version `over`. Returns the new version; `None` if another process
    /// saved the row meanwhile.
    pub(crate) async fn save(
        &self,
        segment: u32,
        row: &SegmentRow,
        over: Option<u64>,
    ) -> Result<Option<u64>, BootstrapError> {
        let (name, data) = (self.name(segment), encode(row, &self.by));
        let save = || self.place.save(&name, &data, over);
        match self.retry.run(Deadline::NONE, again, save).await {
            Ok(Saved::Version(version)) => Ok(Some(version)),
            Ok(Saved::Conflict) => Ok(None),
            Err(source) => Err(BootstrapError::SegmentNotSaved {
                source_name: self.source_name.to_owned(),
                segment,
                source: Box::new(source),
            }),
        }
    }

    /// The error that another process has `segment`.
    pub(crate) fn taken(&self, segment: u32) -> BootstrapError {
        BootstrapError::SegmentTaken {
            source_name: self.source_name.to_owned(),
            segment,
            run: self.run.clone(),
        }
    }

    /// The outcome of all rows of the run, by its saved checkpoints.
    pub(crate) async fn counts(&self, range: Range<u32>) -> Result<Counts, BootstrapError> {
        let mut counts = Counts::default();
        for (row, _) in self.load_all(range).await?.values() {
            counts += row.tally.counts;
        }
        Ok(counts)
    }

    /// Removes the rows of the finished run `record`. If that fails, the next call removes the
    /// rest. The first segment's row goes last, so one look tells whether any row is left.
    pub(crate) async fn remove_all(&self, record: &RunRecord) {
        let removed = async {
            if self.found(&self.name(0)).await?.is_none() {
                return Ok(());
            }
            let others = stream::iter(1..record.segments).map(|segment| self.remove(segment));
            others.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
            self.remove(0).await
        };
        if let Err(error) = removed.await {
            let (source, run) = (self.source_name, &self.run);
            tracing::warn!(source, run, %error, "some checkpoints of a finished run were not removed");
        }
    }

    async fn remove(&self, segment: u32) -> Result<(), StoreError> {
        let name = self.name(segment);
        while let Some(found) = self.found(&name).await? {
            let remove = || self.place.remove(&name, found.version);
            if self.retry.run(Deadline::NONE, again, remove).await? == Removed::Gone {
                break;
            }
        }
        Ok(())
    }

    async fn found(&self, name: &str) -> Result<Option<Checkpoint>, StoreError> {
        let load = || self.place.load(name);
        self.retry.run(Deadline::NONE, again, load).await
    }
}

fn again(error: &StoreError) {
    tracing::debug!(%error, "a request for a segment's checkpoint is retried");
}

fn encode(row: &SegmentRow, by: &str) -> String {
    let kept = Kept {
        version: VERSION,
        by: by.to_owned(),
        done: row.at == At::End,
        cursor: match &row.at {
            At::Cursor(cursor) => Some(cursor.clone()),
            At::End => None,
        },
        counts: row.tally.counts,
        rejected: row.tally.rejected.iter().map(keep).collect(),
    };
    serde_json::json!(kept).to_string()
}

fn keep(row: &RejectedRow) -> KeptRow {
    KeptRow {
        id: row.id.clone(),
        pipeline: row.pipeline.as_ref().map(ToString::to_string),
        reason: row.reason.chars().take(MAX_REASON).collect(),
    }
}

fn decode(name: &str, data: &str) -> Result<SegmentRow, RunRecordError> {
    decode_version(name, data, VERSION)?;
    let unreadable = |source| RunRecordError::Unreadable {
        name: name.to_owned(),
        source,
    };
    let kept: Kept = serde_json::from_str(data).map_err(unreadable)?;
    let at = match (kept.cursor, kept.done) {
        (Some(cursor), false) => At::Cursor(cursor),
        (None, true) => At::End,
        _ => {
            let reason = "it is either done or has a cursor";
            return Err(unreadable(serde::de::Error::custom(reason)));
        }
    };
    let rejected = kept.rejected.into_iter().map(|row| {
        let pipeline = row.pipeline.map(PipelineName::new).transpose();
        Ok(RejectedRow {
            id: row.id,
            pipeline: pipeline.map_err(|error| unreadable(serde::de::Error::custom(error)))?,
            reason: row.reason,
        })
    });
    Ok(SegmentRow {
        at,
        tally: Tally {
            counts: kept.counts,
            rejected: rejected.collect::<Result<_, _>>()?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutations::Mutations;
    use murmur_state::time::{Random, SystemClock};
    use murmur_state::{MemoryDeduper, RetryPolicy};

    #[tokio::test]
    async fn of_two_processes_that_would_save_the_same_one_is_refused() {
        let retry = Retry::new(
            RetryPolicy::default(),
            SystemClock::shared(),
            Random::seeded(1),
        );
        let place: Arc<dyn Checkpoints> = Arc::new(MemoryDeduper::new());
        let process = |by: &str| SegmentRows {
            place: Arc::clone(&place),
            pipeline: PipelineName::new("totals").unwrap(),
            source_name: "orders",
            run: "r1".into(),
            by: by.into(),
            retry: &retry,
        };
        let row = SegmentRow {
            at: At::End,
            tally: Tally::default(),
        };
        let (one, other) = (process("p1"), process("p2"));
        assert_eq!(one.save(0, &row, None).await.unwrap(), Some(1));
        let again = one.save(0, &row, None).await.unwrap();
        assert_eq!(again, Some(1), "its own, again");
        assert_eq!(other.save(0, &row, None).await.unwrap(), None);
    }

    #[test]
    fn a_row_survives_the_round_trip_and_no_truncation_of_it_does() {
        for at in [At::Cursor(Cursor::new("{\"k\":1}")), At::End] {
            let counts = Counts {
                rows: 7,
                read_units: 1.5,
                ..Counts::default()
            };
            let rejected = vec![RejectedRow {
                id: "o7".into(),
                pipeline: Some(PipelineName::new("totals").unwrap()),
                reason: "it cannot be decoded".into(),
            }];
            let tally = Tally { counts, rejected };
            let row = SegmentRow { at, tally };
            let text = encode(&row, "p1");
            assert_eq!(decode("n", &text).unwrap(), row);
            for end in 0..text.len() {
                decode("n", &text[..end]).unwrap_err();
            }
        }
    }

    #[test]
    fn a_row_of_another_version_or_of_two_minds_is_refused() {
        let row = SegmentRow {
            at: At::End,
            tally: Tally::default(),
        };
        let text = encode(&row, "p1");
        let later = text.replace("\"version\":1", "\"version\":9");
        let error = decode("n", &later).unwrap_err();
        assert!(
            matches!(error, RunRecordError::Unknown { version: 9, .. }),
            "{error}"
        );
        let neither = text.replace("\"done\":true", "\"done\":false");
        let error = decode("n", &neither).unwrap_err();
        assert!(error.to_string().contains("`n`"), "{error}");
    }

    #[test]
    fn a_hundred_thousand_mutated_rows_are_refused_or_say_what_they_say() {
        let rejected = vec![RejectedRow {
            id: "o7".into(),
            pipeline: Some(PipelineName::new("totals").unwrap()),
            reason: "it cannot be decoded".into(),
        }];
        let counts = Counts {
            rows: 7,
            rejected: 1,
            read_units: 1.5,
            ..Counts::default()
        };
        let at = At::Cursor(Cursor::new("40"));
        let tally = Tally { counts, rejected };
        let text = encode(&SegmentRow { at, tally }, "p1");
        let random = Mutations::seeded(13);
        let mut read = 0;
        for round in 0..100_000 {
            let mutated = match round % 10 {
                0 => random.bytes(),
                _ => random.mutated(text.as_bytes()),
            };
            let Ok(mutated) = String::from_utf8(mutated) else {
                continue;
            };
            if let Ok(row) = decode("n", &mutated) {
                read += 1;
                let said: serde_json::Value = serde_json::from_str(&mutated).unwrap();
                let by = said["by"].as_str().unwrap();
                let again: serde_json::Value = serde_json::from_str(&encode(&row, by)).unwrap();
                let numbers = |value: &serde_json::Value| value["counts"]["read_units"].as_f64();
                assert_eq!(numbers(&again), numbers(&said));
                for field in ["version", "by", "cursor", "done", "rejected"] {
                    assert_eq!(again[field], said[field], "{mutated}");
                }
                assert_eq!(again["counts"]["rows"], said["counts"]["rows"]);
            }
        }
        assert!(read > 1_000, "{read}");
    }
}
