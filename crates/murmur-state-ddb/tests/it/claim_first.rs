//! The claim-first mode of a pipeline, on real tables and over a wire that fails.

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use murmur_core::{
    AttributeValue, Change, Item, Pipeline, Processor, ProcessorBuilder, Record, RecordError,
    RecordOutcome, Sum,
};
use murmur_state::{Deadline, ReadExt, SequenceNumber, StoreError};
use murmur_state_ddb::{Deduper, Int64SumStore};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Wire};

use crate::support::{b, key, marker_table, put_row, state_table, wire_on};

#[derive(serde::Deserialize)]
struct Like {
    page: String,
}

fn like(event: &str, page: &str) -> Record {
    let text = |value: &str| AttributeValue::S(value.to_owned());
    let item = |pairs: &[(&str, &str)]| -> Item {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), text(value)));
        pairs.collect::<HashMap<_, _>>().into()
    };
    Record::Changed(Change {
        event_id: event.into(),
        keys: item(&[("id", event)]),
        new_image: Some(item(&[("id", event), ("page", page)])),
        sequence_number: Some(SequenceNumber::new("100000000000000000001").unwrap()),
        ..Change::default()
    })
}

struct Likes {
    state: String,
    markers: String,
    processor: Processor<Like>,
}

impl Likes {
    async fn over(dynamo: &Dynamo, wire: &Wire) -> Self {
        let (state, markers) = (state_table(dynamo).await, marker_table(dynamo).await);
        let client = wire.client(dynamo);
        let pipeline = Pipeline::builder("likes")
            .key(|like: &Like| like.page.clone())
            .value(|_| 1)
            .aggregate(Sum::new())
            .store(Int64SumStore::new(client.clone(), &*state))
            .claim_first(Deduper::new(client, &*markers))
            .unwrap();
        let processor = ProcessorBuilder::new([pipeline])
            .retry_with(|policy| policy.waits(Default::default(), Default::default()))
            .build()
            .unwrap();
        Self {
            state,
            markers,
            processor,
        }
    }

    async fn send(&self, records: &[Record]) -> Vec<RecordOutcome> {
        self.processor.process(records, Deadline::NONE).await
    }

    async fn total(&self, dynamo: &Dynamo, page: &str) -> Option<i64> {
        let store = Int64SumStore::new(dynamo.client(), &*self.state);
        store.get(&key(page)).await.unwrap()
    }

    async fn claims(&self, client: &Client) -> usize {
        client
            .scan()
            .table_name(&self.markers)
            .send()
            .await
            .unwrap()
            .items()
            .len()
    }
}

#[tokio::test]
async fn claims_are_given_back_when_the_merge_fails_and_the_events_count_when_they_come_again() {
    let dynamo = Dynamo::connect().await;
    let wire = wire_on("UpdateItem", |request| match request.nth {
        0..3 => Action::error(500, "InternalServerError", "before it was applied"),
        _ => Action::Pass,
    });
    let likes = Likes::over(&dynamo, &wire).await;
    let batch = [like("1", "home"), like("2", "home")];
    let outcomes = likes.send(&batch).await;
    assert!(
        outcomes.iter().all(|outcome| !outcome.is_done()),
        "{outcomes:?}"
    );
    assert_eq!(wire.count("UpdateItem"), 3);
    assert_eq!(likes.claims(&dynamo.client()).await, 0);

    let outcomes = likes.send(&batch).await;
    assert!(outcomes.iter().all(RecordOutcome::is_done), "{outcomes:?}");
    assert_eq!(likes.total(&dynamo, "home").await, Some(2));
    assert_eq!(likes.claims(&dynamo.client()).await, 2);

    let outcomes = likes.send(&batch).await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, RecordOutcome::Duplicate))
    );
    assert_eq!(likes.total(&dynamo, "home").await, Some(2));
}

#[tokio::test]
async fn claims_whose_answers_were_lost_count_once() {
    let dynamo = Dynamo::connect().await;
    // All claims of the batch are under way before the first is sent again.
    let wire = wire_on("PutItem", |request| match request.nth {
        0..20 => Action::lose_answer(),
        _ => Action::Pass,
    });
    let likes = Likes::over(&dynamo, &wire).await;
    let batch: Vec<_> = (0..20).map(|n| like(&n.to_string(), "home")).collect();
    let outcomes = likes.send(&batch).await;
    assert!(outcomes.iter().all(RecordOutcome::is_done), "{outcomes:?}");
    assert_eq!(likes.total(&dynamo, "home").await, Some(20));
    assert_eq!(wire.count("PutItem"), 40);
}

#[tokio::test]
async fn an_addition_whose_answer_was_lost_is_counted_again() {
    // What the mode is documented to get wrong.
    let dynamo = Dynamo::connect().await;
    let wire = wire_on("UpdateItem", |request| match request.nth {
        0 => Action::lose_answer(),
        _ => Action::Pass,
    });
    let likes = Likes::over(&dynamo, &wire).await;
    likes.send(&[like("1", "home")]).await;
    assert_eq!(likes.total(&dynamo, "home").await, Some(2));
}

#[tokio::test]
async fn a_row_with_ids_of_the_exact_modes_is_refused_and_its_claims_are_given_back() {
    let dynamo = Dynamo::connect().await;
    let likes = Likes::over(&dynamo, &Wire::calm()).await;
    let ids =
        aws_sdk_dynamodb::types::AttributeValue::Bs(vec![aws_sdk_dynamodb::primitives::Blob::new(
            [7; 16],
        )]);
    put_row(
        &dynamo.client(),
        &likes.state,
        "exact",
        &[("cur", ids), ("per", b(&[1]))],
    )
    .await;
    let outcomes = likes.send(&[like("1", "exact"), like("2", "home")]).await;
    let [RecordOutcome::Failed(error), RecordOutcome::Applied] = &outcomes[..] else {
        panic!("{outcomes:?}")
    };
    assert!(
        matches!(
            &**error,
            RecordError::Store {
                source: StoreError::OtherMode { .. },
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(likes.claims(&dynamo.client()).await, 1);
}
