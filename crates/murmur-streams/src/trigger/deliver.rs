//! One delivery of one batch, and its result.

use std::time::Duration;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::DynamoDbEventResponse;
use murmur_state::error::Cause;
use murmur_state::{Causes, EventHandler};

use crate::handler::done_records;
use crate::record::created_at;
use crate::trigger::engine::Engine;
use crate::trigger::error::TriggerError;
use crate::trigger::failed::{FailedBatch, FailureCondition};
use crate::trigger::lane::{Part, Undone};
use crate::trigger::monitor::Tally;

/// The result of a delivery.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    /// The ordinals of the records that are done.
    pub(crate) done: Vec<u64>,
    /// What is to be delivered again, in order.
    pub(crate) left: Vec<Part>,
    /// How long to wait before that.
    pub(crate) wait: Duration,
    /// Why the trigger has to stop.
    pub(crate) error: Option<TriggerError>,
}

impl Delivered {
    fn took(&mut self, records: Undone) {
        let ordinals = records.marks.iter().map(|mark| mark.ordinal);
        self.done.extend(ordinals);
    }
}

impl<S, H> Engine<S, H>
where
    S: Send + Sync,
    H: EventHandler<Event, Answer = DynamoDbEventResponse>,
{
    /// Passes a batch to the handler once, and judges the answer.
    pub(crate) async fn deliver(&self, arn: &str, shard: &str, part: Part) -> Delivered {
        let mut delivered = Delivered::default();
        let Some(part) = self.drop_old(arn, shard, part, &mut delivered).await else {
            return delivered;
        };
        let Part {
            mut undone,
            failures,
            again,
        } = part;
        self.monitor.count(
            match again {
                true => Tally::Retries,
                false => Tally::Batches,
            },
            1,
        );
        let answer = self.handler.handle(&mut undone.event, shard).await;
        let (done, error) = match answer {
            Ok(response) => {
                let failures = response.batch_item_failures.len() as u64;
                self.monitor.count(Tally::Failures, failures);
                let done = match failures {
                    0 => undone.len(),
                    _ => done_records(&undone.event.records, &response),
                };
                (done, None)
            }
            Err(error) => {
                self.monitor.count(Tally::Errors, 1);
                (0, Some(Cause::from(error)))
            }
        };
        if done < undone.len() && !undone.is_whole() {
            delivered.error = Some(TriggerError::RecordsKept {
                shard: shard.to_owned(),
                lent: undone.len(),
                left: undone.event.records.len(),
                source: error,
            });
            return delivered;
        }
        self.monitor.count(Tally::Records, done as u64);
        if done == undone.len() {
            delivered.took(undone);
            return delivered;
        }
        let left = undone.split_off(done);
        delivered.took(undone);
        let before = (done == 0).then_some(failures);
        self.failed(arn, shard, left, before, error, &mut delivered)
            .await;
        delivered
    }

    /// Handles records that were delivered and are not done. `before` is how often in succession
    /// that had happened to the first of them, or `None` if other records before it were done now.
    async fn failed(
        &self,
        arn: &str,
        shard: &str,
        undone: Undone,
        before: Option<u32>,
        error: Option<Cause>,
        delivered: &mut Delivered,
    ) {
        let retries = before.unwrap_or(0);
        let failures = retries.saturating_add(1);
        let records = &undone.event.records;
        tracing::warn!(
            shard,
            sequence_number = number_of(records.first()),
            records = records.len(),
            failures,
            error = error.as_deref().map(|cause| Causes(cause).to_string()),
            "the handler did not finish a batch; it is delivered again from this record on"
        );
        let options = &self.options;
        delivered.wait = self.backoff(retries);
        let limit = options.maximum_retry_attempts;
        let exhausted = limit.is_some_and(|limit| retries >= limit);
        let whole = before.is_some();
        if options.bisect_batch_on_error && records.len() > 1 && (whole || exhausted) {
            // Cutting is not a retry. Both halves have the attempts that the whole batch still had,
            // or all of them if it had none left.
            self.monitor.count(Tally::Bisections, 1);
            let failures = if exhausted { 0 } else { retries };
            delivered.left = halves(undone, failures);
            return;
        }
        if exhausted {
            let condition = FailureCondition::RetryAttemptsExhausted { retries, error };
            let batch = failed_batch(arn, shard, records.clone(), condition);
            if self.give_up(batch, failures, delivered).await {
                return delivered.took(undone);
            }
        }
        delivered.left = vec![Part::again(undone, failures)];
    }

    /// Passes records that are too old to `on_failure`. Returns the others, if there are any and
    /// they may be delivered now.
    async fn drop_old(
        &self,
        arn: &str,
        shard: &str,
        part: Part,
        delivered: &mut Delivered,
    ) -> Option<Part> {
        let Some(limit) = self.options.record_age_limit else {
            return Some(part);
        };
        let now = self.options.clock.now();
        let age = |record: &EventRecord| created_at(record, now).map(|created| now.since(created));
        let is_old = |record: &EventRecord| age(record).is_some_and(|age| age > limit);
        let records = part.undone.event.records.iter();
        let old: Vec<_> = records.filter(|record| is_old(record)).cloned().collect();
        let Some(first) = old.first() else {
            return Some(part);
        };
        let age = age(first).unwrap_or_default();
        let condition = FailureCondition::RecordAgeExceeded { age, limit };
        let batch = failed_batch(arn, shard, old, condition);
        if !self.give_up(batch, part.failures, delivered).await {
            delivered.left = vec![Part {
                failures: part.failures.saturating_add(1),
                ..part
            }];
            return None;
        }
        let (old, young) = part.undone.partition(is_old);
        delivered.took(old);
        (young.len() > 0).then_some(Part {
            undone: young,
            ..part
        })
    }

    /// Passes records to `on_failure`, and returns whether it took them. If it fails they are
    /// delivered again after a pause. Without an `on_failure` the trigger stops.
    async fn give_up(&self, batch: FailedBatch, failures: u32, delivered: &mut Delivered) -> bool {
        let Some(on_failure) = &self.options.on_failure else {
            delivered.error = Some(nobody_takes(batch));
            return false;
        };
        let (shard, number) = (batch.shard.clone(), batch.start_sequence_number.clone());
        let count = batch.records.len() as u64;
        if let Err(error) = on_failure.take(batch).await {
            tracing::error!(
                shard,
                sequence_number = number,
                error = %Causes(&*error),
                "`on_failure` did not take records that are to be given up; they are delivered again"
            );
            delivered.wait = self.backoff(failures);
            return false;
        }
        tracing::error!(shard, sequence_number = number, records = count, "given up");
        self.monitor.count(Tally::GivenUp, count);
        self.monitor.count(Tally::Records, count);
        true
    }
}

fn halves(mut undone: Undone, failures: u32) -> Vec<Part> {
    let second = undone.split_off(undone.len() / 2);
    vec![Part::again(undone, failures), Part::again(second, failures)]
}

fn number_of(record: Option<&EventRecord>) -> String {
    let number = record.and_then(|record| record.change.sequence_number.clone());
    number.unwrap_or_default()
}

fn failed_batch(
    arn: &str,
    shard: &str,
    records: Vec<EventRecord>,
    condition: FailureCondition,
) -> FailedBatch {
    FailedBatch {
        stream_arn: arn.to_owned(),
        shard: shard.to_owned(),
        start_sequence_number: number_of(records.first()),
        end_sequence_number: number_of(records.last()),
        records,
        condition,
    }
}

fn nobody_takes(batch: FailedBatch) -> TriggerError {
    let (shard, sequence_number) = (batch.shard, batch.start_sequence_number);
    match batch.condition {
        FailureCondition::RetryAttemptsExhausted { retries, error } => {
            TriggerError::RetriesExhausted {
                shard,
                sequence_number,
                retries,
                source: error,
            }
        }
        FailureCondition::RecordAgeExceeded { age, limit } => TriggerError::RecordTooOld {
            shard,
            sequence_number,
            age,
            limit,
        },
    }
}
