//! The DynamoDB in this process beside another one: the same seeded requests, the same answers, the
//! same items left. The other is DynamoDB Local where there is one, and else the embedded server,
//! which shows only that the way without HTTP changes nothing.
#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]
#![allow(clippy::print_stdout, reason = "a comparison says with what")]

mod cloud_support;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeValue, ConditionCheck, Delete, KeysAndAttributes, Put, ReturnValue,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use cloud_support::*;
use dynoxide::types::normalize_dynamo_number;
use fastrand::Rng;
use murmur_testkit::Dynamo;
use murmur_testkit::cloud::{Cloud, Weather};

type Item = HashMap<String, AttributeValue>;
type Values = Option<HashMap<String, AttributeValue>>;

/// The two that are compared, each with the same empty table.
struct Pair {
    here: Client,
    there: Client,
    table: String,
    /// The other lives as long as this.
    dynamo: Dynamo,
}

impl Pair {
    async fn new() -> Self {
        let dynamo = Dynamo::connect().await;
        let table = dynamo.table("compare");
        let (here, there) = (
            Cloud::in_process(1, Weather::calm()).admin(),
            dynamo.client(),
        );
        create(&here, &table).await;
        create(&there, &table).await;
        let with = match dynamo.is_embedded() {
            true => "the embedded server (for DynamoDB Local: cargo xtask itest)",
            false => dynamo.endpoint(),
        };
        println!("comparing with {with}");
        Self {
            here,
            there,
            table,
            dynamo,
        }
    }

    /// Sends to both: the answer here, and how the other differs, if it does.
    async fn send(&self, request: &Ask) -> (String, Option<String>) {
        let here = request.send(&self.here, &self.table).await;
        let there = request.send(&self.there, &self.table).await;
        let difference =
            (here != there).then(|| format!("{request:?}\n  here:  {here}\n  there: {there}"));
        (here, difference)
    }

    /// Sends to both and asserts that they agree; the answer.
    async fn agree(&self, request: &Ask) -> String {
        let (answer, difference) = self.send(request).await;
        if let Some(difference) = difference {
            panic!("{difference}");
        }
        answer
    }

    async fn rows(&self, client: &Client) -> BTreeMap<String, String> {
        let items = client
            .scan()
            .table_name(&self.table)
            .into_paginator()
            .items()
            .send();
        let items: Vec<Item> = items.collect::<Result<_, _>>().await.unwrap();
        items
            .into_iter()
            .map(|item| (format!("{:?}{:?}", item["pk"], item["sk"]), shown(&item)))
            .collect()
    }
}

/// One request.
#[derive(Debug, Clone)]
enum Ask {
    Update {
        key: Item,
        update: String,
        when: When,
        back: ReturnValue,
    },
    Put {
        item: Item,
        when: When,
    },
    Delete {
        key: Item,
        when: When,
    },
    Transact {
        actions: Vec<Action>,
        token: Option<String>,
    },
    Read {
        keys: Vec<Item>,
    },
}

/// An action of a transaction.
#[derive(Debug, Clone)]
enum Action {
    Update {
        key: Item,
        update: String,
        when: When,
    },
    Put {
        item: Item,
        when: When,
    },
    Delete {
        key: Item,
        when: When,
    },
    Check {
        key: Item,
        when: When,
    },
}

/// A condition, all values of the request, and whether the old item is asked for.
#[derive(Debug, Clone, Default)]
struct When {
    condition: Option<String>,
    values: HashMap<String, AttributeValue>,
    old: bool,
}

impl When {
    fn values(&self) -> Values {
        (!self.values.is_empty()).then(|| self.values.clone())
    }

    fn old(&self) -> Option<ReturnValuesOnConditionCheckFailure> {
        self.old
            .then_some(ReturnValuesOnConditionCheckFailure::AllOld)
    }
}

impl Ask {
    async fn send(&self, client: &Client, table: &str) -> String {
        match self.clone() {
            Self::Update {
                key,
                update,
                when,
                back,
            } => {
                let request = client
                    .update_item()
                    .table_name(table)
                    .set_key(Some(key))
                    .update_expression(update);
                let request = request.set_condition_expression(when.condition.clone());
                let request = request.set_expression_attribute_values(when.values());
                let request = request.set_return_values_on_condition_check_failure(when.old());
                match request.return_values(back).send().await {
                    Ok(answer) => format!(
                        "ok {}",
                        answer.attributes.map_or_else(String::new, |it| shown(&it))
                    ),
                    Err(error) => refusal(error, |error| {
                        match error {
                        aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException(it) => it.item.clone(),
                        _ => None,
                    }
                    }),
                }
            }
            Self::Put { item, when } => {
                let request = client
                    .put_item()
                    .table_name(table)
                    .set_item(Some(item))
                    .return_values(ReturnValue::AllOld);
                let request = request.set_condition_expression(when.condition.clone());
                let request = request.set_expression_attribute_values(when.values());
                match request
                    .set_return_values_on_condition_check_failure(when.old())
                    .send()
                    .await
                {
                    Ok(answer) => format!(
                        "ok {}",
                        answer.attributes.map_or_else(String::new, |it| shown(&it))
                    ),
                    Err(error) => refusal(error, |error| {
                        match error {
                        aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(it) => it.item.clone(),
                        _ => None,
                    }
                    }),
                }
            }
            Self::Delete { key, when } => {
                let request = client
                    .delete_item()
                    .table_name(table)
                    .set_key(Some(key))
                    .return_values(ReturnValue::AllOld);
                let request = request.set_condition_expression(when.condition.clone());
                let request = request.set_expression_attribute_values(when.values());
                match request
                    .set_return_values_on_condition_check_failure(when.old())
                    .send()
                    .await
                {
                    Ok(answer) => format!(
                        "ok {}",
                        answer.attributes.map_or_else(String::new, |it| shown(&it))
                    ),
                    Err(error) => refusal(error, |error| {
                        match error {
                        aws_sdk_dynamodb::operation::delete_item::DeleteItemError::ConditionalCheckFailedException(it) => it.item.clone(),
                        _ => None,
                    }
                    }),
                }
            }
            Self::Transact { actions, token } => {
                let actions = actions
                    .into_iter()
                    .map(|action| action.build(table))
                    .collect();
                let request = client
                    .transact_write_items()
                    .set_transact_items(Some(actions));
                match request.set_client_request_token(token).send().await {
                    Ok(_) => "ok".into(),
                    Err(error) => match error.into_service_error() {
                        TransactWriteItemsError::TransactionCanceledException(it) => {
                            let reasons = it.cancellation_reasons();
                            // The one answers what AWS documents, the other what fails by itself.
                            if reasons
                                .iter()
                                .any(|it| it.code() == Some("ValidationError"))
                            {
                                return "ValidationException ".into();
                            }
                            let reasons = reasons.iter().map(|reason| {
                                let item = reason.item().map_or_else(String::new, shown);
                                format!("{} {item}", reason.code().unwrap_or_default())
                            });
                            format!("{:?}", reasons.collect::<Vec<_>>())
                        }
                        error => format!("{} ", error.code().unwrap_or_default()),
                    },
                }
            }
            Self::Read { keys } => {
                let keys = KeysAndAttributes::builder()
                    .set_keys(Some(keys))
                    .consistent_read(true)
                    .build()
                    .unwrap();
                match client
                    .batch_get_item()
                    .request_items(table, keys)
                    .send()
                    .await
                {
                    Ok(answer) => {
                        let mut items: Vec<String> =
                            answer.responses.unwrap()[table].iter().map(shown).collect();
                        items.sort();
                        format!("{items:?} {:?}", answer.unprocessed_keys)
                    }
                    Err(error) => refusal(error, |_| None),
                }
            }
        }
    }

    /// The rows it names.
    fn keys(&self) -> Vec<Item> {
        match self {
            Self::Update { key, .. } | Self::Delete { key, .. } => vec![key.clone()],
            Self::Put { item, .. } => vec![key_of(item)],
            Self::Transact { actions, .. } => actions.iter().map(Action::key).collect(),
            Self::Read { .. } => Vec::new(),
        }
    }
}

impl Action {
    fn key(&self) -> Item {
        match self {
            Self::Update { key, .. } | Self::Delete { key, .. } | Self::Check { key, .. } => {
                key.clone()
            }
            Self::Put { item, .. } => key_of(item),
        }
    }

    fn build(self, table: &str) -> TransactWriteItem {
        let action = TransactWriteItem::builder();
        match self {
            Self::Update { key, update, when } => action.update(
                Update::builder()
                    .table_name(table)
                    .set_key(Some(key))
                    .update_expression(update)
                    .set_condition_expression(when.condition.clone())
                    .set_expression_attribute_values(when.values())
                    .set_return_values_on_condition_check_failure(when.old())
                    .build()
                    .unwrap(),
            ),
            Self::Put { item, when } => action.put(
                Put::builder()
                    .table_name(table)
                    .set_item(Some(item))
                    .set_condition_expression(when.condition.clone())
                    .set_expression_attribute_values(when.values())
                    .set_return_values_on_condition_check_failure(when.old())
                    .build()
                    .unwrap(),
            ),
            Self::Delete { key, when } => action.delete(
                Delete::builder()
                    .table_name(table)
                    .set_key(Some(key))
                    .set_condition_expression(when.condition.clone())
                    .set_expression_attribute_values(when.values())
                    .set_return_values_on_condition_check_failure(when.old())
                    .build()
                    .unwrap(),
            ),
            Self::Check { key, when } => action.condition_check(
                ConditionCheck::builder()
                    .table_name(table)
                    .set_key(Some(key))
                    .set_condition_expression(when.condition.clone())
                    .set_expression_attribute_values(when.values())
                    .set_return_values_on_condition_check_failure(when.old())
                    .build()
                    .unwrap(),
            ),
        }
        .build()
    }
}

fn refusal<E: ProvideErrorMetadata + Debug + std::error::Error + 'static>(
    error: SdkError<E>,
    item: impl Fn(&E) -> Option<Item>,
) -> String {
    let Some(error) = error.as_service_error() else {
        panic!("no answer: {error:?}");
    };
    let item = item(error).map_or_else(String::new, |item| shown(&item));
    format!("{} {item}", error.code().unwrap_or_default())
}

/// An item in an order of its own, sets sorted.
fn shown(item: &Item) -> String {
    let value = |value: &AttributeValue| match value {
        AttributeValue::Bs(set) => {
            let mut set: Vec<String> = set.iter().map(|it| hex(it.as_ref())).collect();
            set.sort();
            format!("BS{set:?}")
        }
        AttributeValue::B(bytes) => format!("B {}", hex(bytes.as_ref())),
        // DynamoDB stores numbers trimmed, DynamoDB Local as they came.
        AttributeValue::N(number) => format!("N {}", normalize_dynamo_number(number)),
        other => format!("{other:?}"),
    };
    let item: BTreeMap<&String, String> = item.iter().map(|(name, it)| (name, value(it))).collect();
    format!("{item:?}")
}

fn hex(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=16 => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        length => format!("{length} bytes"),
    }
}

fn key(pk: &str, sk: i64) -> Item {
    [("pk".into(), text(pk)), ("sk".into(), number(sk))].into()
}

fn key_of(item: &Item) -> Item {
    let is_key = |(name, _): &(&String, &AttributeValue)| ["pk", "sk"].contains(&name.as_str());
    item.iter()
        .filter(is_key)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn id(n: u8) -> Blob {
    Blob::new([n; 16])
}

fn update(
    key: Item,
    update: &str,
    condition: Option<&str>,
    values: &[(&str, AttributeValue)],
) -> Ask {
    Ask::Update {
        key,
        update: update.into(),
        when: when(condition, values),
        back: ReturnValue::AllNew,
    }
}

fn when(condition: Option<&str>, values: &[(&str, AttributeValue)]) -> When {
    When {
        condition: condition.map(str::to_owned),
        values: values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        old: true,
    }
}

/// Makes up requests of the kinds that the project sends.
struct Maker {
    dice: Rng,
    values: HashMap<String, AttributeValue>,
}

impl Maker {
    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.dice.usize(..of.len())].clone()
    }

    fn key(&mut self) -> Item {
        key(&format!("k{}", self.dice.u8(..6)), self.dice.i64(0..2))
    }

    /// A placeholder for a value.
    fn value(&mut self, value: AttributeValue) -> String {
        let name = format!(":v{}", self.values.len());
        self.values.insert(name.clone(), value);
        name
    }

    fn number(&mut self) -> AttributeValue {
        let text = match self.dice.u8(..8) {
            0 => "9223372036854775807".into(),
            1 => "-99999999999999999999999999999999999999".into(),
            2 => "1.50".into(),
            _ => self.dice.i64(-3..6).to_string(),
        };
        AttributeValue::N(text)
    }

    fn ids(&mut self) -> AttributeValue {
        let mut ids: Vec<Blob> = (0..6).filter(|_| self.dice.u8(..3) == 0).map(id).collect();
        // Now and then empty, or one of them twice.
        if ids.is_empty() && self.dice.u8(..4) > 0 {
            ids.push(id(7));
        }
        if self.dice.u8(..30) == 0 {
            ids.push(id(7));
            ids.push(id(7));
        }
        AttributeValue::Bs(ids)
    }

    fn any(&mut self) -> AttributeValue {
        match self.dice.u8(..5) {
            0 => self.ids(),
            1 => text(["", "a", "ab"][self.dice.usize(..3)]),
            2 => AttributeValue::B(id(self.dice.u8(..6))),
            _ => self.number(),
        }
    }

    fn attribute(&mut self) -> String {
        self.pick(&["v", "cur", "prev", "hot", "b", "s", "era"])
            .into()
    }

    fn atom(&mut self) -> String {
        let name = self.attribute();
        match self.dice.u8(..12) {
            0 | 1 => format!("attribute_exists({name})"),
            2 | 3 => format!("attribute_not_exists({name})"),
            4 => {
                // Sets have no order.
                let value = self.any();
                let operator = match value.is_bs() {
                    true => self.pick(&["=", "<>"]),
                    false => self.pick(&["=", "<>", "<", "<=", ">", ">="]),
                };
                format!("{name} {operator} {}", self.value(value))
            }
            5 => {
                let low = self.dice.i64(-3..5);
                let (low, high) = (number(low), number(low + self.dice.i64(0..3)));
                format!("v BETWEEN {} AND {}", self.value(low), self.value(high))
            }
            6 => {
                let (one, other) = (self.any(), self.any());
                format!("{name} IN ({}, {})", self.value(one), self.value(other))
            }
            7 => {
                let size = number(self.dice.i64(0..5));
                let operator = self.pick(&["=", "<", ">="]);
                format!("size({name}) {operator} {}", self.value(size))
            }
            8 => {
                let kind = self.pick(&["N", "BS", "B", "S"]);
                format!("attribute_type({name}, {})", self.value(text(kind)))
            }
            9 => format!("begins_with(s, {})", self.value(text("a"))),
            _ => {
                let id = AttributeValue::B(id(self.dice.u8(..8)));
                let set = self.pick(&["cur", "prev", "b", "v"]);
                format!("contains({set}, {})", self.value(id))
            }
        }
    }

    fn tree(&mut self, depth: u8) -> String {
        match self.dice.u8(..6) {
            0 | 1 if depth > 0 => {
                format!("({} AND {})", self.tree(depth - 1), self.tree(depth - 1))
            }
            2 if depth > 0 => format!("({} OR {})", self.tree(depth - 1), self.tree(depth - 1)),
            3 if depth > 0 => format!("NOT {}", self.tree(depth - 1)),
            _ => self.atom(),
        }
    }

    /// None of some ids, in neither generation: the condition of exactly-once.
    fn none_of_the_ids(&mut self) -> String {
        let mut terms = Vec::new();
        for _ in 0..self.dice.usize(1..4) {
            let id = AttributeValue::B(id(self.dice.u8(..6)));
            let id = self.value(id);
            terms.push(format!("contains(cur, {id}) OR contains(prev, {id})"));
        }
        format!("attribute_not_exists(hot) AND NOT ({})", terms.join(" OR "))
    }

    fn condition(&mut self) -> Option<String> {
        match self.dice.u8(..6) {
            0 => None,
            1 | 2 => Some(self.none_of_the_ids()),
            _ => Some(self.tree(2)),
        }
    }

    fn when(&mut self, condition: Option<String>) -> When {
        When {
            condition,
            values: std::mem::take(&mut self.values),
            old: self.dice.bool(),
        }
    }

    fn update(&mut self) -> String {
        let (one, other) = (self.number(), self.number());
        match self.dice.u8(..18) {
            0..=3 => {
                let ids = self.ids();
                format!("ADD v {}, cur {}", self.value(one), self.value(ids))
            }
            4 | 5 => {
                let ids = self.ids();
                let (ids, one, other) = (self.value(ids), self.value(one), self.value(other));
                format!("SET prev = cur, cur = {ids}, era = {other} ADD v {one}")
            }
            6 => {
                let ids = self.ids();
                format!(
                    "SET cur = {} REMOVE prev ADD v {}",
                    self.value(ids),
                    self.value(one)
                )
            }
            7 => format!("SET hot = {} REMOVE cur, prev", self.value(one)),
            8 => "REMOVE hot, cur, prev".into(),
            9 => {
                let any = self.any();
                let name = self.pick(&["v", "b", "s", "cur"]);
                format!("SET {name} = {}", self.value(any))
            }
            10 => format!("SET v = v + {}", self.value(one)),
            11 => format!(
                "SET v = if_not_exists(v, {}) - {}",
                self.value(one),
                self.value(other)
            ),
            12 => {
                let ids = self.ids();
                format!("DELETE cur {}", self.value(ids))
            }
            13 => {
                // Right for some attributes, wrong for others.
                let any = match self.dice.bool() {
                    true => self.ids(),
                    false => self.number(),
                };
                let name = self.attribute();
                format!("ADD {name} {}", self.value(any))
            }
            14 => "SET prev = cur".into(),
            15 => {
                let any = self.any();
                format!(
                    "SET b = {}, s = if_not_exists(s, {})",
                    self.value(any),
                    self.value(one)
                )
            }
            16 => "REMOVE nothing".into(),
            _ => format!("ADD v {}", self.value(one)),
        }
    }

    fn item(&mut self) -> Item {
        let mut item = self.key();
        for name in ["v", "hot", "cur", "prev", "b", "s"] {
            let value = match (self.dice.u8(..6), name) {
                (0, _) => self.any(),
                (1 | 2, "cur" | "prev") => self.ids(),
                (1 | 2, _) => self.number(),
                _ => continue,
            };
            item.insert(name.into(), value);
        }
        item
    }

    fn action(&mut self) -> Action {
        self.values.clear();
        match self.dice.u8(..8) {
            0 => {
                let condition = self.condition();
                Action::Put {
                    item: self.item(),
                    when: self.when(condition),
                }
            }
            1 => {
                let condition = self.condition();
                Action::Delete {
                    key: self.key(),
                    when: self.when(condition),
                }
            }
            2 => {
                let condition = Some(self.tree(2));
                Action::Check {
                    key: self.key(),
                    when: self.when(condition),
                }
            }
            _ => {
                let (update, condition) = (self.update(), self.condition());
                Action::Update {
                    key: self.key(),
                    update,
                    when: self.when(condition),
                }
            }
        }
    }

    fn ask(&mut self) -> Ask {
        self.values.clear();
        match self.dice.u8(..12) {
            0 => {
                let condition = self.condition();
                Ask::Put {
                    item: self.item(),
                    when: self.when(condition),
                }
            }
            1 => {
                let condition = self.condition();
                Ask::Delete {
                    key: self.key(),
                    when: self.when(condition),
                }
            }
            2 => Ask::Read {
                keys: (0..self.dice.usize(1..5)).map(|_| self.key()).collect(),
            },
            3..=5 => {
                let mut actions: Vec<Action> = Vec::new();
                for _ in 0..self.dice.usize(1..5) {
                    let action = self.action();
                    if actions.iter().all(|other| other.key() != action.key()) {
                        actions.push(action);
                    }
                }
                Ask::Transact {
                    actions,
                    token: None,
                }
            }
            _ => {
                let (update, condition) = (self.update(), self.condition());
                let back = self.pick(&[
                    ReturnValue::None,
                    ReturnValue::AllOld,
                    ReturnValue::AllNew,
                    ReturnValue::UpdatedOld,
                    ReturnValue::UpdatedNew,
                ]);
                Ask::Update {
                    key: self.key(),
                    update,
                    when: self.when(condition),
                    back,
                }
            }
        }
    }
}

#[tokio::test]
async fn seeded_requests_are_answered_alike() {
    let pair = Pair::new().await;
    let (mut differences, mut oks, mut refused) = (0, 0, 0);
    for seed in 0..40 {
        let mut maker = Maker {
            dice: Rng::with_seed(seed),
            values: HashMap::new(),
        };
        for _ in 0..100 {
            let ask = maker.ask();
            if let Ask::Update { back, .. } = &ask
                && *back == ReturnValue::AllOld
                && pair.dynamo.is_embedded()
            {
                // It answers the keys of a row that was not there.
                continue;
            }
            let (answer, difference) = pair.send(&ask).await;
            match answer.starts_with("ok") {
                true => oks += 1,
                false => refused += 1,
            }
            if let Some(difference) = difference {
                println!("seed {seed}: {difference}");
                differences += 1;
                for key in ask.keys() {
                    for client in [&pair.here, &pair.there] {
                        let delete = client.delete_item().table_name(&pair.table);
                        let _ = delete.set_key(Some(key.clone())).send().await;
                    }
                }
            }
        }
        let (here, there) = (pair.rows(&pair.here).await, pair.rows(&pair.there).await);
        assert_eq!(here, there, "seed {seed}");
    }
    println!("{oks} applied, {refused} refused");
    assert_eq!(differences, 0, "of {}", oks + refused);
}

/// The answers of both to `request`, which must be alike; their code.
async fn both(pair: &Pair, request: Ask) -> String {
    let answer = pair.agree(&request).await;
    answer.split(' ').next().unwrap_or_default().to_owned()
}

fn in_transaction(ask: &Ask) -> Ask {
    let Ask::Update {
        key, update, when, ..
    } = ask.clone()
    else {
        panic!("only updates");
    };
    let actions = vec![Action::Update { key, update, when }];
    Ask::Transact {
        actions,
        token: None,
    }
}

const INVALID: &str = "ValidationException";
const REFUSED: &str = "ConditionalCheckFailedException";

/// `NOT (contains(cur, :i0) OR contains(prev, :i0) OR …)`, and the ids.
fn none_of(ids: usize) -> (String, HashMap<String, AttributeValue>) {
    let terms: Vec<String> = (0..ids)
        .map(|n| format!("contains(cur,:{n}) OR contains(prev,:{n})"))
        .collect();
    let values = (0..ids).map(|n| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        (format!(":{n}"), AttributeValue::B(Blob::new(id)))
    });
    (format!("NOT ({})", terms.join(" OR ")), values.collect())
}

#[tokio::test]
async fn the_limit_of_operators_is_the_same() {
    let pair = Pair::new().await;
    // An OR between two, and a NOT: 4n. At most 75 ids, then.
    for (ids, outcome) in [(70, "ok"), (75, "ok"), (76, INVALID), (80, INVALID)] {
        let (condition, mut values) = none_of(ids);
        values.insert(":v".into(), number(1));
        let ask = Ask::Update {
            key: key("ids", 0),
            update: "ADD v :v".into(),
            when: When {
                condition: Some(condition),
                values,
                old: true,
            },
            back: ReturnValue::None,
        };
        // The embedded server does not count them.
        if pair.dynamo.is_embedded() && outcome == INVALID {
            assert!(ask.send(&pair.here, &pair.table).await.starts_with(INVALID));
            continue;
        }
        assert_eq!(both(&pair, ask.clone()).await, outcome, "{ids} ids");
        assert_eq!(
            both(&pair, in_transaction(&ask)).await,
            outcome,
            "{ids} ids in a transaction"
        );
    }
    let forms = [
        ("a BETWEEN :v AND :w", 150),
        ("a IN (:v,:w,:v)", 150),
        ("attribute_exists(a)", 150),
        ("NOT a=:v", 100),
        ("size(a)>=:v", 100),
        ("(a<>:v)", 150),
    ];
    for (form, most) in forms {
        for count in [most, most + 1] {
            let condition = vec![form; count].join(" AND ");
            let mut values = vec![(":v", number(1))];
            if form.contains(":w") {
                values.push((":w", number(2)));
            }
            let update = match form.contains(":v") {
                true => "REMOVE b",
                false => "ADD b :v",
            };
            let ask = self::update(key("none", 0), update, Some(&condition), &values);
            if pair.dynamo.is_embedded() && count > most {
                assert!(ask.send(&pair.here, &pair.table).await.starts_with(INVALID));
                continue;
            }
            let invalid = both(&pair, ask).await == INVALID;
            assert_eq!(invalid, count > most, "{count} times {form}");
        }
    }
}

#[tokio::test]
async fn the_length_of_an_expression_is_the_same() {
    let pair = Pair::new().await;
    for (length, outcome) in [(4096, REFUSED), (4097, INVALID)] {
        let condition = format!(
            "attribute_exists({})",
            "a".repeat(length - "attribute_exists()".len())
        );
        let ask = update(key("none", 0), "REMOVE b", Some(&condition), &[]);
        assert_eq!(both(&pair, ask.clone()).await, outcome, "{length}");
        let outcome = if outcome == REFUSED {
            r#"["ConditionalCheckFailed"#
        } else {
            INVALID
        };
        assert_eq!(both(&pair, in_transaction(&ask)).await, outcome, "{length}");
    }
    for (length, outcome) in [(4096, "ok"), (4097, INVALID)] {
        let text = format!("REMOVE {}", "a".repeat(length - "REMOVE ".len()));
        assert_eq!(
            both(&pair, update(key("none", 0), &text, None, &[])).await,
            outcome,
            "{length}"
        );
    }
}

#[tokio::test]
async fn an_item_takes_400_kb_alike() {
    let pair = Pair::new().await;
    // pk, its value, sk, a zero, and the name of the attribute.
    let fixed = 2 + 3 + 2 + 1 + 1;
    let fill = |bytes: usize| AttributeValue::B(Blob::new(vec![0; bytes - fixed]));
    let most = 400 * 1024;
    for (bytes, outcome) in [(most, "ok"), (most + 1, INVALID)] {
        let mut item = key("big", 0);
        item.insert("b".into(), fill(bytes));
        let ask = Ask::Put {
            item,
            when: When::default(),
        };
        assert_eq!(both(&pair, ask).await, outcome, "{bytes}");
    }
    // An update's text counts a little towards it, except on DynamoDB Local.
    for (bytes, outcome) in [(most - 20, "ok"), (most + 1, INVALID)] {
        let ask = update(key("big", 0), "SET b = :b", None, &[(":b", fill(bytes))]);
        assert_eq!(both(&pair, ask.clone()).await, outcome, "{bytes}");
        assert_eq!(both(&pair, in_transaction(&ask)).await, outcome, "{bytes}");
    }
    // What is there already counts.
    let ids = AttributeValue::Bs(vec![id(1), id(2)]);
    let more = update(key("big", 0), "ADD i :i", None, &[(":i", ids)]);
    assert_eq!(both(&pair, more.clone()).await, INVALID);
    assert_eq!(both(&pair, in_transaction(&more)).await, INVALID);
    // In words that tell it from other invalid requests.
    for client in [&pair.here, &pair.there] {
        let Ask::Update {
            key, update, when, ..
        } = more.clone()
        else {
            unreachable!()
        };
        let request = client
            .update_item()
            .table_name(&pair.table)
            .set_key(Some(key));
        let request = request
            .update_expression(update)
            .set_expression_attribute_values(when.values());
        let error = request.send().await.unwrap_err();
        let message = error.as_service_error().unwrap().meta().message().unwrap();
        assert!(message.contains("Item size"), "{message}");
    }
}

#[tokio::test]
async fn bad_values_are_refused_alike() {
    let pair = Pair::new().await;
    let set = |ids: &[u8]| AttributeValue::Bs(ids.iter().map(|n| id(*n)).collect());
    let row = || key("row", 0);
    let start = update(
        row(),
        "SET v = :v, s = :s",
        None,
        &[(":v", number(1)), (":s", text("a"))],
    );
    assert_eq!(both(&pair, start).await, "ok");
    let asks = [
        (
            "an empty set",
            update(row(), "ADD cur :i", None, &[(":i", set(&[]))]),
        ),
        (
            "an empty set",
            update(row(), "SET cur = :i", None, &[(":i", set(&[]))]),
        ),
        (
            "one twice",
            update(row(), "ADD cur :i", None, &[(":i", set(&[1, 2, 1]))]),
        ),
        (
            "one twice",
            update(row(), "SET cur = :i", None, &[(":i", set(&[1, 1]))]),
        ),
        (
            "nothing to shift",
            update(row(), "SET prev = cur", None, &[]),
        ),
        (
            "nothing to shift",
            update(
                row(),
                "SET prev = cur, cur = :i ADD v :v",
                None,
                &[(":i", set(&[1])), (":v", number(1))],
            ),
        ),
        (
            "a number to a text",
            update(row(), "ADD s :v", None, &[(":v", number(1))]),
        ),
        (
            "ids to a number",
            update(row(), "ADD v :i", None, &[(":i", set(&[1]))]),
        ),
        (
            "a text to add",
            update(row(), "ADD v :s", None, &[(":s", text("1"))]),
        ),
        (
            "no number",
            update(
                row(),
                "SET v = :v",
                None,
                &[(":v", AttributeValue::N("one".into()))],
            ),
        ),
        (
            "39 digits",
            update(
                row(),
                "SET v = :v",
                None,
                &[(":v", AttributeValue::N("1".repeat(39)))],
            ),
        ),
        (
            "a value unused",
            update(row(), "REMOVE v", None, &[(":v", number(1))]),
        ),
        (
            "a value missing",
            update(row(), "ADD v :w", None, &[(":v", number(1))]),
        ),
        (
            "two on one path",
            update(row(), "SET v = :v ADD v :v", None, &[(":v", number(1))]),
        ),
        ("no expression", update(row(), "ADD", None, &[])),
        (
            "an empty key",
            update(key("", 0), "ADD v :v", None, &[(":v", number(1))]),
        ),
        (
            "a key of another type",
            update(
                [("pk".into(), number(1)), ("sk".into(), number(0))].into(),
                "ADD v :v",
                None,
                &[(":v", number(1))],
            ),
        ),
        (
            "half a key",
            update(
                [("pk".into(), text("a"))].into(),
                "ADD v :v",
                None,
                &[(":v", number(1))],
            ),
        ),
        (
            "a long key",
            update(
                key(&"k".repeat(2049), 0),
                "ADD v :v",
                None,
                &[(":v", number(1))],
            ),
        ),
    ];
    for (what, ask) in asks {
        assert_eq!(both(&pair, ask.clone()).await, INVALID, "{what}");
        assert_eq!(
            both(&pair, in_transaction(&ask)).await,
            INVALID,
            "{what}, in a transaction"
        );
    }
    // In a transaction dynoxide lets it pass.
    let moved = update(row(), "SET pk = :s", None, &[(":s", text("b"))]);
    assert_eq!(both(&pair, moved).await, INVALID);
    // And what is none: the largest number, an overlong sum, the shift itself, an empty text.
    let nines = || AttributeValue::N("9".repeat(38));
    let asks = [
        update(row(), "SET v = :v", None, &[(":v", nines())]),
        update(row(), "SET cur = :i", None, &[(":i", set(&[1, 2]))]),
        update(
            row(),
            "SET prev = cur, cur = :i",
            None,
            &[(":i", set(&[3]))],
        ),
        update(row(), "SET s = :s", None, &[(":s", text(""))]),
        update(row(), "DELETE cur :i", None, &[(":i", set(&[3]))]),
        update(
            row(),
            "SET b = :b",
            None,
            &[(":b", AttributeValue::B(Blob::new([])))],
        ),
    ];
    for ask in asks {
        assert_eq!(both(&pair, ask).await, "ok");
    }
    let over = update(row(), "ADD v :v", None, &[(":v", nines())]);
    pair.agree(&over).await;
    let read = Ask::Read { keys: vec![row()] };
    let left = pair.agree(&read).await;
    assert!(left.contains("prev") && !left.contains("cur"), "{left}");
}

#[tokio::test]
async fn reads_of_many_keys_are_alike() {
    let pair = Pair::new().await;
    for n in 0..100 {
        let ask = update(
            key(&format!("k{n}"), 0),
            "ADD v :v",
            None,
            &[(":v", number(n))],
        );
        assert_eq!(both(&pair, ask).await, "ok");
    }
    let keys = |count: i64| {
        (0..count)
            .map(|n| key(&format!("k{n}"), 0))
            .collect::<Vec<_>>()
    };
    pair.agree(&Ask::Read { keys: keys(100) }).await;
    assert_eq!(both(&pair, Ask::Read { keys: keys(101) }).await, INVALID);
    let twice = vec![key("k1", 0), key("k1", 0)];
    assert_eq!(both(&pair, Ask::Read { keys: twice }).await, INVALID);
}

#[tokio::test]
async fn transactions_are_bounded_alike() {
    let pair = Pair::new().await;
    let action = |pk: &str| Action::Update {
        key: key(pk, 0),
        update: "ADD v :v".into(),
        when: when(None, &[(":v", number(1))]),
    };
    let of = |count: usize| {
        let actions = (0..count).map(|n| action(&format!("k{n}"))).collect();
        Ask::Transact {
            actions,
            token: None,
        }
    };
    assert_eq!(both(&pair, of(100)).await, "ok");
    assert_eq!(both(&pair, of(101)).await, INVALID);
    let twice = vec![action("k1"), action("k1")];
    assert_eq!(
        both(
            &pair,
            Ask::Transact {
                actions: twice,
                token: None
            }
        )
        .await,
        INVALID
    );
}

#[tokio::test]
async fn tokens_are_alike() {
    let pair = Pair::new().await;
    let send = |pk: &str, condition: Option<&str>, token: String| Ask::Transact {
        actions: vec![Action::Update {
            key: key(pk, 0),
            update: "ADD v :v".into(),
            when: when(condition, &[(":v", number(1))]),
        }],
        token: Some(token),
    };
    // Tokens are the server's, not the table's.
    let token = |n: u8| format!("{n}-{:.30}", pair.table.chars().rev().collect::<String>());
    assert_eq!(both(&pair, send("a", None, token(1))).await, "ok");
    assert_eq!(both(&pair, send("a", None, token(1))).await, "ok");
    assert_eq!(
        both(&pair, send("b", None, token(1))).await,
        "IdempotentParameterMismatchException"
    );
    // A cancelled one is not remembered.
    let picky = || send("c", Some("attribute_exists(v)"), token(2));
    assert_eq!(both(&pair, picky()).await, r#"["ConditionalCheckFailed"#);
    let first = update(key("c", 0), "ADD v :v", None, &[(":v", number(1))]);
    assert_eq!(both(&pair, first).await, "ok");
    assert_eq!(both(&pair, picky()).await, "ok");
    assert_eq!(both(&pair, picky()).await, "ok");
    let rows = pair
        .agree(&Ask::Read {
            keys: ["a", "b", "c"].map(|pk| key(pk, 0)).into(),
        })
        .await;
    assert!(
        rows.contains("N 1") && rows.contains("N 2") && !rows.contains("N 3"),
        "{rows}"
    );
    // Their length.
    let long = |length: usize| format!("{}{}", token(3), "t".repeat(length - token(3).len()));
    assert_eq!(both(&pair, send("a", None, long(36))).await, "ok");
    assert_eq!(both(&pair, send("a", None, long(37))).await, INVALID);
}
