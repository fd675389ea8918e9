//! The answers of a handler, and which records of a batch they report as done.

use std::collections::HashMap;

use aws_lambda_events::event::dynamodb::EventRecord;
use aws_lambda_events::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};

/// The answer that reports the records with these sequence numbers as failed. Without any, all
/// records are done.
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

/// How many records at the start of the batch are done, according to an answer that reports
/// failures.
pub(crate) fn done_records(batch: &[EventRecord], response: &DynamoDbEventResponse) -> usize {
    // Reversed, so that the first of several records with one number is kept.
    let places: HashMap<&str, usize> = batch
        .iter()
        .enumerate()
        .rev()
        .filter_map(|(at, record)| Some((record.change.sequence_number.as_deref()?, at)))
        .collect();
    let failures = response.batch_item_failures.iter();
    let named = failures.map(|failure| places.get(failure.item_identifier.as_deref()?));
    // A number that is in no record of the batch sorts first as `None`, so that no record is done.
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
