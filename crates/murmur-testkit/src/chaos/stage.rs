//! Interleavings written by hand, judged like the random runs.

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

/// The key that scripts are about, and another.
const ENTITY: &str = "key";
const OTHER: &str = "other key";

/// A budget that no script's row exhausts, and one that every row does.
const LARGE: usize = 100_000;
const SMALL: usize = 21;

/// The first millisecond of a page of up to four hours.
const START: Timestamp = Timestamp::from_secs(125_000 << 14);

/// One row, one pipeline in exactly-once, and as many processes as a script asks for, in calm
/// weather and virtual time.
///
/// Meant for a runtime whose clock is paused.
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
    /// Its machine is suspended for `length` during its next invocation, `from` after that begins.
    pub fn suspend(&self, from: Duration, length: Duration) {
        self.lambda.suspend(from, length);
    }

    /// Its connection, to change or kill it.
    pub fn process(&self) -> &Process {
        &self.lambda.process
    }
}

impl Stage {
    /// A stage for `aggregate` without `rule`.
    pub async fn new(aggregate: Aggregate, without: Option<Rule>) -> Self {
        Self::with(without, |scenario| scenario.aggregate = aggregate).await
    }

    /// A stage with anything else changed.
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

    /// A process that only adds to the row.
    pub fn actor(&self) -> Actor {
        let lambda = self.world.start_with(0, self.world.scenario.row_budget);
        Actor { lambda }
    }

    /// A process that moves the row's ids on with every write, but for the one that begins the row.
    pub fn mover(&self) -> Actor {
        let lambda = self.world.start_with(0, SMALL);
        Actor { lambda }
    }

    /// Has `actor` do what a process does once: it finds that the tables are its pipeline's.
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

    /// Has `actor` handle an event of `records`; whether it reported all as done.
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

    /// Requests sent from now on take `latency` to arrive, and as long back.
    pub fn slow(&self, latency: Duration) {
        self.world.cloud.set_weather(Weather {
            latency: latency..=latency,
            ..Weather::calm()
        });
    }

    /// Requests sent from now on meet this.
    pub fn weather(&self, weather: Weather) {
        self.world.cloud.set_weather(weather);
    }

    /// Requests sent from now on arrive at once.
    pub fn calm(&self) {
        self.world.cloud.set_weather(Weather::calm());
    }

    /// Time to Live removes what has expired by now.
    pub async fn sweep(&self) {
        self.world.sweep().await;
    }

    /// The row as it is.
    pub async fn row(&self) -> Option<HashMap<String, DynamoValue>> {
        let entity = DynamoValue::S(ENTITY.into());
        let rows = self.world.rows().await;
        rows.into_iter().find(|row| row.get("pk") == Some(&entity))
    }

    /// What is wrong in the end.
    pub async fn judge(self) -> Vec<Wrong> {
        let events = self.events.into_inner();
        self.world.judge(&events, &HashSet::new(), false).await
    }
}
