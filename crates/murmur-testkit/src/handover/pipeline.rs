//! The pipeline under test, as a user would write it, on the store of a run.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use murmur_core::{BuildError, Count, Definition, Pipeline, Sum, Window};
use murmur_state::conformance::bound;
use murmur_state::intercept::Intercepted;
use murmur_state::store::{LedgerEntry, ListSegment, Mend, Outcome, StateRow};
use murmur_state::tokens::Tokens;
use murmur_state::{
    Checkpoints, Deadline, Group, Ledger, MemoryDeduper, MemoryStore, Read, StoreError, Timestamp,
};

use murmur_state_ddb::{
    Int64SumStore, Marked, TableOptions, create_dedup_table, create_int64_table,
};

use super::body::Body;
use super::history::{RETENTION_DAYS, Row};
use super::scenario::{Aggregate, Keeping, Mode, Scenario};
use super::store::Reached;
use super::watched::Watched;
use crate::cloud::Cloud;
use crate::runs::must;
use crate::time::Time;

/// The name of every pipeline in these runs.
pub(super) const NAME: &str = "handover";

/// The table name of the state, if it is on tables.
pub(super) const STATE: &str = "totals";
pub(super) const MARKERS: &str = "markers";

/// How long markers in memory are kept: longer than any run.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);

/// The windows of a scenario.
pub(super) fn window(scenario: &Scenario) -> Option<Window> {
    let length = scenario.window?;
    Some(Window::of(length).retention_days(RETENTION_DAYS))
}

/// The state of a run, in memory or on tables.
#[derive(Clone, Debug)]
pub(super) enum State {
    Sums(MemoryStore<Sum>, MemoryDeduper),
    Counts(MemoryStore<Count>, MemoryDeduper),
    Tables(Cloud, Aggregate),
}

/// The whole contents of a state.
#[derive(Debug, PartialEq)]
pub(super) struct Held {
    pub(super) rows: Vec<StateRow<i64>>,
    /// Empty without a ledger.
    pub(super) known: Vec<LedgerEntry<i64>>,
}

impl State {
    /// Creates an empty state and its tables.
    pub(super) async fn new(scenario: &Scenario, time: &Time, cloud: &Cloud) -> Self {
        match (scenario.keeping, scenario.aggregate) {
            (Keeping::Memory, aggregate) => {
                let markers = MemoryDeduper::with_ttl(REMEMBERED, time.clock(0));
                match aggregate {
                    Aggregate::Sum => Self::Sums(
                        MemoryStore::new(Sum::new()).markers(markers.clone()),
                        markers,
                    ),
                    Aggregate::Count => Self::Counts(
                        MemoryStore::new(Count::new()).markers(markers.clone()),
                        markers,
                    ),
                }
            }
            (Keeping::Tables, aggregate) => {
                let admin = cloud.admin();
                must("a table", create_int64_table(&admin, STATE).await);
                must("a table", create_dedup_table(&admin, MARKERS).await);
                Self::Tables(cloud.clone(), aggregate)
            }
        }
    }

    /// Where one process stores the checkpoints of a bootstrap and of a trigger.
    pub(super) fn places(&self, body: &Arc<Body>) -> Arc<dyn Checkpoints> {
        match self {
            Self::Sums(_, markers) | Self::Counts(_, markers) => Arc::new(reached(markers, body)),
            Self::Tables(..) => {
                let store = tables(body.connection.client(), Some(body));
                Arc::new(watched::<_, Sum>(store.deduper().clone(), body))
            }
        }
    }

    /// The pipeline of one process.
    pub(super) fn pipeline(&self, body: &Arc<Body>) -> Pipeline<Row> {
        let scenario = &body.shared.scenario;
        let keyed = Pipeline::builder(NAME)
            .keys(|row: &Row, out| row.entities.iter().for_each(|entity| out(entity)));
        let sums = |row: &Row| row.amount;
        let built = match self {
            Self::Sums(store, markers) => {
                let definition = keyed.value(sums).aggregate(Sum::new());
                let (store, claims) = (Intercepted(reached(store, body)), reached(markers, body));
                in_mode(scenario, definition, store, claims)
            }
            Self::Counts(store, markers) => {
                let (store, claims) = (Intercepted(reached(store, body)), reached(markers, body));
                in_mode(scenario, keyed.count(), store, claims)
            }
            Self::Tables(_, aggregate) => {
                let store = tables(body.connection.client(), Some(body));
                let claims = store.deduper().clone();
                match aggregate {
                    Aggregate::Sum => {
                        let definition = keyed.value(sums).aggregate(Sum::new());
                        let store = Intercepted(watched::<_, Sum>(store, body));
                        in_mode(scenario, definition, store, claims)
                    }
                    Aggregate::Count => {
                        let store = Intercepted(watched::<_, Count>(store, body));
                        in_mode(scenario, keyed.count(), store, claims)
                    }
                }
            }
        };
        must("the pipeline", built)
    }

    /// Lets the ledger correct `items`, as one process would.
    pub(super) async fn mend(&self, body: &Arc<Body>, items: &[Mend<i64>]) -> Vec<Outcome> {
        let bound = bound(NAME);
        match self {
            Self::Sums(store, _) => {
                let store = Intercepted(reached(store, body));
                store.mend(&bound, items, Deadline::NONE).await
            }
            Self::Counts(store, _) => {
                let store = Intercepted(reached(store, body));
                store.mend(&bound, items, Deadline::NONE).await
            }
            Self::Tables(..) => {
                let store = tables(body.connection.client(), Some(body));
                Ledger::<Sum>::mend(&store, &bound, items, Deadline::NONE).await
            }
        }
    }

    pub(super) async fn held(&self) -> Held {
        let held = match self {
            Self::Sums(store, _) => held(store).await,
            Self::Counts(store, _) => held(store).await,
            Self::Tables(cloud, _) => held::<Sum, _>(&tables(cloud.admin(), None)).await,
        };
        must("the state", held)
    }
}

fn tables(client: Client, body: Option<&Arc<Body>>) -> Marked<Int64SumStore> {
    let mut options = TableOptions::default();
    if let Some(body) = body {
        let clock = Arc::clone(&body.clock);
        options = options
            .clock(clock)
            .random(body.random.clone())
            .tokens(Tokens::repeatable(body.random.clone()));
    }
    let store = Int64SumStore::with_options(client, STATE, options);
    must("a store", store).markers(MARKERS)
}

fn reached<S: Clone>(inner: &S, body: &Arc<Body>) -> Reached<S> {
    Reached {
        inner: inner.clone(),
        body: Arc::clone(body),
    }
}

fn watched<S, M>(inner: S, body: &Arc<Body>) -> Watched<S, M> {
    let (body, of) = (Arc::clone(body), PhantomData);
    Watched { inner, body, of }
}

fn in_mode<M, S, D>(
    scenario: &Scenario,
    mut definition: Definition<Row, M>,
    store: S,
    claims: D,
) -> Result<Pipeline<Row>, BuildError>
where
    M: Group<Value = i64>,
    S: Ledger<M>,
    D: Checkpoints + murmur_state::Deduper,
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
    if scenario.settling.is_some() {
        definition = definition.settle();
    }
    let stored = definition.store(store);
    match scenario.mode {
        Mode::Ledger => stored.ledger(),
        Mode::ExactlyOnce => stored.exactly_once(),
        Mode::ClaimFirst => stored.claim_first(claims),
    }
}

async fn held<M, S>(store: &S) -> Result<Held, StoreError>
where
    M: Group<Value = i64>,
    S: Ledger<M>,
{
    let bound = bound(NAME);
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
        let listed = store
            .list_known(&bound, ListSegment::WHOLE, after.as_deref())
            .await?;
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
