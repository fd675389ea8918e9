//! The claim-first mode of a pipeline, on real tables and over a wire that fails.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::Client;
use murmur_core::{
    AttributeValue, Change, Item, Pipeline, Processor, Record, RecordError, RecordOutcome, Sum,
};
use murmur_state::{Deadline, Random, ReadExt, RetryPolicy, SequenceNumber, StoreError};
use murmur_state_ddb::{Deduper, Int64SumStore};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Wire};

use crate::support::{b, key, marker_table, put_row, s, state_table, wire_on};

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
        Self::on(state, markers, wire.client(dynamo))
    }

    /// A separate invocation on the same tables.
    fn racing(&self, client: Client) -> Self {
        Self::on(self.state.clone(), self.markers.clone(), client)
    }

    fn on(state: String, markers: String, client: Client) -> Self {
        let pipeline = Pipeline::builder("likes")
            .key(|like: &Like| like.page.clone())
            .value(|_| 1)
            .aggregate(Sum::new())
            .every_change()
            .store(Int64SumStore::new(client.clone(), &*state))
            .claim_first(Deduper::new(client, &*markers))
            .unwrap();
        let processor = Processor::builder([pipeline])
            .retry(RetryPolicy::default().waits(Default::default(), Default::default()))
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
    // All claims of the batch are in progress before the first is sent again.
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
    // What the mode is documented not to guarantee.
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

/// How often each kind of fault was met.
type Met = Arc<Mutex<HashMap<&'static str, u32>>>;

/// Faults of every kind on claims and releases, including lost answers, and merges that fail
/// cleanly. No fault comes three times in succession for one row, so every retry succeeds in the
/// end.
fn stormy(seed: u64, met: &Met) -> Wire {
    let met = met.clone();
    let (random, rows) = (Random::seeded(seed), Mutex::new(HashMap::new()));
    Wire::new(move |request| {
        let name = match &*request.operation {
            "UpdateItem" => &request.body["Key"]["pk"]["S"],
            "PutItem" => &request.body["Item"]["pk"]["S"],
            "DeleteItem" => &request.body["Key"]["pk"]["S"],
            _ => return Action::Pass,
        };
        let row = format!("{} {name}", request.operation);
        let mut rows = rows.lock().unwrap();
        let in_a_row: &mut u32 = rows.entry(row).or_default();
        let throttle = || {
            let code = "ProvisionedThroughputExceededException";
            Action::error(400, code, "slow down")
        };
        let merge = request.operation == "UpdateItem";
        let (kind, action) = match random.bits() % 10 {
            _ if *in_a_row == 2 => ("none", Action::Pass),
            0 | 1 => ("throttled", throttle()),
            2 => ("refused", Action::error(500, "InternalServerError", "no")),
            // A merge fails permanently, so its claims are released.
            3 | 4 if merge => (
                "refused for good",
                Action::error(400, "AccessDeniedException", "no"),
            ),
            3 | 4 => ("answer lost", Action::lose_answer()),
            5 if !merge => ("connection lost after", Action::DropAfter),
            6 if !merge => ("connection lost before", Action::DropBefore),
            _ => ("none", Action::Pass),
        };
        *in_a_row = match action {
            Action::Pass => 0,
            _ => *in_a_row + 1,
        };
        *met.lock().unwrap().entry(kind).or_default() += 1;
        action
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_befalls_claims_and_releases_each_event_counts_once() {
    let met = Met::default();
    let dynamo = Dynamo::connect().await;
    for seed in 0..12 {
        let first = Likes::over(&dynamo, &stormy(seed, &met)).await;
        let second = first.racing(stormy(1000 + seed, &met).client(&dynamo));
        let pages = ["a", "b", "c"];
        let batch: Vec<_> = (0..24)
            .map(|n| like(&n.to_string(), pages[n % 3]))
            .collect();
        // Both batches have all records, the second in another grouping.
        let until_done = async |likes: &Likes, size: usize| {
            for chunk in batch.chunks(size) {
                let mut left = chunk.to_vec();
                while !left.is_empty() {
                    let outcomes = likes.send(&left).await;
                    let done = outcomes.iter().map(RecordOutcome::is_done);
                    let mut done = done.collect::<Vec<_>>().into_iter();
                    left.retain(|_| !done.next().unwrap());
                }
            }
        };
        tokio::join!(until_done(&first, 24), until_done(&second, 7));
        for page in pages {
            assert_eq!(
                first.total(&dynamo, page).await,
                Some(8),
                "seed {seed}, {page}"
            );
        }
        assert_eq!(first.claims(&dynamo.client()).await, 24, "seed {seed}");
    }
    let met = met.lock().unwrap();
    for kind in [
        "throttled",
        "refused",
        "refused for good",
        "answer lost",
        "connection lost after",
        "connection lost before",
    ] {
        assert!(met.get(kind).is_some_and(|n| *n > 10), "{kind}: {met:?}");
    }
}

#[tokio::test]
async fn a_claim_that_arrives_after_it_was_given_back_hides_its_event() {
    // What the deduper is documented not to promise.
    let dynamo = Dynamo::connect().await;
    let wire = Wire::new(|request| match (&*request.operation, request.nth) {
        ("PutItem", 0) => Action::DropBefore,
        ("UpdateItem", 0) => Action::error(400, "AccessDeniedException", "no"),
        _ => Action::Pass,
    });
    let likes = Likes::over(&dynamo, &wire).await;
    let batch = [like("1", "home")];
    assert!(!likes.send(&batch).await[0].is_done());
    assert_eq!(likes.claims(&dynamo.client()).await, 0, "given back");
    // The first attempt was not dropped, only late.
    let late = &wire.requests()[0].body["Item"];
    let put = dynamo.client().put_item().table_name(&likes.markers);
    let put = put
        .item("pk", s(late["pk"]["S"].as_str().unwrap()))
        .item("own", s(late["own"]["S"].as_str().unwrap()))
        .condition_expression("attribute_not_exists(pk)");
    put.send().await.unwrap();
    let again = likes.send(&batch).await;
    assert!(matches!(again[0], RecordOutcome::Duplicate), "{again:?}");
    assert_eq!(likes.total(&dynamo, "home").await, None);
}

#[tokio::test]
async fn an_event_met_while_another_holds_its_claim_is_taken_for_counted() {
    // What the mode is documented not to guarantee: the holder may still fail or die.
    let dynamo = Dynamo::connect().await;
    let wire = wire_on("UpdateItem", |_| Action::Hang);
    let likes = Likes::over(&dynamo, &wire).await;
    let batch = [like("1", "home")];
    let dies = likes.send(&batch);
    let merging = async {
        while wire.count("UpdateItem") == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = dies => panic!("it hangs"),
        () = merging => {}
    }
    let other = likes.racing(dynamo.client());
    let again = other.send(&batch).await;
    assert!(matches!(again[0], RecordOutcome::Duplicate), "{again:?}");
    assert_eq!(likes.total(&dynamo, "home").await, None, "lost");
}
