//! Tables, orders and processes.

use std::collections::HashMap;
use std::process::{Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType, StreamSpecification, StreamViewType,
};
use murmur_state::{Key, ReadExt, Timestamp};
use murmur_state_ddb::{Int64SumStore, create_dedup_table, create_int64_table};
use murmur_testkit::Dynamo;
use order_totals::{Tables, WINDOW};
use serde_json::{Value, json};
use tokio::process::Command;

pub(crate) const README: &str = include_str!("../../README.md");

/// What stands between a pair of markers in the README.
pub(crate) fn section(name: &str) -> &'static str {
    let begin = format!("<!-- {name} -->");
    let (_, rest) = README.split_once(&begin).expect("the section begins");
    let (section, _) = rest
        .split_once(&format!("<!-- /{name} -->"))
        .expect("the section ends");
    section
}

/// The rows of a Markdown table, without its head; cells without backticks.
pub(crate) fn rows(section: &str) -> Vec<Vec<String>> {
    let lines = section.lines().filter(|line| line.starts_with('|'));
    let cells = |line: &str| {
        let inner = line.trim_matches('|');
        inner
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect()
    };
    lines.skip(2).map(cells).collect()
}

/// A server with the tables of one deployment.
pub(crate) struct App {
    pub(crate) dynamo: Dynamo,
    pub(crate) client: Client,
    pub(crate) tables: Tables,
    pub(crate) orders: String,
}

impl App {
    /// With all tables, the one of orders and its stream included.
    pub(crate) async fn start() -> Self {
        let app = Self::without_stream().await;
        app.switch_stream(Some(StreamViewType::NewAndOldImages))
            .await;
        app
    }

    /// With all tables; that of orders has no stream yet.
    pub(crate) async fn without_stream() -> Self {
        let app = Self::without_tables().await;
        create_int64_table(&app.client, &app.tables.totals)
            .await
            .unwrap();
        create_int64_table(&app.client, &app.tables.counts)
            .await
            .unwrap();
        create_dedup_table(&app.client, &app.tables.markers)
            .await
            .unwrap();
        app.create(&app.orders).await;
        app
    }

    pub(crate) async fn without_tables() -> Self {
        let dynamo = Dynamo::connect().await;
        let tables = Tables {
            totals: dynamo.table("totals"),
            counts: dynamo.table("counts"),
            markers: dynamo.table("markers"),
        };
        Self {
            client: dynamo.client(),
            orders: dynamo.table("orders"),
            tables,
            dynamo,
        }
    }

    /// Makes a table of orders, without a stream.
    pub(crate) async fn create(&self, orders: &str) {
        let attribute = AttributeDefinition::builder()
            .attribute_name("id")
            .attribute_type(ScalarAttributeType::S)
            .build();
        let key = KeySchemaElement::builder()
            .attribute_name("id")
            .key_type(KeyType::Hash)
            .build();
        self.client
            .create_table()
            .table_name(orders)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(attribute.unwrap())
            .key_schema(key.unwrap())
            .send()
            .await
            .unwrap();
    }

    /// Switches the stream of the table of orders on, or off; the ARN of its stream after that,
    /// if the server names one.
    pub(crate) async fn switch_stream(&self, to: Option<StreamViewType>) -> Option<String> {
        let stream = StreamSpecification::builder()
            .stream_enabled(to.is_some())
            .set_stream_view_type(to)
            .build();
        let updated = self
            .client
            .update_table()
            .table_name(&self.orders)
            .stream_specification(stream.unwrap())
            .send()
            .await
            .unwrap();
        updated.table_description.unwrap().latest_stream_arn
    }

    /// The ARN of the stream of orders.
    pub(crate) async fn stream(&self) -> String {
        let described = self.client.describe_table().table_name(&self.orders);
        let table = described.send().await.unwrap().table;
        table.unwrap().latest_stream_arn.unwrap()
    }

    pub(crate) async fn put_order(&self, id: &str, order: (&str, i64)) {
        let item = image(id, order);
        self.put(serde_json::from_value(item).unwrap()).await;
    }

    /// An item in the form `{attribute: {type: value}}`.
    pub(crate) async fn put(&self, item: HashMap<String, HashMap<String, String>>) {
        let value = |typed: HashMap<String, String>| {
            let (kind, value) = typed.into_iter().next().unwrap();
            match kind.as_str() {
                "S" => AttributeValue::S(value),
                "N" => AttributeValue::N(value),
                other => panic!("{other}"),
            }
        };
        let item = item.into_iter().map(|(name, typed)| (name, value(typed)));
        self.client
            .put_item()
            .table_name(&self.orders)
            .set_item(Some(item.collect()))
            .send()
            .await
            .unwrap();
    }

    pub(crate) async fn delete_order(&self, id: &str) {
        self.client
            .delete_item()
            .table_name(&self.orders)
            .key("id", AttributeValue::S(id.to_owned()))
            .send()
            .await
            .unwrap();
    }

    /// What the state tables say of `customer` today: total and count.
    pub(crate) async fn state(&self, customer: &str) -> (Option<i64>, Option<i64>) {
        let key = Key::new(customer, WINDOW.bucket(Timestamp::from_secs(today()))).unwrap();
        let store = |table: &str| Int64SumStore::new(self.client.clone(), table);
        (
            store(&self.tables.totals).get(&key).await.unwrap(),
            store(&self.tables.counts).get(&key).await.unwrap(),
        )
    }

    /// A process of the application, told where its tables are.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .envs(self.dynamo.env())
            .env("TOTALS_TABLE", &self.tables.totals)
            .env("COUNTS_TABLE", &self.tables.counts)
            .env("MARKER_TABLE", &self.tables.markers)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// The same second in every call of a test run: rows of the past would be expired one day.
pub(crate) fn today() -> i64 {
    use std::sync::OnceLock;
    static NOW: OnceLock<i64> = OnceLock::new();
    *NOW.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        i64::try_from(since.as_secs()).unwrap()
    })
}

pub(crate) fn image(id: &str, (customer, amount_cents): (&str, i64)) -> Value {
    json!({
        "id": { "S": id },
        "customer": { "S": customer },
        "amount_cents": { "N": amount_cents.to_string() },
        "placed_at": { "N": today().to_string() },
    })
}

/// A change of order `id` as AWS sends it, number `n` of its stream.
pub(crate) fn change(n: u32, id: &str, old: Option<Value>, new: Option<Value>) -> Value {
    let name = match (&old, &new) {
        (None, _) => "INSERT",
        (Some(_), Some(_)) => "MODIFY",
        (Some(_), None) => "REMOVE",
    };
    let mut record = json!({
        "eventID": format!("{n:032x}"),
        "eventName": name,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "eu-west-1",
        "eventSourceARN": "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-01-01T00:00:00.000",
        "dynamodb": {
            "ApproximateCreationDateTime": today(),
            "Keys": { "id": { "S": id } },
            "SequenceNumber": number(n),
            "SizeBytes": 87,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
    });
    for (image, at) in [(old, "OldImage"), (new, "NewImage")] {
        if let Some(image) = image {
            record["dynamodb"][at] = image;
        }
    }
    record
}

/// The sequence number of change `n`.
pub(crate) fn number(n: u32) -> String {
    format!("44215845000000000{n:010}")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
