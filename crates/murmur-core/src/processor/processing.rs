//! A batch of records on its way through decoding and every pipeline.

use futures::future::join_all;
use murmur_state::{Causes, Deadline, Fault, IdError, PipelineName, StoreError};

use super::Processor;
use crate::batch::Index;
use crate::decode::{DecodeFailure, Decoded};
use crate::outcome::{RecordError, RecordOutcome, Rejected};
use crate::pipeline::Pipeline;
use crate::record::{Change, EventName, Record, Side};
use crate::verdict::{Entry, PassedOver, Tally, Verdict};

impl<T: Send + Sync + 'static> Processor<T> {
    /// Processes `records`, in stream order, and returns an outcome for each.
    ///
    /// Nothing new begins after `deadline`. Records that could not be finished are reported as
    /// failed or blocked; each pipeline's mode says how safe it is to send them again. A record
    /// that occurs twice in the batch is processed once and answered twice.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: any part of the batch may have been applied, and claims may be held. Give a
    /// deadline instead of dropping the future.
    pub async fn process(&self, records: &[Record], deadline: Deadline) -> Vec<RecordOutcome> {
        let mut outcomes = vec![RecordOutcome::Skipped; records.len()];
        let (entries, repeated) = self.prepare(records, deadline, &mut outcomes).await;

        let context = self.context(deadline);
        let runs = self
            .pipelines()
            .iter()
            .map(|pipeline| pipeline.erased.run(&entries, context));
        let verdicts = join_all(runs).await;
        for (pipeline, verdicts) in self.pipelines().iter().zip(verdicts) {
            let name = pipeline.name();
            let mut tally = Tally::default();
            let mut passed_over = Vec::new();
            for (entry, verdict) in entries.iter().zip(verdicts) {
                tally.add(&verdict);
                let outcome = match verdict {
                    Verdict::Applied => RecordOutcome::Applied,
                    Verdict::Duplicate => RecordOutcome::Duplicate,
                    Verdict::Superseded => RecordOutcome::Superseded,
                    Verdict::Skipped | Verdict::Kept => RecordOutcome::Skipped,
                    Verdict::Expired => RecordOutcome::Expired,
                    Verdict::Blocked => RecordOutcome::Blocked,
                    Verdict::Failed(source) => {
                        // A record that is too late has no part in what its item contributes. A
                        // scanned row that contributes nothing changes nothing.
                        let late = matches!(
                            *source,
                            StoreError::TooOld { .. } | StoreError::RowEnds { .. }
                        );
                        let noted = pipeline.keeps_ledger()
                            && matches!(entry.record, Record::Changed(_))
                            && !late;
                        let by_its_images = !matches!(*source, StoreError::Overflow { .. });
                        let error = Box::new(RecordError::Store {
                            pipeline: name.clone(),
                            source: *source,
                        });
                        let outcome = self.fail(entry.record, Some(name), error, deadline).await;
                        if noted && matches!(outcome, RecordOutcome::PassedOver) {
                            passed_over.push(PassedOver {
                                entry,
                                by_its_images,
                            });
                        }
                        outcome
                    }
                };
                outcomes[entry.place].worsen(outcome);
            }
            tally.record(name, &*self.shared.recorder);
            // A record that can never count contributes nothing, like one that cannot be decoded.
            if passed_over.is_empty() {
                continue;
            }
            let verdicts = pipeline.erased.pass_over(&passed_over, context).await;
            for (PassedOver { entry, .. }, verdict) in passed_over.into_iter().zip(verdicts) {
                let outcome = match verdict {
                    Verdict::Blocked => RecordOutcome::Blocked,
                    Verdict::Failed(source) if source.fault() != Fault::Record => {
                        let error = RecordError::Store {
                            pipeline: name.clone(),
                            source: *source,
                        };
                        self.note(&error, entry.record, Some(name));
                        RecordOutcome::Failed(Box::new(error))
                    }
                    _ => continue,
                };
                outcomes[entry.place].worsen(outcome);
            }
        }

        for &(place, original) in &repeated {
            outcomes[place] = outcomes[original].clone();
        }
        self.count_all(":dedup_skip", repeated.len() as u64);
        outcomes
    }

    /// Returns the records to process, decoded as far as needed, and for each repeated record the
    /// index of itself and of the first one. All other records have their outcome.
    async fn prepare<'a>(
        &self,
        records: &'a [Record],
        deadline: Deadline,
        outcomes: &mut [RecordOutcome],
    ) -> (Vec<Entry<'a, T>>, Vec<(usize, usize)>) {
        let mut entries = Vec::with_capacity(records.len());
        let mut repeated = Vec::new();
        let now = self.clock().now();
        let mut impossible = 0;
        let mut first = Index::with_capacity(records.len());
        'records: for (place, record) in records.iter().enumerate() {
            let mut entry = Entry {
                place,
                record,
                new: None,
                old: None,
            };
            if let Err(error) = check(record, self.shared.decoder.sees_records()) {
                if self.must_count(record, &error) {
                    self.note(&error, record, None);
                    outcomes[place] = RecordOutcome::Failed(error);
                    continue;
                }
                let is_of_an_item = is_of_an_item(record, &error);
                outcomes[place] = self.fail(record, None, error, deadline).await;
                if outcomes[place].is_done() && is_of_an_item {
                    entries.push(entry);
                }
                continue;
            }
            let original = first.entry(record.event_id(), |place| records[place].event_id());
            let original = *original.or_insert(place).get();
            if original != place {
                repeated.push((place, original));
                continue;
            }
            if let Some(at) = record.impossible_creation(now) {
                impossible += 1;
                tracing::warn!(
                    event_id = record.event_id(),
                    created = at.as_secs(),
                    now = now.as_secs(),
                    "the record's creation time, in seconds, lies in the future; the record is treated as one without a time",
                );
            }
            for side in self.sides(record) {
                match self.decode(record, *side) {
                    Ok(image) => *entry.image(*side) = image,
                    Err(error) if self.counts_for_nothing(record, *side, &error) => {}
                    Err(error) => {
                        outcomes[place] = self.fail(record, None, error, deadline).await;
                        if !outcomes[place].is_done() {
                            continue 'records;
                        }
                    }
                }
            }
            entries.push(entry);
        }
        self.count_all(":impossible_time", impossible);
        (entries, repeated)
    }

    /// Whether a record that no pipeline can use must not be passed over: it may be the change of a
    /// settled item, whose next change takes back what this one should have added.
    fn must_count(&self, record: &Record, error: &RecordError) -> bool {
        matches!(record, Record::Changed(change) if !change.keys.is_empty())
            && !is_of_an_item(record, error)
            && self.shared.settles
    }

    /// Whether some pipeline needs the old image of `record`.
    fn needs_old(&self, record: &Record) -> bool {
        match record.is(&EventName::Remove) {
            true if record.is_removal_by_ttl() => self.shared.needs_old_of_expired,
            true => self.shared.needs_old || self.shared.needs_old_of_removed,
            false => self.shared.needs_old,
        }
    }

    /// The sides of `record` that some pipeline needs.
    fn sides(&self, record: &Record) -> &'static [Side] {
        match self.shared.settles || self.needs_old(record) {
            true => &[Side::New, Side::Old],
            false => &[Side::New],
        }
    }

    /// Whether an image is only needed because items settle. If it cannot be decoded it counts for
    /// nothing, since it was rejected when it was the new image.
    fn counts_for_nothing(&self, record: &Record, side: Side, error: &RecordError) -> bool {
        use RecordError::{Undecodable, UnreadableImage};
        side == Side::Old
            && !self.needs_old(record)
            && matches!(error, Undecodable { .. } | UnreadableImage { .. })
    }

    pub(crate) fn decode(
        &self,
        record: &Record,
        side: Side,
    ) -> Result<Option<T>, Box<RecordError>> {
        let error = match self.shared.decoder.decode(record, side) {
            None | Some(Ok(Decoded::Skip)) => return Ok(None),
            Some(Ok(Decoded::Record(value))) => return Ok(Some(value)),
            Some(Err(DecodeFailure::MissingImage)) => RecordError::MissingImage { side },
            Some(Err(DecodeFailure::Unreadable(reason))) => {
                RecordError::UnreadableImage { side, reason }
            }
            Some(Err(DecodeFailure::Undecodable(source))) => RecordError::Undecodable {
                side,
                source: source.into(),
            },
        };
        Err(Box::new(error))
    }

    /// The outcome of a record that failed with `error`, in one pipeline or before any. If it can
    /// never count, the callback may take it.
    async fn fail(
        &self,
        record: &Record,
        pipeline: Option<&PipelineName>,
        error: Box<RecordError>,
        deadline: Deadline,
    ) -> RecordOutcome {
        if error.fault() != Fault::Record {
            self.note(&error, record, pipeline);
            return RecordOutcome::Failed(error);
        }
        match self.hand_over(record, pipeline, *error, deadline).await {
            Ok(()) => RecordOutcome::PassedOver,
            Err(error) => RecordOutcome::Failed(Box::new(error)),
        }
    }

    /// Passes over a record that can never count in any pipeline, for a reason that its source
    /// knows. It is counted, traced and handed to the callback, like a record that cannot be
    /// decoded.
    ///
    /// # Errors
    ///
    /// `error` itself if there is no callback, or the callback's error. The record is not passed
    /// over then.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the callback may or may not have taken the record.
    pub async fn reject(&self, record: &Record, error: RecordError) -> Result<(), RecordError> {
        self.hand_over(record, None, error, Deadline::NONE).await
    }

    /// Hands a record that can never count to the callback, if there is one and time for it. `Ok`
    /// if the callback took it.
    async fn hand_over(
        &self,
        record: &Record,
        pipeline: Option<&PipelineName>,
        error: RecordError,
        deadline: Deadline,
    ) -> Result<(), RecordError> {
        self.note(&error, record, pipeline);
        let Some(callback) = &self.on_rejected else {
            return Err(error);
        };
        if deadline.passed(&**self.clock()) {
            return Err(error);
        }
        let rejected = Rejected {
            record: record.clone(),
            pipeline: pipeline.cloned(),
            error,
        };
        match callback(rejected).await {
            Ok(()) => {
                match pipeline {
                    Some(pipeline) => self
                        .shared
                        .recorder
                        .count(&format!("{pipeline}:dead_letter"), 1),
                    None => self.count_all(":dead_letter", 1),
                }
                Ok(())
            }
            Err(source) => {
                let error = RecordError::Callback {
                    source: source.into(),
                };
                self.note(&error, record, pipeline);
                Err(error)
            }
        }
    }

    /// Counts and traces a failure, with the id of its record.
    fn note(&self, error: &RecordError, record: &Record, pipeline: Option<&PipelineName>) {
        let names = self.pipelines().iter().map(Pipeline::name);
        for name in names.filter(|name| pipeline.is_none_or(|only| only == *name)) {
            let name = format!("{name}:failed");
            self.shared.recorder.count(&name, 1);
            self.shared.recorder.error(&name, error);
        }
        tracing::warn!(
            event_id = record.event_id(),
            sequence_number = record.sequence_number().map(|number| number.as_str()),
            pipeline = pipeline.map(PipelineName::as_str),
            error = %Causes(error),
            "a record failed",
        );
    }

    fn count_all(&self, suffix: &str, by: u64) {
        if by > 0 {
            for pipeline in self.pipelines() {
                let name = format!("{}{suffix}", pipeline.name());
                self.shared.recorder.count(&name, by);
            }
        }
    }
}

/// Checks what every record needs. `sees_records` says whether the decoder takes whole records
/// instead of one image at a time.
fn check(record: &Record, sees_records: bool) -> Result<(), Box<RecordError>> {
    let missing = match record {
        Record::Changed(change) => match &change.event {
            EventName::Unreadable(reason) => Some(RecordError::Unreadable {
                reason: reason.clone(),
            }),
            EventName::Other(name) => Some(RecordError::UnknownEvent { name: name.clone() }),
            // A ledger would take all such records for changes of one item.
            _ if change.keys.is_empty() => Some(RecordError::NoKeys),
            _ => None,
        },
        Record::Scanned(_) => None,
    };
    let no_id = || RecordError::InvalidId(IdError::EmptyEventId);
    let missing = missing.or_else(|| record.event_id().is_empty().then(no_id));
    // Such a decoder may look at either image, for any side.
    let image = |side| {
        let reason = record.unreadable(side)?.to_owned();
        Some(RecordError::UnreadableImage { side, reason })
    };
    let images = || [Side::New, Side::Old].into_iter().find_map(image);
    let missing = missing.or_else(|| sees_records.then(images).flatten());
    missing.map_or(Ok(()), |error| Err(Box::new(error)))
}

/// Whether an unreadable record still says which item changed, and at which place in the order of
/// its changes. A ledger then notes that the item contributes nothing, as for a record that is
/// readable but cannot be decoded.
fn is_of_an_item(record: &Record, error: &RecordError) -> bool {
    use RecordError::{Unreadable, UnreadableImage};
    matches!(error, Unreadable { .. } | UnreadableImage { .. })
        && matches!(
            record,
            Record::Changed(Change { keys, sequence_number, .. })
                if !keys.is_empty() && sequence_number.is_some()
        )
}
