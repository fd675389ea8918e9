use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
use murmur_core::{Pipeline, Processor, Record, RecordError, RecordOutcome};
use murmur_state::{Causes, Clock, Deadline, EventHandler, OptionError, Repeats};
use tracing::Instrument;
use tracing::field::{Empty, display};

use crate::convert::{give_back, take};
use crate::lenient::LenientEvent;

/// The default deadline margin.
const MARGIN: Duration = Duration::from_secs(1);

/// Feeds pipelines with the change records that Lambda delivers, and reports which records failed.
///
/// # Delivery
///
/// A record that the answer does not report is done: counted, skipped, or taken by the callback for
/// rejected records. A reported record is delivered again, with everything after it in its shard.
/// How often such a record then counts depends on each pipeline's delivery mode.
///
/// The event source mapping must have `ReportBatchItemFailures` among its `FunctionResponseTypes`.
/// Without it Lambda ignores the answer, and records that failed are **lost**.
///
/// Cloning is cheap, and clones share everything.
pub struct Handler<T> {
    inner: Arc<Inner<T>>,
}

struct Inner<T> {
    processor: Processor<T>,
    margin: Duration,
}

/// An error for which Lambda delivers the whole batch again.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum InvocationError {
    /// A record that must be delivered again has no sequence number to report it by.
    #[error(
        "the record with event id `{event_id}` is not done and has no sequence number to report; the whole batch must be delivered again"
    )]
    NoSequenceNumber {
        /// The stream's `eventID`.
        event_id: String,
        /// Why the record is not done. `None` if a record before it or the deadline held it up.
        #[source]
        source: Option<Box<RecordError>>,
    },
}

murmur_state::debug_as_message!(InvocationError);

impl<T: Send + Sync + 'static> Handler<T> {
    /// Creates a handler that passes events to `processor`, with the handler's own options at their
    /// defaults.
    ///
    /// Retries, recorder, clock and the callback for records that can never count are options of
    /// the processor.
    pub fn new(processor: Processor<T>) -> Self {
        Self::made(processor, MARGIN)
    }

    /// Starts to build a handler that passes events to `processor`.
    pub fn builder(processor: Processor<T>) -> HandlerBuilder<T> {
        HandlerBuilder {
            processor,
            margin: MARGIN,
        }
    }

    fn made(processor: Processor<T>, margin: Duration) -> Self {
        Self {
            inner: Arc::new(Inner { processor, margin }),
        }
    }

    /// The pipelines that the handler feeds.
    pub fn pipelines(&self) -> &[Pipeline<T>] {
        self.inner.processor.pipelines()
    }

    /// The clock on which deadlines for [`handle`](Handler::handle) are made.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.inner.processor.clock()
    }

    /// Processes one event. Its only inputs are its arguments and the stores.
    ///
    /// An empty image counts as one that was not sent. A [`LenientEvent`] tells the two apart, as
    /// does a source that writes [`ImageNotes`](murmur_state::ImageNotes).
    ///
    /// `deadline` is when the invocation ends. Records that are not done one
    /// [margin](HandlerBuilder::deadline_margin) before it are reported as failed, so that the
    /// answer is sent in time. If the deadline has already passed, nothing is processed.
    ///
    /// The answer names every record that is not done by its sequence number, exactly as received,
    /// in the event's order. Lambda continues from the lowest one (AWS Lambda Developer Guide,
    /// "Configuring partial batch response with DynamoDB and Lambda").
    ///
    /// # Errors
    ///
    /// [`InvocationError::NoSequenceNumber`] if a record that is not done has no sequence number,
    /// or an empty one. Nothing else fails an invocation.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: any part of the event may have been applied, and claims may be held whose
    /// events are then lost. Pass a deadline instead of dropping the future.
    pub async fn handle(
        &self,
        event: Event,
        deadline: Deadline,
    ) -> Result<DynamoDbEventResponse, InvocationError> {
        self.handle_lenient(event.into(), deadline).await
    }

    /// Like [`handle`](Handler::handle), for an event that was read record by record.
    ///
    /// # Errors, Cancel safety
    ///
    /// As [`handle`](Handler::handle).
    pub async fn handle_lenient(
        &self,
        mut event: LenientEvent,
        deadline: Deadline,
    ) -> Result<DynamoDbEventResponse, InvocationError> {
        self.handle_lent(&mut event.records, deadline).await
    }

    /// Like [`handle`](Handler::handle), for borrowed records. They are unchanged when it returns.
    async fn handle_lent(
        &self,
        records: &mut [EventRecord],
        deadline: Deadline,
    ) -> Result<DynamoDbEventResponse, InvocationError> {
        let stream = records
            .iter()
            .find_map(|record| record.event_source_arn.as_deref())
            .map(display);
        let span = tracing::info_span!("murmur", records = records.len(), failed = Empty, stream);
        self.process(records, deadline).instrument(span).await
    }

    /// Processes one event without a deadline, for a loop of your own. The future borrows nothing.
    ///
    /// # Errors, Cancel safety
    ///
    /// As [`handle`](Handler::handle).
    pub fn call(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<DynamoDbEventResponse, InvocationError>> + Send + use<T> {
        let handler = self.clone();
        async move { handler.handle(event, Deadline::NONE).await }
    }

    async fn process(
        &self,
        lent: &mut [EventRecord],
        deadline: Deadline,
    ) -> Result<DynamoDbEventResponse, InvocationError> {
        let taken = lent.iter_mut().map(|record| Record::Changed(take(record)));
        let records: Vec<_> = taken.collect();
        let outcomes = if deadline.passed(&**self.clock()) {
            tracing::warn!("the deadline has passed, so no record is processed");
            vec![RecordOutcome::Blocked; records.len()]
        } else {
            let work = self.leave_margin(deadline);
            self.inner.processor.process(&records, work).await
        };
        for (record, taken) in lent.iter_mut().zip(records) {
            if let Record::Changed(change) = taken {
                give_back(record, change);
            }
        }
        let answer = report(lent, outcomes);
        match &answer {
            Ok(response) => {
                tracing::Span::current().record("failed", response.batch_item_failures.len());
            }
            Err(error) => tracing::error!(error = %Causes(error), "the invocation fails"),
        }
        answer
    }

    /// The time by which work must end so that the answer is sent by `deadline`.
    fn leave_margin(&self, deadline: Deadline) -> Deadline {
        let clock = &**self.clock();
        match deadline.remaining(clock) {
            Some(left) => Deadline::within(clock, left - self.inner.margin.min(left / 2)),
            None => Deadline::NONE,
        }
    }
}

/// The entry point for a trigger in the same process. It has no deadline, because a trigger does
/// not end its calls.
///
/// # Errors, Cancel safety
///
/// As [`handle`](Handler::handle).
impl<T: Send + Sync + 'static> EventHandler<Event> for Handler<T> {
    type Answer = DynamoDbEventResponse;

    async fn handle(
        &self,
        event: &mut Event,
        _shard: &str,
    ) -> Result<DynamoDbEventResponse, murmur_state::HandlerError> {
        let records = &mut event.records;
        Ok(self.handle_lent(records, Deadline::NONE).await?)
    }

    /// The least of what the pipelines do with a record that is delivered again.
    fn repeats(&self) -> Repeats {
        self.inner.processor.repeats()
    }
}

/// The answer that names each record that is not done.
fn report(
    records: &[EventRecord],
    outcomes: Vec<RecordOutcome>,
) -> Result<DynamoDbEventResponse, InvocationError> {
    let mut response = DynamoDbEventResponse::default();
    for (record, outcome) in records.iter().zip(outcomes) {
        if outcome.is_done() {
            continue;
        }
        // Exactly as received: Lambda compares texts, so it recognises its own text even if that is
        // not a number.
        let number = record.change.sequence_number.clone();
        let Some(number) = number.filter(|number| !number.is_empty()) else {
            return Err(InvocationError::NoSequenceNumber {
                event_id: record.event_id.clone(),
                source: match outcome {
                    RecordOutcome::Failed(error) => Some(error),
                    _ => None,
                },
            });
        };
        let mut failure = DynamoDbBatchItemFailure::default();
        failure.item_identifier = Some(number);
        response.batch_item_failures.push(failure);
    }
    Ok(response)
}

impl<T> Clone for Handler<T> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<T> fmt::Debug for Handler<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler")
            .field("processor", &self.inner.processor)
            .field("deadline_margin", &self.inner.margin)
            .finish()
    }
}

/// The options of a [`Handler`] itself; the other options are the processor's. Made by
/// [`Handler::builder`].
#[must_use = "a handler is made by `build`"]
pub struct HandlerBuilder<T> {
    processor: Processor<T>,
    margin: Duration,
}

impl<T: Send + Sync + 'static> HandlerBuilder<T> {
    /// How long before the invocation's deadline work ends, so that the answer is sent before
    /// Lambda stops the invocation. It is at most half of the time left when the invocation begins,
    /// so that a short timeout still leaves time to work.
    ///
    /// Default 1 s. A smaller margin works longer, but a slow answer of DynamoDB, which is waited
    /// for, may then exceed the deadline. In that case the whole batch is delivered again, and in
    /// claim-first mode events that were claimed and not yet counted are lost.
    pub fn deadline_margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }

    /// Checks the options and builds the handler.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming the option. At present every margin is valid, so it does not fail.
    pub fn build(self) -> Result<Handler<T>, OptionError> {
        Ok(Handler::made(self.processor, self.margin))
    }
}

impl<T> fmt::Debug for HandlerBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerBuilder")
            .field("processor", &self.processor)
            .field("deadline_margin", &self.margin)
            .finish()
    }
}
