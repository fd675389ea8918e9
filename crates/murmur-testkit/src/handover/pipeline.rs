//! The pipeline under test, as a user would write it, over the store of a run.

use std::sync::Arc;

use murmur_core::{BuildError, Count, Definition, Pipeline, Sum, Window};
use murmur_state::{
    Group, Known, Ledger, MemoryDeduper, MemoryStore, PipelineName, Read, StateRow, StoreError,
    Timestamp,
};

use super::body::Body;
use super::history::{RETENTION_DAYS, Row};
use super::scenario::{Aggregate, Mode, Scenario};
use super::store::Reached;
use crate::runs::must;

/// The name of every pipeline here.
pub(super) const NAME: &str = "handover";

/// The windows of a scenario.
pub(super) fn window(scenario: &Scenario) -> Option<Window> {
    let length = scenario.window?;
    Some(Window::of(length).retention_days(RETENTION_DAYS))
}

/// The state of a run, wherever it is kept.
#[derive(Clone, Debug)]
pub(super) enum State {
    Sums(MemoryStore<Sum>, MemoryDeduper),
    Counts(MemoryStore<Count>, MemoryDeduper),
}

/// All that a state holds.
#[derive(Debug, PartialEq)]
pub(super) struct Held {
    pub(super) rows: Vec<StateRow<i64>>,
    /// Nothing, unless a ledger is kept.
    pub(super) known: Vec<Known<i64>>,
}

impl State {
    pub(super) fn new(scenario: &Scenario, markers: MemoryDeduper) -> Self {
        match scenario.aggregate {
            Aggregate::Sum => Self::Sums(MemoryStore::new(Sum::new()), markers),
            Aggregate::Count => Self::Counts(MemoryStore::new(Count::new()), markers),
        }
    }

    /// Where one process keeps what a pipeline, and a trigger, remember.
    pub(super) fn markers(&self, body: &Arc<Body>) -> Reached<MemoryDeduper> {
        let (Self::Sums(_, markers) | Self::Counts(_, markers)) = self;
        reached(markers, body)
    }

    /// The pipeline in one process.
    pub(super) fn pipeline(&self, body: &Arc<Body>) -> Pipeline<Row> {
        let scenario = &body.shared.scenario;
        let markers = self.markers(body);
        let keyed = Pipeline::builder(NAME)
            .keys(|row: &Row, out| row.entities.iter().for_each(|entity| out(entity)));
        let built = match self {
            Self::Sums(store, _) => {
                let definition = keyed.value(|row| row.amount).aggregate(Sum::new());
                in_mode(scenario, definition, reached(store, body), markers)
            }
            Self::Counts(store, _) => {
                in_mode(scenario, keyed.count(), reached(store, body), markers)
            }
        };
        must("the pipeline", built)
    }

    pub(super) async fn held(&self) -> Held {
        let held = match self {
            Self::Sums(store, markers) => held(store, markers).await,
            Self::Counts(store, markers) => held(store, markers).await,
        };
        must("the state", held)
    }
}

fn reached<S: Clone>(inner: &S, body: &Arc<Body>) -> Reached<S> {
    Reached {
        inner: inner.clone(),
        body: Arc::clone(body),
    }
}

fn in_mode<M, S>(
    scenario: &Scenario,
    mut definition: Definition<Row, M>,
    store: Reached<S>,
    markers: Reached<MemoryDeduper>,
) -> Result<Pipeline<Row>, BuildError>
where
    M: Group<Value = i64>,
    S: Ledger<M, Markers = MemoryDeduper> + Clone,
{
    if let Some(window) = window(scenario) {
        definition = definition.window(window, |row: &Row| Timestamp::from_millis(row.at));
    }
    if scenario.mode != Mode::Ledger {
        definition = definition.retract();
    }
    if scenario.keeps_expired {
        definition = definition.keep_expired_items();
    }
    let stored = definition.store(store);
    match scenario.mode {
        Mode::Ledger => stored.ledger(markers),
        Mode::ExactlyOnce => stored.exactly_once(markers),
        Mode::ClaimFirst => stored.claim_first(markers),
    }
}

async fn held<M, S>(store: &S, markers: &S::Markers) -> Result<Held, StoreError>
where
    M: Group<Value = i64>,
    S: Ledger<M>,
{
    let name = must("a name", PipelineName::new(NAME));
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let listed = Read::list(store, after.as_deref()).await?;
        rows.extend(listed.entries);
        after = listed.next;
        if after.is_none() {
            break;
        }
    }
    let mut known = Vec::new();
    loop {
        let listed = store.list_known(&name, markers, after.as_deref()).await?;
        known.extend(listed.entries);
        after = listed.next;
        if after.is_none() {
            break;
        }
    }
    rows.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    known.sort_unstable_by(|one, other| one.item.cmp(&other.item));
    Ok(Held { rows, known })
}
