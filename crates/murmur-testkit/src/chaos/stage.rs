//! Interleavings written by hand, and judged like the random runs.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_sdk_dynamodb::types::AttributeValue as DynamoValue;
use murmur_core::AttributeValue;
use murmur_state::Timestamp;
use murmur_state_ddb::Rules;

use super::history::Contribution;
use super::report::Wrong;
use super::rule::Rule;
use super::scenario::{Aggregate, Mode, Scenario};
use super::world::{Lambda, World};
use crate::cloud::{Cloud, Process, Weather};
use crate::esm::Environment;
use crate::time::Time;

/// The key that the scripts use, and another one.
const ENTITY: &str = "key";
const OTHER: &str = "other key";

/// A budget that no script's row exhausts, and one that every row exhausts.
const LARGE: usize = 100_000;
const SMALL: usize = 21;

/// The first millisecond of a page, for pages of up to four hours.
const START: Timestamp = Timestamp::from_secs(125_000 << 14);

/// One row, one pipeline with exactly-once delivery, and as many processes as a script asks for, in
/// calm weather and virtual time.
///
/// It needs a runtime with a paused clock.
#[derive(Debug)]
pub struct Stage {
    world: World,
    events: RefCell<Vec<Contribution>>,
}

/// A process on a [`Stage`].
#[derive(Debug)]
pub struct Actor {
    lambda: Lambda,
}

impl Actor {
    /// Suspends the machine for `length` during its next invocation, `from` after the invocation
    /// starts.
    pub fn suspend(&self, from: Duration, length: Duration) {
        self.lambda.suspend(from, length);
    }

    /// The connection of the process, to change or kill it.
    pub fn process(&self) -> &Process {
        &self.lambda.process
    }
}

impl Stage {
    /// Creates a stage for `aggregate` with the rule `without` left out.
    pub async fn new(aggregate: Aggregate, without: Option<Rule>) -> Self {
        Self::with(without, |scenario| scenario.aggregate = aggregate).await
    }

    /// Creates a stage with a changed scenario.
    pub async fn with(without: Option<Rule>, change: impl FnOnce(&mut Scenario)) -> Self {
        let mut scenario = Scenario {
            aggregate: Aggregate::Sum,
            several_keys: false,
            window: None,
            retract: false,
            dated: true,
            suspended: 0.0,
            deadlines: false,
            mixed_budgets: false,
            row_budget: LARGE,
            rules: Rules::default(),
            ..Scenario::new(0, Mode::ExactlyOnce)
        };
        change(&mut scenario);
        if let Some(rule) = without {
            scenario = scenario.without(rule);
        }
        let time = Time::paused(START);
        let cloud = Cloud::in_process_at(&time, 0, Weather::calm());
        Self {
            world: World::new(scenario, time, cloud, "stage").await,
            events: RefCell::default(),
        }
    }

    /// The time of the stage.
    pub fn time(&self) -> &Time {
        &self.world.time
    }

    /// Starts a process that only adds to the row.
    pub fn actor(&self) -> Actor {
        let lambda = self.world.start_with(0, self.world.scenario.row_budget);
        Actor { lambda }
    }

    /// Starts a process that moves the row's ids with every write except the one that creates the
    /// row.
    pub fn mover(&self) -> Actor {
        let lambda = self.world.start_with(0, SMALL);
        Actor { lambda }
    }

    /// Lets `actor` do what a process does once: check that the tables belong to its pipeline.
    pub async fn warm_up(&self, actor: &Actor) {
        let event = self.event_of(OTHER, 1);
        assert!(self.deliver(actor, &[&event]).await, "a calm delivery");
    }

    /// A new record that adds `amount`, created now.
    pub fn event(&self, amount: i64) -> EventRecord {
        self.event_of(ENTITY, amount)
    }

    fn event_of(&self, entity: &str, amount: i64) -> EventRecord {
        let now = self.world.time.now();
        let number = self.events.borrow().len();
        let mut record = EventRecord::default();
        record.event_id = format!("{number:032x}");
        record.event_name = "INSERT".into();
        record.change.sequence_number =
            Some(format!("{}", 100_000_000_000_000_000_000 + number as u128));
        if self.world.scenario.dated {
            let created = chrono::DateTime::from_timestamp(now.as_secs(), 0);
            record.change.approximate_creation_date_time = created.unwrap_or_default();
        }
        let name = AttributeValue::S(format!("item-{number}"));
        record.change.keys = HashMap::from([("id".to_owned(), name)]).into();
        let entities = AttributeValue::L(vec![AttributeValue::S(entity.into())]);
        let digits = |number: i64| AttributeValue::N(number.to_string());
        record.change.new_image = HashMap::from([
            ("entities".to_owned(), entities),
            ("amount".to_owned(), digits(amount)),
            ("at".to_owned(), digits(now.as_millis())),
        ])
        .into();
        let bucket = match self.world.scenario.window {
            Some(length) => now.as_millis().div_euclid(length.as_millis() as i64),
            None => 0,
        };
        let value = match self.world.scenario.aggregate {
            Aggregate::Count => 1,
            _ => amount,
        };
        self.events.borrow_mut().push(Contribution {
            event: record.event_id.clone(),
            adds: BTreeMap::from([((entity.to_owned(), bucket), value)]),
        });
        record
    }

    /// Lets `actor` handle an event of `records`. Returns whether it reported all of them as done.
    pub async fn deliver(&self, actor: &Actor, records: &[&EventRecord]) -> bool {
        let mut event = Event::default();
        event.records = records.iter().copied().cloned().collect();
        let timeout = Duration::from_secs(900);
        match actor.lambda.invoke(event, timeout).await {
            Ok(response) => response.batch_item_failures.is_empty(),
            Err(error) => panic!("an invocation failed: {error}"),
        }
    }

    /// Lets `duration` pass.
    pub async fn sleep(&self, duration: Duration) {
        self.world.time.sleep(duration).await;
    }

    /// From now on requests take `latency` to arrive, and their answers as long to return.
    pub fn slow(&self, latency: Duration) {
        self.world.cloud.set_weather(Weather {
            latency: latency..=latency,
            ..Weather::calm()
        });
    }

    /// Sets the weather of requests from now on.
    pub fn weather(&self, weather: Weather) {
        self.world.cloud.set_weather(weather);
    }

    /// From now on requests arrive at once.
    pub fn calm(&self) {
        self.world.cloud.set_weather(Weather::calm());
    }

    /// Removes the rows that have expired by now, as Time to Live does.
    pub async fn sweep(&self) {
        self.world.sweep().await;
    }

    /// Reads the row.
    pub async fn row(&self) -> Option<HashMap<String, DynamoValue>> {
        let entity = DynamoValue::S(ENTITY.into());
        let rows = self.world.rows().await;
        rows.into_iter().find(|row| row.get("pk") == Some(&entity))
    }

    /// Returns the faults at the end of the script.
    pub async fn judge(self) -> Vec<Wrong> {
        let events = self.events.into_inner();
        self.world.judge(&events, &HashSet::new(), false).await
    }
}
