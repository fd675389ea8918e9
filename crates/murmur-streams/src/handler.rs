use std::collections::HashMap;
use std::future::Future;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};

/// What a handler fails with.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// Anything that takes a Lambda event and answers which of its records failed.
///
/// Every `Fn(Event) -> Future<Output = Result<DynamoDbEventResponse, E>>` is one, so that the
/// function Lambda calls can be handed to a [`Trigger`](crate::Trigger) as it is.
///
/// # Contract
///
/// The answer's `batchItemFailures` name records by their sequence number, letter for letter.
/// Everything from the lowest one named on comes again; none named means all is done. An empty
/// or unknown name, and an error, mean that the whole batch comes again
/// (AWS Lambda Developer Guide, "Configuring partial batch response with DynamoDB and Lambda").
/// Records may come more than once, even after they were done.
///
/// # Cancel safety
///
/// Whoever runs a trigger and drops it may drop a call halfway; its records come again.
pub trait EventHandler: Send + Sync {
    /// Processes the records of one batch, which all are of one shard and in its order.
    fn handle(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<DynamoDbEventResponse, HandlerError>> + Send;
}

impl<F, Fut, E> EventHandler for F
where
    F: Fn(Event) -> Fut + Send + Sync,
    Fut: Future<Output = Result<DynamoDbEventResponse, E>> + Send,
    E: Into<HandlerError>,
{
    async fn handle(&self, event: Event) -> Result<DynamoDbEventResponse, HandlerError> {
        self(event).await.map_err(Into::into)
    }
}

/// The answer that reports these records, by sequence number, as failed; none: all is done.
pub fn report_failures<I>(sequence_numbers: I) -> DynamoDbEventResponse
where
    I: IntoIterator,
    I::Item: Into<String>,
{
    let mut response = DynamoDbEventResponse::default();
    response.batch_item_failures = sequence_numbers
        .into_iter()
        .map(|number| {
            let mut failure = DynamoDbBatchItemFailure::default();
            failure.item_identifier = Some(number.into());
            failure
        })
        .collect();
    response
}

/// How many records at the batch's beginning an answer says are done.
pub(crate) fn done_records(batch: &[EventRecord], response: &DynamoDbEventResponse) -> usize {
    let failures = &response.batch_item_failures;
    if failures.is_empty() {
        return batch.len();
    }
    // Reversed, so that of records with one number the first one stands.
    let places: HashMap<&str, usize> = batch
        .iter()
        .enumerate()
        .rev()
        .filter_map(|(at, record)| Some((record.change.sequence_number.as_deref()?, at)))
        .collect();
    let named = failures
        .iter()
        .map(|failure| places.get(failure.item_identifier.as_deref()?));
    // Whatever names no record of the batch sorts first as `None`, and nothing is done.
    named.min().flatten().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(numbers: &[&str]) -> Vec<EventRecord> {
        let record = |number: &&str| {
            let mut record = EventRecord::default();
            record.change.sequence_number = Some((*number).to_owned());
            record
        };
        numbers.iter().map(record).collect()
    }

    #[test]
    fn the_lowest_number_reported_says_what_is_done() {
        let batch = batch(&["7", "8", "9", "10"]);
        let done = |numbers: &[&str]| done_records(&batch, &report_failures(numbers.to_vec()));
        assert_eq!(done(&[]), 4);
        assert_eq!(done(&["10", "8"]), 1);
        assert_eq!(done(&["7"]), 0);
        assert_eq!(done(&["10"]), 3);
    }

    #[test]
    fn an_identifier_that_names_nothing_means_the_whole_batch() {
        let batch = batch(&["7", "8", "9"]);
        for bad in ["", "11", "08", "an event id"] {
            assert_eq!(done_records(&batch, &report_failures([bad])), 0, "{bad:?}");
            assert_eq!(
                done_records(&batch, &report_failures(["9", bad])),
                0,
                "{bad:?}"
            );
        }
        let mut null = DynamoDbEventResponse::default();
        null.batch_item_failures
            .push(DynamoDbBatchItemFailure::default());
        assert_eq!(done_records(&batch, &null), 0);
    }
}
