//! The template says what the README says, and grants what the application does, no more.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use murmur_core::Processor;
use murmur_core::audit::AuditOptions;
use murmur_lambda_ddbstreams::{Event, Handler};
use murmur_snapshot::{Bootstrap, Reconcile};
use murmur_snapshot_ddb::ParallelScan;
use murmur_testkit::wire::{Request, Wire};
use order_totals::Tables;
use serde_json::{Value, json};

use crate::support::{App, change, image, rows, section};

fn template() -> Value {
    serde_saphyr::from_str(include_str!("../../template.yaml")).unwrap()
}

fn properties(resource: &str) -> Value {
    template()["Resources"][resource]["Properties"].clone()
}

/// The resource or parameter that a property refers to.
fn target(value: &Value) -> String {
    if let Some(name) = value["Ref"].as_str() {
        return name.to_owned();
    }
    if let Some(name) = value["Fn::GetAtt"][0].as_str() {
        return name.to_owned();
    }
    let text = value["Fn::Sub"].as_str().expect("a reference");
    let (_, table) = text.split_once(":table/").expect("a table's ARN");
    table.replace(['$', '{', '}'], "")
}

/// A setting as the README writes it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Object(on) if on.contains_key("OnFailure") => {
            format!("OnFailure: {}", target(&value["OnFailure"]["Destination"]))
        }
        other => other.to_string(),
    }
}

#[test]
fn the_mappings_settings_are_those_of_the_readme() {
    let mapping = properties("Mapping");
    let settings: BTreeSet<_> = mapping
        .as_object()
        .unwrap()
        .iter()
        // What it connects is no setting.
        .filter(|(name, _)| !["FunctionName", "EventSourceArn"].contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), shown(value)))
        .collect();
    let named: BTreeSet<_> = rows(section("mapping-settings"))
        .into_iter()
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    assert_eq!(settings, named);
    assert_eq!(named.len(), 9);
}

#[test]
fn the_projects_docs_have_the_same_tables() {
    let page = include_str!("../../../../docs/deploying.md");
    for name in ["mapping-settings", "permissions"] {
        assert!(page.contains(section(name)), "{name}");
    }
}

/// Role, resources and actions of each statement.
type Grants = BTreeSet<(String, Vec<String>, Vec<String>)>;

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or(vec![value.clone()])
}

fn granted() -> Grants {
    let policy = |name: &'static str| (name, properties(name)["PolicyDocument"].clone());
    let functions = properties("FunctionRole")["Policies"][0]["PolicyDocument"].clone();
    let documents = [
        ("FunctionRole", functions),
        policy("BootstrapPolicy"),
        policy("RunPolicy"),
        policy("RepairPolicy"),
    ];
    assert_eq!(list(&properties("FunctionRole")["Policies"]).len(), 1);
    let mut grants = Grants::new();
    for (role, document) in documents {
        for statement in document["Statement"].as_array().unwrap() {
            assert_eq!(statement["Effect"], "Allow");
            let resources = list(&statement["Resource"]).iter().map(target).collect();
            let actions = list(&statement["Action"]).iter().map(shown).collect();
            grants.insert((role.to_owned(), resources, actions));
        }
    }
    grants
}

#[test]
fn the_permissions_are_those_of_the_readme() {
    let words = |cell: &str| cell.split_whitespace().map(str::to_owned).collect();
    let named: Grants = rows(section("permissions"))
        .into_iter()
        .map(|row| (row[0].clone(), words(&row[1]), words(&row[2])))
        .collect();
    assert_eq!(granted(), named);
    for (_, _, actions) in granted() {
        assert!(
            !actions.iter().any(|action| action.contains('*')),
            "{actions:?}"
        );
    }
}

/// What a role may do, as `resource action`, table by table.
fn table_grants(role: &str) -> BTreeSet<String> {
    let own = granted().into_iter().filter(|(of, ..)| of == role);
    let pairs = own.flat_map(|(_, resources, actions)| {
        let pair = move |resource: String| {
            let actions = actions.clone().into_iter();
            actions.filter_map(move |action| {
                Some(format!("{resource} {}", action.strip_prefix("dynamodb:")?))
            })
        };
        resources.into_iter().flat_map(pair).collect::<Vec<_>>()
    });
    pairs
        .filter(|pair| !pair.to_lowercase().contains("stream"))
        .collect()
}

/// What was sent over `wire`, in the same words: a transaction needs what its actions need.
fn used(wire: &Wire, app: &App) -> BTreeSet<String> {
    let Tables {
        totals,
        counts,
        markers,
    } = &app.tables;
    let name = |table: &str| match table {
        table if table == totals => "TotalsTable",
        table if table == counts => "CountsTable",
        table if table == markers => "MarkerTable",
        table if table == app.orders => "OrdersTable",
        other => panic!("`{other}`"),
    };
    let uses = |Request {
                    operation, body, ..
                }: Request|
     -> Vec<String> {
        let on = |table: &Value, operation: &str| {
            format!("{} {operation}", name(table.as_str().expect("a table")))
        };
        match operation.as_str() {
            "BatchGetItem" => {
                let tables = body["RequestItems"].as_object().expect("tables").keys();
                tables.map(|table| on(&json!(table), &operation)).collect()
            }
            "TransactWriteItems" => {
                let actions = body["TransactItems"].as_array().expect("actions").iter();
                let actions = actions.flat_map(|action| action.as_object().expect("an action"));
                actions
                    .map(|(kind, action)| match kind.as_str() {
                        "ConditionCheck" => on(&action["TableName"], "ConditionCheckItem"),
                        kind => on(&action["TableName"], &format!("{kind}Item")),
                    })
                    .collect()
            }
            operation => vec![on(&body["TableName"], operation)],
        }
    };
    wire.requests().into_iter().flat_map(uses).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_functions_role_grants_exactly_what_it_does() {
    let (app, wire) = (App::start().await, Wire::calm());
    let pipelines = app.tables.pipelines(&wire.client(&app.dynamo)).unwrap();
    let handler = Handler::new(Processor::new(pipelines).unwrap());
    let (batches, size) = (3, 50);
    for batch in 0..batches {
        let order = |n: u32| {
            let id = format!("o-{n}");
            change(n, &id, None, Some(image(&id, ("alice", 1))))
        };
        let records: Vec<_> = (batch * size..(batch + 1) * size).map(order).collect();
        let event: Event = serde_json::from_value(json!({ "Records": records })).unwrap();
        let answer = handler.call(event).await.unwrap();
        assert_eq!(answer.batch_item_failures.len(), 0);
    }
    let all = i64::from(batches * size);
    assert_eq!(app.state("alice").await, (Some(all), Some(all)));
    assert!(wire.count("TransactWriteItems") > 0);
    assert_eq!(used(&wire, &app), table_grants("FunctionRole"));
}

/// Counts the table of orders, its requests going by `client`.
async fn bootstrap(app: &App, client: &Client) {
    let pipelines = app.tables.pipelines(client).unwrap();
    let source = ParallelScan::builder(client.clone(), app.orders.as_str())
        .streams(app.dynamo.streams())
        .build()
        .unwrap();
    Bootstrap::builder(Processor::new(pipelines).unwrap(), source)
        .build()
        .unwrap()
        .run()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bootstraps_policy_grants_exactly_what_it_does() {
    let (app, wire) = (App::start().await, Wire::calm());
    app.put_order("o-1", ("alice", 1250)).await;
    bootstrap(&app, &wire.client(&app.dynamo)).await;
    assert_eq!(app.state("alice").await, (Some(1250), Some(1)));
    assert_eq!(used(&wire, &app), table_grants("BootstrapPolicy"));
}

/// Leaves the control rows in the marker table as an earlier release has written them.
async fn forget_what_is_new(app: &App) {
    let rows = app.client.scan().table_name(&app.tables.markers);
    for row in rows.send().await.unwrap().items() {
        if row.contains_key("life") {
            let update = app.client.update_item().table_name(&app.tables.markers);
            let update = update.key("pk", row["pk"].clone());
            let update = update.update_expression("REMOVE #d, #r");
            let update = update.expression_attribute_names("#d", "definition");
            let update = update.expression_attribute_names("#r", "region");
            update.send().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_for_repairs_grants_exactly_what_they_do() {
    let (app, wire) = (App::start().await, Wire::calm());
    app.put_order("o-1", ("alice", 1250)).await;
    app.put_order("o-2", ("alice", 100)).await;
    bootstrap(&app, &app.client).await;
    forget_what_is_new(&app).await;
    // Live is told of none of these.
    app.put_order("o-1", ("alice", 1000)).await;
    app.delete_order("o-2").await;
    app.put_order("o-3", ("alice", 7)).await;

    let client = wire.client(&app.dynamo);
    let pipelines = || app.tables.pipelines(&client).unwrap();
    let orders = ParallelScan::builder(client.clone(), app.orders.as_str());
    let reconcile = Reconcile::builder(
        Processor::new(pipelines()).unwrap(),
        orders.build().unwrap(),
    )
    .lag(Duration::ZERO);
    assert!(
        reconcile
            .repair()
            .build()
            .unwrap()
            .run()
            .await
            .unwrap()
            .is_clean()
    );
    assert_eq!(app.state("alice").await, (Some(1007), Some(2)));
    let processor = Processor::new(pipelines()).unwrap();
    let audited = processor
        .audit(&AuditOptions::default().max_listed(10))
        .await
        .unwrap();
    assert!(audited.iter().all(|of| of.differing == 0));
    assert_eq!(used(&wire, &app), table_grants("RepairPolicy"));
}

/// That it does all of this, and nothing else, is shown where it is killed. It forgets shards that
/// are gone by what the bootstrap forgets its segments by.
#[test]
fn who_runs_both_may_do_what_both_do() {
    let mut both = table_grants("BootstrapPolicy");
    both.extend(table_grants("FunctionRole"));
    assert_eq!(table_grants("RunPolicy"), both);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_are_those_the_helpers_make_with_ttl() {
    let app = App::start().await;
    for (resource, table) in [
        ("TotalsTable", &app.tables.totals),
        ("CountsTable", &app.tables.counts),
        ("MarkerTable", &app.tables.markers),
    ] {
        let properties = properties(resource);
        let pairs = |list: &Value, kind: &str| -> BTreeSet<(String, String)> {
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            let list = list.as_array().unwrap().iter();
            list.map(|entry| (text(&entry["AttributeName"]), text(&entry[kind])))
                .collect()
        };
        let made = app
            .client
            .describe_table()
            .table_name(table)
            .send()
            .await
            .unwrap();
        let made = made.table.unwrap();
        let keys = made.key_schema().iter().map(|key| {
            (
                key.attribute_name().to_owned(),
                key.key_type().as_str().to_owned(),
            )
        });
        let types = made.attribute_definitions().iter().map(|attribute| {
            let kind = attribute.attribute_type().as_str().to_owned();
            (attribute.attribute_name().to_owned(), kind)
        });
        assert_eq!(pairs(&properties["KeySchema"], "KeyType"), keys.collect());
        assert_eq!(
            pairs(&properties["AttributeDefinitions"], "AttributeType"),
            types.collect()
        );
        let ttl = json!({ "AttributeName": "ttl", "Enabled": true });
        assert_eq!(properties["TimeToLiveSpecification"], ttl);
        assert_eq!(
            template()["Resources"][resource]["DeletionPolicy"],
            "Retain"
        );
    }
}

#[test]
fn the_function_is_told_its_tables_and_the_names_in_the_template_exist() {
    let function = properties("Function");
    let variables = &function["Environment"]["Variables"];
    let tables = Tables::from_variables(|name| Some(target(&variables[name])));
    let expected = Tables {
        totals: "TotalsTable".into(),
        counts: "CountsTable".into(),
        markers: "MarkerTable".into(),
    };
    assert_eq!(tables, Ok(expected));
    assert_eq!(function["Architectures"], json!(["arm64"]));
    assert_eq!(target(&function["Role"]), "FunctionRole");

    fn references(value: &Value, into: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                for key in ["Ref", "Fn::GetAtt"] {
                    if map.contains_key(key) {
                        into.insert(target(value));
                    }
                }
                map.values().for_each(|value| references(value, into));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, into)),
            _ => {}
        }
    }
    let template = template();
    let mut referred = BTreeSet::new();
    references(&template, &mut referred);
    assert!(referred.len() > 8, "{referred:?}");
    for name in referred {
        let known = ["Resources", "Parameters"].map(|part| !template[part][&name].is_null());
        assert_ne!(known, [false, false], "{name}");
    }
}
