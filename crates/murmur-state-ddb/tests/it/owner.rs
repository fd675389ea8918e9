//! Control rows: a state table belongs to one pipeline, one definition and one marker table.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::conformance::bound;
use murmur_state::{
    Binding, Bound, Deadline, EventId, ExactlyOnce, Fault, LEDGER_MODE, Once, Outcome,
    PipelineName, StoreError,
};
use murmur_state_ddb::{BytesStore, Deduper, Int64SumStore};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Wire};

use crate::support::{Total, add, marker_table, state_table, virtual_time, wire_on};

fn binding(pipeline: &str, version: u32) -> Binding {
    Binding {
        pipeline: PipelineName::new(pipeline).unwrap(),
        version,
        mode: "exactly-once".into(),
        definition: "days".into(),
        stream: Some("arn/1".into()),
    }
}

struct Tables {
    dynamo: Dynamo,
    state: String,
    markers: String,
}

impl Tables {
    async fn new() -> Self {
        let dynamo = Dynamo::connect().await;
        Self {
            state: state_table(&dynamo).await,
            markers: marker_table(&dynamo).await,
            dynamo,
        }
    }

    async fn bind(&self, binding: &Binding) -> Result<Bound, StoreError> {
        self.bind_over(&Wire::calm(), binding).await
    }

    async fn bind_over(&self, wire: &Wire, binding: &Binding) -> Result<Bound, StoreError> {
        let client = wire.client(&self.dynamo);
        let store = Int64SumStore::new(client, &*self.state).markers(&*self.markers);
        ExactlyOnce::<Total>::bind(&store, binding, Deadline::NONE).await
    }

    async fn check_over(&self, wire: &Wire, binding: &Binding) -> Result<Bound, StoreError> {
        let client = wire.client(&self.dynamo);
        let store = Int64SumStore::new(client, &*self.state).markers(&*self.markers);
        ExactlyOnce::<Total>::check_binding(&store, binding, Deadline::NONE).await
    }

    async fn rows(&self, table: &str) -> usize {
        let rows = self.dynamo.client().scan().table_name(table).send().await;
        rows.unwrap().items().len()
    }
}

/// The error for a person to fix, as displayed.
fn shown(bound: Result<Bound, StoreError>) -> String {
    let error = bound.unwrap_err();
    assert_eq!(error.fault(), Fault::Setup, "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn another_pipeline_version_or_stream_is_refused_by_name() {
    let tables = Tables::new().await;
    tables.bind(&binding("likes", 2)).await.unwrap();
    for (other, word) in [
        (binding("orders", 2), "`orders`"),
        (binding("likes", 1), "version 1"),
        (
            Binding {
                stream: Some("arn/2".into()),
                ..binding("likes", 2)
            },
            "arn/2",
        ),
    ] {
        let shown = shown(tables.bind(&other).await);
        assert!(shown.contains(word), "{shown}");
        assert!(shown.contains(&tables.state), "{shown}");
        assert!(shown.contains("`likes`, version 2"), "{shown}");
    }
    tables.bind(&binding("likes", 2)).await.unwrap();
}

#[tokio::test]
async fn another_way_of_keeping_values_or_ids_is_refused() {
    let tables = Tables::new().await;
    tables.bind(&binding("likes", 1)).await.unwrap();
    let client = tables.dynamo.client();
    let markers = Deduper::new(client.clone(), &*tables.markers);
    let bytes = BytesStore::new(client.clone(), &*tables.state, Total).markers(&markers);
    let likes = binding("likes", 1);
    let text = shown(bytes.bind(&likes, Deadline::NONE).await);
    assert!(text.contains("kept as bytes"), "{text}");
    let hours = std::time::Duration::from_secs(3600);
    let markers = markers.horizon(hours * 50).unwrap();
    let sums = Int64SumStore::new(client, &*tables.state).markers(markers);
    let bound = ExactlyOnce::<Total>::bind(&sums, &likes, Deadline::NONE);
    let text = shown(bound.await);
    assert!(text.contains("horizon 180000s"), "{text}");
}

#[tokio::test]
async fn a_marker_table_that_cannot_be_one_is_refused_before_anything_is_written() {
    let mut tables = Tables::new().await;
    let markers = std::mem::replace(&mut tables.markers, tables.state.clone());
    let text = shown(tables.bind(&binding("likes", 1)).await);
    assert!(text.contains("create_dedup_table"), "{text}");

    // A table with the keys of a state table, and one with those of a marker table as the state.
    tables.markers = state_table(&tables.dynamo).await;
    let text = shown(tables.bind(&binding("likes", 1)).await);
    assert!(text.contains("another key schema"), "{text}");
    assert_eq!(tables.rows(&tables.state).await, 0);
    tables.state = markers;
    tables.markers = marker_table(&tables.dynamo).await;
    let text = shown(tables.bind(&binding("likes", 1)).await);
    assert!(text.contains("another key schema"), "{text}");
    assert_eq!(tables.rows(&tables.markers).await, 0);
}

#[tokio::test]
async fn a_table_made_anew_without_the_other_is_noticed() {
    let mut tables = Tables::new().await;
    let first = binding("likes", 1);
    tables.bind(&first).await.unwrap();
    let markers = tables.markers.clone();

    // Another marker table does not have the events that the rows have taken.
    tables.markers = marker_table(&tables.dynamo).await;
    let text = shown(tables.bind(&first).await);
    assert!(
        text.contains(&markers) && text.contains(&tables.markers),
        "{text}"
    );
    assert_eq!(tables.rows(&tables.markers).await, 0);

    // A new state table with the old name. The markers still remember events that its rows have
    // lost.
    tables.markers = markers;
    let client = tables.dynamo.client();
    let row = client
        .scan()
        .table_name(&tables.state)
        .send()
        .await
        .unwrap();
    let row = &row.items()[0];
    let delete = client.delete_item().table_name(&tables.state);
    let delete = delete.key("pk", row["pk"].clone());
    delete.key("sk", row["sk"].clone()).send().await.unwrap();
    let text = shown(tables.bind(&first).await);
    assert!(text.contains(&tables.markers), "{text}");
    assert_eq!(tables.rows(&tables.state).await, 0);
}

#[tokio::test]
async fn a_pair_left_half_made_is_completed_by_whoever_comes_next() {
    for dies_at in 0..=11 {
        let tables = Tables::new().await;
        let sent = AtomicUsize::new(0);
        let wire = Wire::new(move |request| {
            let writes = ["TransactWriteItems", "UpdateItem"].contains(&&*request.operation);
            match sent.fetch_add(1, Ordering::Relaxed) == dies_at {
                // The write is done, and then the process dies.
                true if writes => Action::DropAfter,
                true => Action::error(400, "ResourceNotFoundException", ""),
                false => Action::Pass,
            }
        });
        let broken = tables.bind_over(&wire, &binding("likes", 1)).await.is_err();
        assert_eq!(
            broken,
            dies_at < 11,
            "it takes eleven requests: {:?}",
            wire.counts()
        );
        tables.bind(&binding("likes", 1)).await.unwrap();
        shown(tables.bind(&binding("orders", 1)).await);
        assert_eq!(
            (
                tables.rows(&tables.state).await,
                tables.rows(&tables.markers).await
            ),
            (1, 1)
        );
    }
}

#[tokio::test]
async fn rows_that_no_ledger_knows_of_are_not_looked_for_after_the_deadline() {
    let tables = Tables::new().await;
    let ledger = Binding {
        mode: LEDGER_MODE.into(),
        ..binding("likes", 1)
    };
    let (clock, options) = virtual_time();
    let second = Duration::from_secs(1);
    let deadline = Deadline::within(&clock, second);
    // The read of the state row uses up the time.
    let wire = wire_on("BatchGetItem", move |_| {
        clock.advance(second);
        Action::Pass
    });
    let client = wire.client(&tables.dynamo);
    let store = Int64SumStore::with_options(client, &*tables.state, options);
    let store = store.unwrap().markers(&*tables.markers);
    let bound = ExactlyOnce::<Total>::bind(&store, &ledger, deadline).await;
    let error = bound.unwrap_err();
    assert!(
        matches!(error, StoreError::DeadlinePassed { .. }),
        "{error:?}"
    );
    assert_eq!((wire.count("BatchGetItem"), wire.count("Scan")), (1, 0));
}

#[tokio::test]
async fn a_pair_made_between_two_looks_is_no_broken_pair() {
    let tables = std::sync::Arc::new(Tables::new().await);
    let other = std::sync::Arc::clone(&tables);
    // After the read of the marker row, and before that of the state row.
    let wire = wire_on("BatchGetItem", move |request| {
        if request.nth == 0 {
            let other = std::sync::Arc::clone(&other);
            let made = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.unwrap().block_on(other.bind(&binding("likes", 1)))
            });
            made.join().unwrap().unwrap();
        }
        Action::Pass
    });
    tables.bind_over(&wire, &binding("likes", 1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pipelines_that_want_a_table_at_once_one_gets_it() {
    let tables = Tables::new().await;
    let (likes, orders) = (binding("likes", 1), binding("orders", 1));
    let wanted: Vec<&Binding> = (0..16)
        .map(|n| if n % 2 == 0 { &likes } else { &orders })
        .collect();
    let bound = futures::future::join_all(wanted.iter().map(|binding| tables.bind(binding))).await;
    let winners: std::collections::HashSet<&str> = wanted
        .iter()
        .zip(&bound)
        .filter(|(_, bound)| bound.is_ok())
        .map(|(binding, _)| binding.pipeline.as_str())
        .collect();
    assert_eq!(winners.len(), 1, "{bound:?}");
    // Each loser gets the error of another owner, or a conflict.
    for error in bound.iter().filter_map(|bound| bound.as_ref().err()) {
        assert!(
            matches!(error.fault(), Fault::Setup | Fault::Contention),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn pipelines_can_share_a_marker_table() {
    let tables = Tables::new().await;
    let other = Tables {
        state: state_table(&tables.dynamo).await,
        markers: tables.markers.clone(),
        dynamo: tables.dynamo.clone(),
    };
    tables.bind(&binding("likes", 1)).await.unwrap();
    // Another pipeline, or the next version of the same.
    other.bind(&binding("likes", 2)).await.unwrap();
    let client = tables.dynamo.client();
    let markers = Deduper::new(client.clone(), &*tables.markers);
    for table in [&tables.state, &other.state] {
        let store = Int64SumStore::new(client.clone(), &**table).markers(&markers);
        let events = [Once {
            id: EventId::new("1").unwrap(),
            created: None,
            handed_over: crate::support::now(),
            adds: vec![add("a", 1)],
        }];
        let bound = bound("likes");
        let outcomes = ExactlyOnce::<Total>::apply(&store, &bound, &events, Deadline::NONE);
        assert!(matches!(outcomes.await[..], [Outcome::Applied]));
    }
}

#[tokio::test]
async fn a_definition_that_changes_without_a_version_is_refused() {
    let tables = Tables::new().await;
    tables.bind(&binding("likes", 1)).await.unwrap();
    let changed = Binding {
        definition: "hours".into(),
        ..binding("likes", 1)
    };
    let text = shown(tables.bind(&changed).await);
    assert!(text.contains("days") && text.contains("hours"), "{text}");
    tables.bind(&binding("likes", 1)).await.unwrap();
}

/// Sets `attribute` of both control rows to this value, or removes it.
async fn set(tables: &Tables, attribute: &str, value: Option<&str>) {
    let client = tables.dynamo.client();
    for (table, keys) in [
        (&tables.state, &["pk", "sk"][..]),
        (&tables.markers, &["pk"]),
    ] {
        let rows = client.scan().table_name(table).send().await.unwrap();
        for row in rows.items() {
            let mut update = client.update_item().table_name(table);
            for key in keys {
                update = update.key(*key, row[*key].clone());
            }
            update = match value {
                Some(value) => update
                    .update_expression("SET #a = :value")
                    .expression_attribute_values(":value", AttributeValue::S(value.to_owned())),
                None => update.update_expression("REMOVE #a"),
            };
            let update = update.expression_attribute_names("#a", attribute);
            update.send().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_pair_of_an_earlier_release_learns_definition_and_region_from_the_first_that_comes() {
    let tables = Tables::new().await;
    tables.bind(&binding("likes", 1)).await.unwrap();
    set(&tables, "definition", None).await;
    set(&tables, "region", None).await;
    tables.bind(&binding("likes", 1)).await.unwrap();
    let changed = Binding {
        definition: "hours".into(),
        ..binding("likes", 1)
    };
    shown(tables.bind(&changed).await);
    let client = tables.dynamo.client();
    let own = client.config().region().unwrap().as_ref();
    let rows = client.scan().table_name(&tables.markers).send().await;
    let rows = rows.unwrap();
    let learned = rows.items().iter().filter_map(|row| row.get("region"));
    let learned: Vec<_> = learned.collect();
    assert_eq!(learned, [&AttributeValue::S(own.to_owned())]);
}

#[tokio::test]
async fn a_check_writes_nothing_whatever_it_finds() {
    let tables = Tables::new().await;
    let (likes, orders) = (binding("likes", 1), binding("orders", 1));
    let wire = Wire::calm();
    let text = shown(tables.check_over(&wire, &likes).await);
    assert!(text.contains("belongs to no pipeline yet"), "{text}");

    // Half made: only the marker row is there.
    let broken = wire_on("TransactWriteItems", |request| match request.nth {
        1 => Action::error(400, "ResourceNotFoundException", ""),
        _ => Action::Pass,
    });
    tables.bind_over(&broken, &likes).await.unwrap_err();
    let text = shown(tables.check_over(&wire, &likes).await);
    assert!(text.contains("belongs to no pipeline yet"), "{text}");

    tables.bind(&likes).await.unwrap();
    for attribute in ["definition", "region"] {
        set(&tables, attribute, None).await;
    }
    tables.check_over(&wire, &likes).await.unwrap();
    shown(tables.check_over(&wire, &orders).await);
    let mut sent: Vec<_> = wire.counts().into_keys().collect();
    sent.sort_unstable();
    assert_eq!(sent, ["BatchGetItem", "GetItem"]);
}

// What a replica in another region contains. A local server keeps the tables of every region apart.
#[tokio::test]
async fn a_second_region_is_refused_by_name() {
    let tables = Tables::new().await;
    tables.bind(&binding("likes", 1)).await.unwrap();
    set(&tables, "region", Some("us-east-2")).await;
    let text = shown(tables.bind(&binding("likes", 1)).await);
    let client = tables.dynamo.client();
    let own = client.config().region().unwrap().as_ref();
    for word in [own, "us-east-2", "failover", &tables.state] {
        assert!(text.contains(word), "{text}");
    }
}

#[tokio::test]
async fn tables_without_transactions_are_refused_before_anything_is_written() {
    let tables = Tables::new().await;
    for refused_at in 0..2 {
        let wire = wire_on("TransactWriteItems", move |request| {
            match request.nth == refused_at {
                true => Action::error(
                    400,
                    "ValidationException",
                    "Transactional operations are not supported on this table",
                ),
                false => Action::Pass,
            }
        });
        let text = shown(tables.bind_over(&wire, &binding("likes", 1)).await);
        let table = [&tables.markers, &tables.state][refused_at];
        for word in ["MRSC", "not supported on this table", table] {
            assert!(text.contains(word), "{text}");
        }
        assert_eq!(tables.rows(&tables.state).await, 0);
    }
}
