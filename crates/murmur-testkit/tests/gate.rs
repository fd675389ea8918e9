//! The gate between a process and its DynamoDB.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state_ddb::create_dedup_table;
use murmur_testkit::Dynamo;
use murmur_testkit::gate::{Gate, Hold};

struct Rows {
    dynamo: Dynamo,
    gate: Gate,
    table: String,
}

impl Rows {
    async fn new() -> Self {
        let dynamo = Dynamo::connect().await;
        let table = dynamo.table("rows");
        create_dedup_table(&dynamo.client(), &table).await.unwrap();
        let gate = Gate::to(&dynamo).await;
        Self {
            dynamo,
            gate,
            table,
        }
    }

    /// As a process with the gate's environment would make it.
    fn client(&self) -> Client {
        let env = self.gate.env();
        let endpoints = env.iter().filter(|(name, _)| *name == "AWS_ENDPOINT_URL");
        let endpoints: Vec<_> = endpoints.map(|(_, url)| url).collect();
        let [endpoint] = endpoints[..] else {
            panic!("{env:?}")
        };
        let config = self.dynamo.client_config().endpoint_url(endpoint);
        Client::from_conf(config.build())
    }

    async fn put(&self, client: &Client, id: &str) {
        let put = client.put_item().table_name(&self.table);
        let put = put.item("pk", AttributeValue::S(id.into()));
        put.send().await.unwrap();
    }

    async fn has(&self, client: &Client, id: &str) -> bool {
        let get = client.get_item().table_name(&self.table);
        let get = get.key("pk", AttributeValue::S(id.into()));
        get.send().await.unwrap().item.is_some()
    }
}

#[tokio::test]
async fn the_nth_request_is_held_on_the_side_that_was_asked_for() {
    for (side, there) in [(Hold::Before, false), (Hold::After, true)] {
        let rows = Rows::new().await;
        let (client, direct) = (rows.client(), rows.dynamo.client());
        let puts = async {
            for id in ["0", "1", "2"] {
                rows.put(&client, id).await;
            }
        };
        let operation = tokio::select! {
            biased;
            operation = rows.gate.hold(None, 1, side) => operation,
            () = puts => panic!("nothing was held"),
        };
        assert_eq!(operation, "PutItem");
        rows.gate.settled().await;
        let found = [
            rows.has(&direct, "0").await,
            rows.has(&direct, "1").await,
            rows.has(&direct, "2").await,
        ];
        assert_eq!(found, [true, there, false], "{side:?}");
        assert_eq!(rows.gate.counts()["PutItem"], 2);
    }
}

#[tokio::test]
async fn only_the_named_operation_is_counted_down() {
    let rows = Rows::new().await;
    let client = rows.client();
    let requests = async {
        rows.put(&client, "0").await;
        assert!(rows.has(&client, "0").await);
        rows.put(&client, "1").await;
        rows.has(&client, "1").await
    };
    let operation = tokio::select! {
        biased;
        operation = rows.gate.hold(Some("GetItem"), 1, Hold::Before) => operation,
        _ = requests => panic!("nothing was held"),
    };
    assert_eq!(operation, "GetItem");
    assert_eq!(rows.gate.counts()["PutItem"], 2);
}

#[tokio::test]
async fn what_nobody_waits_for_is_not_held() {
    let rows = Rows::new().await;
    let client = rows.client();
    tokio::select! {
        biased;
        _ = rows.gate.hold(Some("GetItem"), 0, Hold::Before) => panic!("nobody gets"),
        () = rows.put(&client, "0") => {}
    }
    assert!(rows.has(&client, "0").await);
}
