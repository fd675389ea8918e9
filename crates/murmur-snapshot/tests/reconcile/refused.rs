//! What is refused before anything is read.

use std::num::NonZeroU32;
use std::sync::Arc;

use murmur_core::audit::AuditOptions;
use murmur_core::{Pipeline, Processor, Sum, Window};
use murmur_snapshot::lookup::{Look, LookedUp};
use murmur_snapshot::source::{Cursor, Description, Page};
use murmur_snapshot::{Lookup, Reconcile, ReconcileError, Source, SourceError};
use murmur_state::{Causes, Deadline, HandoffToken, ItemId, MemoryDeduper, MemoryStore};

use crate::world::{BuildAndRun, Order, World, definition, put};

async fn refused(world: &Arc<World>, pipeline: Pipeline<Order>, repair: bool) -> ReconcileError {
    let reconcile = world.reconcile_of(pipeline);
    let reconcile = if repair {
        reconcile.repair()
    } else {
        reconcile
    };
    let error = match reconcile.build() {
        Ok(reconcile) => reconcile.run().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(world.tables().pages, 0, "{error}");
    assert!(!error.is_retryable(), "{error}");
    error
}

fn store() -> MemoryStore<Sum> {
    MemoryStore::new(Sum::new())
}

#[tokio::test]
async fn repair_needs_a_ledger_in_every_pipeline() {
    let world = World::new(1);
    let without = || definition().every_change().store(store());
    for pipeline in [
        without().at_least_once(),
        without().claim_first(MemoryDeduper::new()),
        without().exactly_once(),
    ] {
        let error = refused(&world, pipeline.unwrap(), true).await;
        assert!(
            matches!(&error, ReconcileError::RepairWithoutLedger { .. }),
            "{error}"
        );
        let said = error.to_string();
        assert!(
            said.contains("`totals`") && said.contains(".ledger("),
            "{said}"
        );
    }
}

#[tokio::test]
async fn what_no_recount_can_know_is_refused() {
    let world = World::new(1);
    let arrival = definition()
        .window_by_arrival(Window::daily())
        .every_change()
        .store(store());
    let error = refused(&world, arrival.at_least_once().unwrap(), false).await;
    assert!(
        matches!(&error, ReconcileError::WindowsByArrival { .. }),
        "{error}"
    );
    let keeping = definition().retract().keep_expired_items().store(store());
    let error = refused(&world, keeping.at_least_once().unwrap(), false).await;
    assert!(
        matches!(&error, ReconcileError::KeepsExpired { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn state_of_somebody_else_is_refused() {
    let world = World::new(1);
    world.write("o1", Some(put("alice", 1)));
    world.deliver_all();
    let other = world.by_ledger(definition().version(2));
    let error = refused(&world, other.clone(), false).await;
    assert!(matches!(&error, ReconcileError::Refused(_)), "{error}");
    assert!(
        Causes(&error).to_string().contains("version 2"),
        "{}",
        Causes(&error)
    );
    let audit = Processor::new([other]).unwrap();
    let error = audit
        .audit(&AuditOptions::default().max_listed(1))
        .await
        .unwrap_err();
    assert!(
        Causes(&error).to_string().contains("version 2"),
        "{}",
        Causes(&error)
    );
}

#[tokio::test]
async fn an_audit_needs_a_ledger() {
    let pipeline = definition().every_change().store(store()).exactly_once();
    let processor = Processor::new([pipeline.unwrap()]).unwrap();
    let error = processor
        .audit(&AuditOptions::default().max_listed(1))
        .await
        .unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("`totals`") && said.contains(".ledger("),
        "{said}"
    );
    assert!(!error.is_retryable());
}

#[test]
fn options_are_checked_and_named() {
    let world = World::new(1);
    for (option, reconcile) in [
        ("concurrency", world.reconcile().concurrency(0)),
        ("max_suspects", world.reconcile().max_suspects(0)),
    ] {
        match reconcile.build().unwrap_err() {
            ReconcileError::Option(error) => assert_eq!(error.option, option),
            other => panic!("{other}"),
        }
    }
}

/// A source that leaves items out, or gives the same page again and again.
struct Odd {
    leaves_out: bool,
    table_arn: Option<&'static str>,
}

impl Source for Odd {
    fn name(&self) -> &str {
        "odd"
    }

    fn segments(&self) -> u32 {
        1
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        let mut description = Description::new("a table");
        description.table_arn = self.table_arn.map(str::to_owned);
        Ok(description)
    }

    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        Ok(None)
    }

    async fn page(
        &self,
        _segment: u32,
        _after: Option<&Cursor>,
        _limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        assert!(!self.leaves_out, "it is not read");
        Ok(Page::new(Vec::new(), Some(Cursor::new("here"))))
    }

    async fn close(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

impl Lookup for Odd {
    fn holds_every_item(&self) -> Result<(), SourceError> {
        match self.leaves_out {
            false => Ok(()),
            true => Err(SourceError::Setup {
                place: "odd".into(),
                advice: "it leaves items out".into(),
                source: None,
            }),
        }
    }

    async fn look_up(&self, _item: &ItemId) -> Result<Look, SourceError> {
        Ok(LookedUp::Gone.into())
    }
}

#[tokio::test]
async fn a_source_that_leaves_items_out_or_never_ends_is_refused() {
    let world = World::new(1);
    world.write("o1", Some(put("alice", 100)));
    world.deliver_all();
    for (leaves_out, said) in [(true, "leaves items out"), (false, "is broken")] {
        let odd = Odd {
            leaves_out,
            table_arn: None,
        };
        let reconcile = Reconcile::builder(Processor::new([world.pipeline()]).unwrap(), odd);
        let error = reconcile.run().await.unwrap_err();
        assert!(matches!(&error, ReconcileError::Source { .. }), "{error}");
        assert!(
            Causes(&error).to_string().contains(said),
            "{}",
            Causes(&error)
        );
    }
}

#[tokio::test]
async fn state_that_nothing_was_counted_into_is_refused_and_stays_what_it_was() {
    let world = World::new(1);
    world.write("o1", Some(put("alice", 100)));
    let error = refused(&world, world.pipeline(), true).await;
    assert!(matches!(&error, ReconcileError::Refused(_)), "{error:?}");
    let audit = Processor::new([world.pipeline()]).unwrap();
    let error = audit.audit(&AuditOptions::default()).await.unwrap_err();
    let text = Causes(&error).to_string();
    assert!(text.contains("belongs to no pipeline yet"), "{text}");

    // It is still free to be another pipeline's.
    let other = Pipeline::builder("others")
        .key(|order: &Order| order.customer.clone())
        .value(|_| 1)
        .aggregate(Sum::new())
        .store(world.store.clone())
        .ledger();
    let other = Processor::new([other.unwrap()]).unwrap();
    other.bind(None, Deadline::NONE).await.unwrap();
}

#[tokio::test]
async fn another_table_than_the_one_that_was_counted_is_refused_before_it_is_read() {
    const STREAM: &str = "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/2026-01-01T00:00:00.000";
    let world = World::new(1);
    let live = Processor::new([world.pipeline()]).unwrap();
    live.bind(Some(STREAM), Deadline::NONE).await.unwrap();
    for (table, is_it) in [
        ("arn:aws:dynamodb:eu-west-1:1:table/orders", true),
        ("arn:aws:dynamodb:eu-west-1:1:table/orders_stage", false),
        ("arn:aws:dynamodb:eu-west-1:1:table/order", false),
        ("arn:aws:dynamodb:eu-west-2:1:table/orders", false),
    ] {
        let odd = Odd {
            leaves_out: false,
            table_arn: Some(table),
        };
        let reconcile =
            Reconcile::builder(Processor::new([world.pipeline()]).unwrap(), odd).repair();
        let error = reconcile.run().await.unwrap_err();
        let text = error.to_string();
        match error {
            ReconcileError::OtherTable { .. } => {
                assert!(!is_it && !error.is_retryable(), "{text}");
                assert!(text.contains(STREAM) && text.contains(table), "{text}");
            }
            error => assert!(is_it && text.contains("odd"), "{error}"),
        }
    }
}
