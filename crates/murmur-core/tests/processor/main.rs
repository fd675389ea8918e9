//! What the processor promises for a batch: one outcome per record, each in the right place.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

macro_rules! assert_outcomes {
    ($outcomes:expr, $($pattern:pat),+ $(,)?) => {
        let outcomes = $outcomes;
        assert!(matches!(&outcomes[..], [$($pattern),+]), "{outcomes:#?}");
    };
}

mod derived;
mod expiry;
mod failures;
mod images;
mod modes;
mod order;
mod overdue;
mod rejected;
mod settled;
mod settling;
mod spread;
mod support;
mod windows;

use std::sync::Arc;

use murmur_core::{
    AttributeValue, Definition, Pipeline, Processor, ProcessorBuilder, Record, RecordError,
    RecordOutcome, Stored, Sum,
};
use murmur_state::{Deadline, Random, Store};

use support::{Counts, Order, clock, insert, item};

fn orders() -> Definition<Order, Sum> {
    Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
}

pub(crate) fn totals<S: Store<Sum>>(store: S) -> Stored<Order, Sum, S> {
    orders().every_change().store(store)
}

/// The same for a ledger, which follows the table.
pub(crate) fn following<S: Store<Sum>>(store: S) -> Stored<Order, Sum, S> {
    orders().store(store)
}

pub(crate) fn builder(pipeline: Pipeline<Order>) -> (ProcessorBuilder<Order>, Counts) {
    let counts = Counts::default();
    let builder = Processor::builder([pipeline])
        .recorder(counts.clone())
        .clock(Arc::new(clock()))
        .random(Random::seeded(3));
    (builder, counts)
}

pub(crate) fn processor(pipeline: Pipeline<Order>) -> (Processor<Order>, Counts) {
    let (builder, counts) = builder(pipeline);
    (builder.build().unwrap(), counts)
}

pub(crate) fn undecodable(event: &str) -> Record {
    insert(event, item(&[("customer", AttributeValue::Bool(true))]))
}

/// Why a record failed.
pub(crate) fn error(outcome: &RecordOutcome) -> &RecordError {
    match outcome {
        RecordOutcome::Failed(error) => error,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn outcomes(
    processor: &Processor<Order>,
    records: &[Record],
) -> Vec<RecordOutcome> {
    let outcomes = processor.process(records, Deadline::NONE).await;
    assert_eq!(outcomes.len(), records.len(), "one outcome per record");
    outcomes
}
