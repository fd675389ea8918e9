//! The stream consumer: the function behind a mapping, or the processes of a trigger.

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::Event;
use aws_lambda_events::streams::DynamoDbEventResponse;
use futures::future::LocalBoxFuture;
use murmur_core::Processor;
use murmur_lambda_ddbstreams::Handler;
use murmur_state::tokens::Tokens;
use murmur_state::{Deadline, HandoffToken};
use murmur_streams::{StoreSource, Trigger};

use super::body::Body;
use super::history::{Row, decoder};
use super::pipeline::State;
use crate::esm::{BoxError, Environment, Incoming, Simulation};
use crate::runs::{lock, must};

/// The name under which the trigger's positions are stored.
const POSITIONS: &str = "live";

/// The handler of one process.
pub(super) fn handler(state: &State, body: &Arc<Body>) -> Handler<Row> {
    let shared = Arc::clone(&body.shared);
    let built = Processor::with_decoder([state.pipeline(body)], decoder())
        .clock(Arc::clone(&body.clock))
        .random(body.random.clone())
        .tokens(Tokens::repeatable(body.random.clone()))
        .on_rejected(move |rejected| {
            shared.rejected(&rejected);
            async { Ok(()) }
        })
        .build();
    Handler::new(must("the processor", built))
}

/// A process of the function.
pub(super) struct Function {
    pub(super) handler: Handler<Row>,
    pub(super) body: Arc<Body>,
}

impl Environment for Function {
    fn invoke(
        &self,
        event: Event,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<DynamoDbEventResponse, BoxError>> {
        let handler = self.handler.clone();
        let deadline = Deadline::within(&*self.body.clock, timeout);
        Box::pin(async move { Ok(handler.handle(event, deadline).await?) })
    }

    fn kill_after(&self, requests: usize) {
        self.body.kill_after(requests as u64);
    }

    fn killed(&self) -> LocalBoxFuture<'static, ()> {
        let connection = self.body.connection.clone();
        Box::pin(async move { connection.killed().await })
    }
}

/// Delivers all records through the mapping to processes that `start` starts.
pub(super) async fn deliver(
    body: &Body,
    shards: Vec<Vec<Incoming>>,
    start: impl FnMut() -> Function,
) {
    let shared = &body.shared;
    let simulation = Simulation {
        mapping: shared.scenario.mapping.clone(),
        trouble: shared.scenario.trouble,
        seed: shared.scenario.seed,
        time: shared.time.clone(),
    };
    let delivery = simulation.deliver(shards, start).await;
    if !delivery.trimmed.is_empty() {
        let (lost, error) = (delivery.trimmed.len(), delivery.last_error);
        shared.wrong(format!("{lost} records never got through: {error:?}"));
    }
    let met = &mut lock(&shared.log).met;
    for (kind, count) in [
        ("redelivered records", delivery.met.redelivered),
        ("batches again", delivery.met.again),
        ("regroupings", delivery.met.regrouped),
        ("races", delivery.met.raced),
        ("bisections", delivery.met.bisected),
        ("functions killed", delivery.met.killed),
        ("function timeouts", delivery.met.timed_out),
    ] {
        met.add(kind, count);
    }
}

/// The trigger of one process.
pub(super) fn trigger(
    state: &State,
    body: &Arc<Body>,
    source: StoreSource,
    token: Option<&HandoffToken>,
) -> Trigger<StoreSource, Handler<Row>> {
    let scenario = &body.shared.scenario;
    let shared = Arc::clone(&body.shared);
    let mut builder = Trigger::builder(source, handler(state, body))
        .batch_size(scenario.mapping.batch_size)
        .parallelization_factor(scenario.mapping.parallelization_factor)
        .bisect_batch_on_error(scenario.mapping.bisect_batch_on_function_error)
        .positions(state.places(body), POSITIONS)
        .lease(3 * scenario.poll)
        // A random name would differ between runs of one seed, and names decide which process reads
        // which shard.
        .owner(format!("{:x}", body.random.bits()))
        .poll_interval(scenario.poll)
        .random(body.random.clone())
        .clock(Arc::clone(&body.clock))
        .on_failure(move |batch| {
            shared.wrong(format!("records were given up: {:?}", batch.condition));
            async { Ok(()) }
        });
    if let Some(token) = token {
        builder = builder.handoff(token.clone());
        // Modes that know events but not items accept no token of a table that is being written to.
        if scenario.mode != super::Mode::Ledger {
            builder = builder.table_at_rest();
        }
    }
    must("the trigger", builder.build())
}
