//! One delivery of one batch, and what it leaves.

use std::time::Duration;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::DynamoDbEventResponse;
use murmur_state::{Cause, Causes, EventHandler};

use crate::handler::done_records;
use crate::trigger::engine::Engine;
use crate::trigger::error::TriggerError;
use crate::trigger::failed::{FailedBatch, FailureCondition};
use crate::trigger::lane::{Part, Pending};
use crate::trigger::monitor::Count;

/// What a delivery leaves.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    /// The ordinals of the records that are done.
    pub(crate) done: Vec<u64>,
    /// What comes again, in order.
    pub(crate) left: Vec<Part>,
    /// How long to wait before that.
    pub(crate) wait: Duration,
    /// Why the trigger has to stop.
    pub(crate) error: Option<TriggerError>,
}

impl Delivered {
    fn took(&mut self, records: impl IntoIterator<Item = Pending>) {
        let ordinals = records.into_iter().map(|pending| pending.ordinal);
        self.done.extend(ordinals);
    }
}

impl<S, H> Engine<S, H>
where
    S: Send + Sync,
    H: EventHandler<Event, Answer = DynamoDbEventResponse>,
{
    /// Hands a batch to the handler once, and judges the answer.
    pub(crate) async fn deliver(&self, arn: &str, shard: &str, part: Part) -> Delivered {
        let mut delivered = Delivered::default();
        let Some(part) = self.drop_old(arn, shard, part, &mut delivered).await else {
            return delivered;
        };
        self.monitor.count(
            match part.again {
                true => Count::Retries,
                false => Count::Batches,
            },
            1,
        );
        let mut event = Event::default();
        event.records = records(&part.records);
        let answer = self.handler.handle(event, shard).await;
        let (done, error) = match answer {
            Ok(response) => {
                let failures = response.batch_item_failures.len() as u64;
                self.monitor.count(Count::Failures, failures);
                let sent = part.records.iter().map(|pending| &pending.record);
                (done_records(sent, &response), None)
            }
            Err(error) => {
                self.monitor.count(Count::Errors, 1);
                (0, Some(Cause::from(error)))
            }
        };
        self.monitor.count(Count::Records, done as u64);
        let Part {
            mut records,
            failures,
            ..
        } = part;
        let left = records.split_off(done);
        delivered.took(records);
        if !left.is_empty() {
            let before = (done == 0).then_some(failures);
            self.failed(arn, shard, left, before, error, &mut delivered)
                .await;
        }
        delivered
    }

    /// What becomes of records that were delivered and are not done. `before` is how often in a
    /// row that happened to the first of them before; `None` if others were done before it now.
    async fn failed(
        &self,
        arn: &str,
        shard: &str,
        records: Vec<Pending>,
        before: Option<u32>,
        error: Option<Cause>,
        delivered: &mut Delivered,
    ) {
        let retries = before.unwrap_or(0);
        let failures = retries.saturating_add(1);
        tracing::warn!(
            shard,
            sequence_number = first_number(&records),
            records = records.len(),
            failures,
            error = error.as_deref().map(|cause| Causes(cause).to_string()),
            "the handler did not finish a batch; from this record on it comes again"
        );
        let options = &self.options;
        delivered.wait = self.backoff(retries);
        let limit = options.maximum_retry_attempts;
        let exhausted = limit.is_some_and(|limit| retries >= limit);
        let whole = before.is_some();
        if options.bisect_batch_on_error && records.len() > 1 && (whole || exhausted) {
            // Cutting is no retry; both halves have what attempts the whole still had, or all
            // of them where it had none left.
            self.monitor.count(Count::Bisections, 1);
            let failures = if exhausted { 0 } else { retries };
            delivered.left = halves(records, failures);
            return;
        }
        if exhausted {
            let condition = FailureCondition::RetryAttemptsExhausted { retries, error };
            let batch = failed_batch(arn, shard, &records, condition);
            if self.give_up(batch, failures, delivered).await {
                return delivered.took(records);
            }
        }
        delivered.left = vec![Part::again(records, failures)];
    }

    /// Passes the records that are too old to `on_failure`; answers the others, if there are any
    /// and they may be delivered now.
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
        let age = |pending: &Pending| pending.created(now).map(|created| now.since(created));
        let is_old = |pending: &Pending| age(pending).is_some_and(|age| age > limit);
        if !part.records.iter().any(is_old) {
            return Some(part);
        }
        let Part {
            records,
            failures,
            again,
        } = part;
        let (old, young): (Vec<_>, Vec<_>) = records.iter().cloned().partition(is_old);
        let age = old.first().and_then(age).unwrap_or_default();
        let condition = FailureCondition::RecordAgeExceeded { age, limit };
        let batch = failed_batch(arn, shard, &old, condition);
        if !self.give_up(batch, failures, delivered).await {
            delivered.left = vec![Part {
                records,
                failures: failures.saturating_add(1),
                again,
            }];
            return None;
        }
        delivered.took(old);
        (!young.is_empty()).then_some(Part {
            records: young,
            failures,
            again,
        })
    }

    /// Passes records to `on_failure`; whether it took them. If it fails they come again after a
    /// pause; without one the trigger stops.
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
                "`on_failure` did not take records that are to be given up; they come again"
            );
            delivered.wait = self.backoff(failures);
            return false;
        }
        tracing::error!(shard, sequence_number = number, records = count, "given up");
        self.monitor.count(Count::GivenUp, count);
        self.monitor.count(Count::Records, count);
        true
    }
}

fn halves(mut records: Vec<Pending>, failures: u32) -> Vec<Part> {
    let second = records.split_off(records.len() / 2);
    vec![
        Part::again(records, failures),
        Part::again(second, failures),
    ]
}

fn records(pending: &[Pending]) -> Vec<EventRecord> {
    pending
        .iter()
        .map(|pending| pending.record.clone())
        .collect()
}

fn number_of(pending: Option<&Pending>) -> String {
    let number = pending.and_then(|pending| pending.record.change.sequence_number.clone());
    number.unwrap_or_default()
}

fn first_number(pending: &[Pending]) -> String {
    number_of(pending.first())
}

fn failed_batch(
    arn: &str,
    shard: &str,
    pending: &[Pending],
    condition: FailureCondition,
) -> FailedBatch {
    FailedBatch {
        stream_arn: arn.to_owned(),
        shard: shard.to_owned(),
        start_sequence_number: first_number(pending),
        end_sequence_number: number_of(pending.last()),
        records: records(pending),
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
