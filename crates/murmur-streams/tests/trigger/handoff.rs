//! Starting at a handoff token.

use std::sync::Arc;
use std::time::Duration;

use murmur_state::{HandoffToken, Repeats};
use murmur_streams::{Gap, OnGap, StoreSource, Summary, Trigger, TriggerBuilder, TriggerError};

use crate::support::{ARN, Scripted, World, on, put};

const HOUR: Duration = Duration::from_secs(3600);

impl World {
    /// As a bootstrap captures it.
    fn token(&self) -> HandoffToken {
        let listed = self.store.describe_stream(ARN).unwrap();
        let closed = listed.shards.iter().filter(|shard| listed.is_closed(shard));
        let closed = closed.map(|shard| shard.id.clone()).collect();
        HandoffToken::new(ARN, self.time.now(), closed)
    }

    fn from(&self, token: HandoffToken) -> TriggerBuilder<StoreSource, Scripted> {
        on(self.store.source(ARN), self.handler.clone())
            .positions(Arc::clone(&self.place), "live")
            .owner("one")
            .clock(self.time.clock(0))
            .poll_interval(Duration::from_secs(60))
            .handoff(token)
            .table_at_rest()
    }

    /// The result of one drain by a reader that starts there.
    async fn drained(&self, token: HandoffToken) -> Result<Summary, TriggerError> {
        self.from(token).build().unwrap().drain().await
    }
}

#[tokio::test(start_paused = true)]
async fn closed_shards_are_left_out_and_every_other_is_read_from_its_beginning() {
    let world = World::new();
    put(&world.store, &["before, in a closed shard"]);
    world.store.roll_over(ARN).unwrap();
    put(&world.store, &["before, in the open one"]);
    let token = world.token();
    let listed = world.store.describe_stream(ARN).unwrap().shards;
    let closed = listed.iter().map(|shard| token.closed.contains(&shard.id));
    assert_eq!(closed.collect::<Vec<_>>(), [true, false]);
    put(&world.store, &["after"]);
    world.store.roll_over(ARN).unwrap();
    put(&world.store, &["later"]);
    let decoded = HandoffToken::decode(&token.encode()).unwrap();
    world.drained(decoded).await.unwrap();
    assert_eq!(
        world.handler.batches(),
        [vec!["before, in the open one", "after"], vec!["later"]]
    );
    // After the start, the same token continues from the position.
    put(&world.store, &["more"]);
    world.drained(token).await.unwrap();
    assert_eq!(world.handler.batches()[2..], [["more"]]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_counts_repeats_refuses_a_token_unless_the_table_was_at_rest() {
    let world = World::new();
    let token = world.token();
    let builder = on(world.store.source(ARN), world.handler.clone()).handoff(token.clone());
    let error = builder.build().unwrap_err();
    assert_eq!(error.option, "handoff");
    for part in ["ledger", "table_at_rest"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(world.from(token.clone()).build().is_ok());
    // A ledger needs no rest; recognising events is not enough.
    for (repeats, fits) in [(Repeats::EventOnce, false), (Repeats::ItemOnce, true)] {
        let handler = crate::limits::Recognises(world.handler.clone(), repeats);
        let builder = Trigger::builder(world.store.source(ARN), handler);
        assert_eq!(builder.handoff(token.clone()).build().is_ok(), fits);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_stream_is_refused_by_both_names() {
    let world = World::new();
    let other = "arn:aws:dynamodb:eu-west-1:1:table/other/stream/2026-01-01T00:00:00.000";
    let token = HandoffToken::new(other, world.time.now(), Vec::new());
    let error = world.drained(token).await.unwrap_err();
    assert!(
        matches!(error, TriggerError::OtherStream { .. }),
        "{error:?}"
    );
    for part in [ARN, other, "handoff token"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_token_of_another_bootstrap_is_refused_once_reading_has_begun() {
    let world = World::new();
    let token = world.token();
    world.drained(token).await.unwrap();
    world.time.sleep(HOUR).await;
    let later = world.drained(world.token()).await.unwrap_err();
    assert!(
        matches!(later, TriggerError::OtherHandoff { known: Some(_), .. }),
        "{later:?}"
    );
    assert!(
        later.to_string().contains("use another trigger name"),
        "{later}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_is_void_once_an_open_shard_was_not_begun_within_a_day() {
    for (late, void) in [(22 * HOUR, false), (25 * HOUR, true)] {
        let world = World::new();
        let token = world.token();
        put(&world.store, &["a"]);
        world.time.sleep(late).await;
        let drained = world.drained(token.clone()).await;
        if !void {
            assert_eq!(drained.unwrap().records, 1);
            continue;
        }
        let error = drained.unwrap_err();
        let TriggerError::Gap {
            gap: Gap::HandoffVoid { captured_at },
            ..
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!(*captured_at, token.captured_at);
        assert!(error.to_string().contains("void"), "{error}");
        let anyway = world
            .from(token)
            .on_gap(OnGap::Continue)
            .build()
            .unwrap()
            .drain()
            .await;
        assert_eq!(anyway.unwrap().gaps, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_good_for_22_h_30_min() {
    let sure = Duration::from_secs((22 * 60 + 30) * 60);
    let minute = Duration::from_secs(60);
    for (age, is_void) in [(sure - minute, false), (sure + minute, true)] {
        let world = World::new();
        let token = world.token();
        put(&world.store, &["a"]);
        world.time.sleep(age).await;
        match (world.drained(token).await, is_void) {
            (Ok(summary), false) => assert_eq!(summary.records, 1),
            (Err(TriggerError::Gap { gap, .. }), true) => {
                assert!(matches!(gap, Gap::HandoffVoid { .. }), "{gap:?}");
            }
            (other, _) => panic!("{age:?}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_begun_in_time_stays_good() {
    let world = World::new();
    let token = world.token();
    put(&world.store, &["a"]);
    world.drained(token.clone()).await.unwrap();
    let mut reader = world.from(token.clone()).build().unwrap();
    reader.run(world.time.sleep(30 * HOUR)).await.unwrap();
    put(&world.store, &["b"]);
    assert_eq!(world.drained(token).await.unwrap().records, 1);
}
