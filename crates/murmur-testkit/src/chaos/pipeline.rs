//! The pipelines under test, as a user would write them.

use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use murmur_core::{BuildError, Definition, Max, Pipeline, Set, Sum, Window};
use murmur_state::monoid::{Codec, CodecError, Overflow};
use murmur_state::time::Random;
use murmur_state::tokens::Tokens;
use murmur_state::{Clock, ExactlyOnce, Group, Monoid, OptionError, Timestamp};
use murmur_state_ddb::{BytesStore, Deduper, Int64MaxStore, Int64SumStore, TableOptions};
use serde::Deserialize;

use super::scenario::{Aggregate, Mode, Scenario};

/// The name of every pipeline in these runs.
pub(super) const NAME: &str = "chaos";

/// Rows of windows may be removed this many days after the end of their bucket.
pub(super) const RETENTION_DAYS: u32 = 3;

/// An item of the source table.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Row {
    entities: Vec<String>,
    amount: i64,
    at: i64,
}

/// A sum stored as bytes. `BytesStore` must not count a value of this kind twice.
#[derive(Debug, Clone, Copy)]
pub(super) struct SumAsBytes;

impl Monoid for SumAsBytes {
    type Input = i64;
    type Value = i64;

    fn identity(&self) -> i64 {
        0
    }

    fn lift(&self, input: i64) -> i64 {
        input
    }

    fn combine(&self, into: &mut i64, other: &i64) -> Result<(), Overflow> {
        *into = into.checked_add(*other).ok_or(Overflow)?;
        Ok(())
    }
}

impl Group for SumAsBytes {
    fn invert(&self, value: &i64) -> Result<i64, Overflow> {
        value.checked_neg().ok_or(Overflow)
    }
}

impl Codec for SumAsBytes {
    fn encode(&self, value: &i64) -> Vec<u8> {
        value.to_be_bytes().to_vec()
    }

    fn decode(&self, bytes: &[u8]) -> Result<i64, CodecError> {
        let bytes = bytes.try_into();
        let bytes = bytes.map_err(|_| CodecError::new("not eight bytes"))?;
        Ok(i64::from_be_bytes(bytes))
    }
}

/// The reason why a process could not set up its pipeline.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetUpError {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Option(#[from] OptionError),
}

/// What a process of the function needs: a client, a clock and a random generator.
pub(super) struct Means {
    pub(super) client: Client,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Random,
    pub(super) state: String,
    pub(super) markers: String,
}

/// The pipeline of a scenario, for one process.
pub(super) fn pipeline(scenario: &Scenario, means: &Means) -> Result<Pipeline<Row>, SetUpError> {
    let options = TableOptions::default()
        .clock(Arc::clone(&means.clock))
        .random(means.random.clone())
        .tokens(Tokens::repeatable(means.random.clone()))
        .row_budget(scenario.row_budget)
        .rules(scenario.rules.clone());
    let markers = Deduper::with_options(
        means.client.clone(),
        means.markers.as_str(),
        options.clone(),
    )?;
    let (client, state) = (means.client.clone(), means.state.as_str());

    let keyed = Pipeline::builder(NAME)
        .keys(|row: &Row, out| row.entities.iter().for_each(|entity| out(entity)));
    let amount = |row: &Row| row.amount;
    let claims = markers.clone();
    Ok(match scenario.aggregate {
        Aggregate::Sum => {
            let definition = keyed.value(amount).aggregate(Sum::new());
            let store = Int64SumStore::with_options(client, state, options)?.markers(markers);
            in_mode(scenario, taking_back(scenario, definition), store, claims)?
        }
        Aggregate::Count => {
            let definition = keyed.count();
            let store = Int64SumStore::with_options(client, state, options)?.markers(markers);
            in_mode(scenario, taking_back(scenario, definition), store, claims)?
        }
        Aggregate::Bytes => {
            let definition = keyed.value(amount).aggregate(SumAsBytes);
            let store =
                BytesStore::with_options(client, state, SumAsBytes, options)?.markers(markers);
            in_mode(scenario, taking_back(scenario, definition), store, claims)?
        }
        Aggregate::Max => {
            let definition = keyed.value(amount).aggregate(Max::new());
            let store = Int64MaxStore::with_options(client, state, options)?.markers(markers);
            in_mode(scenario, definition, store, claims)?
        }
        Aggregate::Set => {
            let definition = keyed.value(amount).aggregate(Set::new());
            let store = BytesStore::with_options(client, state, Set::<i64>::new(), options)?
                .markers(markers);
            in_mode(scenario, definition, store, claims)?
        }
    })
}

fn taking_back<M: Group>(
    scenario: &Scenario,
    definition: Definition<Row, M>,
) -> Definition<Row, M> {
    match scenario.retract {
        true => definition.retract(),
        false => definition.every_change(),
    }
}

fn in_mode<M: Monoid, S: ExactlyOnce<M>>(
    scenario: &Scenario,
    definition: Definition<Row, M>,
    store: S,
    claims: Deduper,
) -> Result<Pipeline<Row>, BuildError> {
    let definition = match scenario.window {
        Some(length) => {
            let window = Window::of(length).retention_days(RETENTION_DAYS);
            definition.window(window, |row| Timestamp::from_millis(row.at))
        }
        None => definition,
    };
    let stored = definition.store(store);
    match scenario.mode {
        Mode::ExactlyOnce => stored.exactly_once(),
        Mode::ClaimFirst => stored.claim_first(claims),
        Mode::AtLeastOnce => stored.at_least_once(),
    }
}
