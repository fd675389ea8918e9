use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TableDescription, TableStatus, TimeToLiveDescription, TimeToLiveSpecification,
    TimeToLiveStatus,
};
use futures::future::join_all;
use murmur_state::error::{Cause, Place};
use murmur_state::time::SystemClock;
use murmur_state::{Clock, StoreError};

use crate::attribute::{PK, SK, TTL};
use crate::error::{Access, store_error};

/// How long a table may take to become active. A new table needs some seconds.
const ACTIVE_WITHIN: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Makes the table of an [`Int64SumStore`](crate::Int64SumStore),
/// [`Int64MaxStore`](crate::Int64MaxStore) or [`Int64MinStore`](crate::Int64MinStore). The table
/// has the keys `pk` (S) and `sk` (N), is billed per request, and has TTL on `ttl`. Returns once it
/// is active, which may take up to five minutes.
///
/// An existing table of that name with the right keys is used as it is. TTL is switched on if it is
/// off.
///
/// # Errors
///
/// [`StoreError::Setup`] if:
///
/// - the table exists with other keys, or with TTL on another attribute;
/// - the table is being deleted;
/// - the table did not become active in time.
///
/// Other errors as the service fails. The call can be repeated after any of them.
///
/// # Cancel safety
///
/// A dropped call may have made the table. Calling again finishes what is missing.
pub async fn create_int64_table(client: &Client, table: &str) -> Result<(), StoreError> {
    create(client, table, STATE, &SystemClock::new()).await
}

/// Makes the table of a [`BytesStore`](crate::BytesStore). Keys, promises, errors and cancel safety
/// are those of [`create_int64_table`]. The two differ only in the type of `v`, which is not part
/// of a table's schema.
pub async fn create_bytes_table(client: &Client, table: &str) -> Result<(), StoreError> {
    create(client, table, STATE, &SystemClock::new()).await
}

/// Makes the marker table of a [`Deduper`](crate::Deduper). The table has the key `pk` (S), is
/// billed per request, and has TTL on `ttl`. Promises, errors and cancel safety are those of
/// [`create_int64_table`].
pub async fn create_dedup_table(client: &Client, table: &str) -> Result<(), StoreError> {
    create(client, table, MARKERS, &SystemClock::new()).await
}

/// Makes the tables of several pipelines concurrently: a state table for each of `states`, and the
/// marker table that they share. Promises and costs are those of [`create_int64_table`], whose
/// schema serves every kind of store.
///
/// A state table belongs to one pipeline. A pipeline in at-least-once mode needs no marker table;
/// make its table with [`create_int64_table`].
///
/// ```no_run
/// # async fn make(client: aws_sdk_dynamodb::Client) -> Result<(), murmur_state::StoreError> {
/// murmur_state_ddb::create_tables(&client, ["order_totals", "order_counts"], "order_markers").await
/// # }
/// ```
///
/// # Errors
///
/// As [`create_int64_table`], for the first table that could not be made. The other tables are made
/// all the same. The call can be repeated.
///
/// # Cancel safety
///
/// A dropped call may have made some of the tables. Calling again finishes what is missing.
pub async fn create_tables<S: AsRef<str>>(
    client: &Client,
    states: impl IntoIterator<Item = S>,
    markers: &str,
) -> Result<(), StoreError> {
    let clock = SystemClock::new();
    let states: Vec<S> = states.into_iter().collect();
    let tables = states.iter().map(|state| (state.as_ref(), STATE));
    let all = tables.chain([(markers, MARKERS)]);
    let made = all.map(|(table, schema)| create(client, table, schema, &clock));
    join_all(made).await.into_iter().collect()
}

type KeySchema = &'static [(&'static str, KeyType, ScalarAttributeType)];

const STATE: KeySchema = &[
    (PK, KeyType::Hash, ScalarAttributeType::S),
    (SK, KeyType::Range, ScalarAttributeType::N),
];
const MARKERS: KeySchema = &[(PK, KeyType::Hash, ScalarAttributeType::S)];

async fn create(
    client: &Client,
    table: &str,
    schema: KeySchema,
    clock: &dyn Clock,
) -> Result<(), StoreError> {
    let creation = Creation {
        client,
        table,
        place: Place::table("create_table", table),
        clock,
    };
    creation.ask_for(schema).await?;
    let made = creation.active().await?;
    creation.check(schema, &made)?;
    creation.switch_ttl_on().await
}

struct Creation<'a> {
    client: &'a Client,
    table: &'a str,
    place: Place,
    clock: &'a dyn Clock,
}

impl Creation<'_> {
    /// Asks the service to create the table. An existing table is as good.
    async fn ask_for(&self, schema: KeySchema) -> Result<(), StoreError> {
        let mut request = self
            .client
            .create_table()
            .table_name(self.table)
            .billing_mode(BillingMode::PayPerRequest);
        for (name, key_type, scalar) in schema {
            let definition = AttributeDefinition::builder()
                .attribute_name(*name)
                .attribute_type(scalar.clone())
                .build();
            let key = KeySchemaElement::builder()
                .attribute_name(*name)
                .key_type(key_type.clone())
                .build();
            let unbuilt = |error| self.setup("the table's keys could not be built", Some(error));
            request = request
                .attribute_definitions(definition.map_err(|e| unbuilt(std::sync::Arc::new(e)))?)
                .key_schema(key.map_err(|e| unbuilt(std::sync::Arc::new(e)))?);
        }
        match request.send().await {
            Ok(_) => Ok(()),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_resource_in_use_exception()) =>
            {
                Ok(())
            }
            Err(error) => Err(self.failed(Access::Write, error)),
        }
    }

    /// Waits until the table is active, and returns its description.
    async fn active(&self) -> Result<TableDescription, StoreError> {
        let until = self.clock.monotonic().saturating_add(ACTIVE_WITHIN);
        loop {
            let answer = self
                .client
                .describe_table()
                .table_name(self.table)
                .send()
                .await;
            // Right after the request, DescribeTable may not find the table yet.
            let found = match answer {
                Ok(answer) => answer.table,
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(|e| e.is_resource_not_found_exception()) =>
                {
                    None
                }
                Err(error) => return Err(self.failed(Access::Read, error)),
            };
            match found.as_ref().and_then(TableDescription::table_status) {
                // A table stays usable while its stream or indexes are being updated.
                Some(TableStatus::Active | TableStatus::Updating) => {
                    return found.ok_or_else(|| self.setup("the table has no description", None));
                }
                Some(TableStatus::Deleting) => {
                    return Err(self.setup(
                        "the table is being deleted; wait until it is gone, then create it",
                        None,
                    ));
                }
                _ if self.clock.monotonic() >= until => {
                    return Err(self.setup(
                        "the table did not become active within five minutes; look at it in the \
                         console, then create it again",
                        None,
                    ));
                }
                _ => self.clock.sleep(LOOK_EVERY).await,
            }
        }
    }

    fn check(&self, schema: KeySchema, made: &TableDescription) -> Result<(), StoreError> {
        let types = made.attribute_definitions();
        let found: Vec<String> = made
            .key_schema()
            .iter()
            .map(|key| {
                let name = key.attribute_name();
                let scalar = types
                    .iter()
                    .find(|definition| definition.attribute_name() == name);
                let scalar = scalar.map_or("?", |definition| definition.attribute_type().as_str());
                format!("{name} {scalar} {}", key.key_type().as_str())
            })
            .collect();
        let wanted: Vec<String> = schema
            .iter()
            .map(|(name, key_type, scalar)| {
                format!("{name} {} {}", scalar.as_str(), key_type.as_str())
            })
            .collect();
        if found == wanted {
            return Ok(());
        }
        let (found, wanted) = (found.join(", "), wanted.join(", "));
        let advice = format!(
            "the table exists with the keys ({found}), but ({wanted}) are needed; choose another \
             name, or delete the table if it is not needed"
        );
        Err(self.setup(advice, None))
    }

    async fn switch_ttl_on(&self) -> Result<(), StoreError> {
        if self.ttl_is_on().await? {
            return Ok(());
        }
        let specification = TimeToLiveSpecification::builder()
            .enabled(true)
            .attribute_name(TTL)
            .build()
            .map_err(|error| {
                self.setup(
                    "the request to switch TTL on could not be built",
                    Some(std::sync::Arc::new(error)),
                )
            })?;
        let result = self
            .client
            .update_time_to_live()
            .table_name(self.table)
            .time_to_live_specification(specification)
            .send()
            .await;
        match result {
            Ok(_) => Ok(()),
            // The service refuses if another process switched TTL on first, which is fine.
            Err(_) if self.ttl_is_on().await? => Ok(()),
            Err(error) => Err(self.failed(Access::Write, error)),
        }
    }

    async fn ttl_is_on(&self) -> Result<bool, StoreError> {
        let answer = self
            .client
            .describe_time_to_live()
            .table_name(self.table)
            .send()
            .await
            .map_err(|error| self.failed(Access::Read, error))?;
        let found = answer.time_to_live_description;
        let attribute = found
            .as_ref()
            .and_then(TimeToLiveDescription::attribute_name);
        match found
            .as_ref()
            .and_then(TimeToLiveDescription::time_to_live_status)
        {
            Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling) => match attribute {
                Some(TTL) => Ok(true),
                other => Err(self.setup(
                    format!(
                        "TTL is on for attribute `{}`, but `{TTL}` is needed; switch TTL to \
                         `{TTL}`, or choose another table",
                        other.unwrap_or_default()
                    ),
                    None,
                )),
            },
            Some(TimeToLiveStatus::Disabling) => Err(self.setup(
                "TTL is being switched off, which takes up to an hour; create the table again \
                 after that",
                None,
            )),
            _ => Ok(false),
        }
    }

    fn setup(&self, advice: impl Into<String>, source: Option<Cause>) -> StoreError {
        StoreError::Setup {
            place: self.place.clone(),
            advice: advice.into(),
            source,
        }
    }

    fn failed<E>(&self, access: Access, error: SdkError<E>) -> StoreError
    where
        E: aws_sdk_dynamodb::error::ProvideErrorMetadata
            + std::error::Error
            + Send
            + Sync
            + 'static,
    {
        store_error(&self.place, access, error)
    }
}

#[cfg(test)]
mod tests {
    use murmur_state::Timestamp;
    use murmur_state::time::ManualClock;
    use murmur_testkit::Dynamo;
    use murmur_testkit::wire::{Action, Wire};
    use serde_json::json;

    use super::*;

    /// Runs a creation against a server on which the table has `status` from the `ready`-th
    /// DescribeTable on, and does not exist before.
    async fn create_on(status: &'static str, ready: usize) -> (Result<(), StoreError>, Wire) {
        let dynamo = Dynamo::connect().await;
        let wire = Wire::new(move |request| {
            let answer = match request.operation.as_str() {
                "DescribeTable" if request.nth < ready => {
                    return Action::error(400, "ResourceNotFoundException", "");
                }
                "DescribeTable" => json!({ "Table": {
                    "TableStatus": status,
                    "KeySchema": [{ "AttributeName": "pk", "KeyType": "HASH" }],
                    "AttributeDefinitions": [{ "AttributeName": "pk", "AttributeType": "S" }],
                }}),
                "DescribeTimeToLive" => json!({ "TimeToLiveDescription": {
                    "TimeToLiveStatus": "ENABLING", "AttributeName": "ttl",
                }}),
                _ => json!({}),
            };
            Action::Answer {
                status: 200,
                body: answer.to_string(),
            }
        });
        let clock = ManualClock::new(Timestamp::from_secs(0));
        let result = create(&wire.client(&dynamo), "markers", MARKERS, &clock).await;
        (result, wire)
    }

    #[tokio::test]
    async fn it_waits_for_a_table_that_is_not_known_yet() {
        let (result, wire) = create_on("ACTIVE", 3).await;
        result.unwrap();
        assert_eq!(wire.count("DescribeTable"), 4);
        assert_eq!(
            wire.count("UpdateTimeToLive"),
            0,
            "TTL is being switched on already"
        );
    }

    #[tokio::test]
    async fn it_does_not_wait_for_ever() {
        let (result, wire) = create_on("CREATING", 0).await;
        let shown = result.unwrap_err().to_string();
        assert!(
            shown.contains("`markers`") && shown.contains("five minutes"),
            "{shown}"
        );
        assert_eq!(wire.count("DescribeTable"), 301);
    }

    #[tokio::test]
    async fn a_table_being_deleted_is_not_waited_for() {
        let (result, _) = create_on("DELETING", 0).await;
        assert!(result.unwrap_err().to_string().contains("being deleted"));
    }
}
