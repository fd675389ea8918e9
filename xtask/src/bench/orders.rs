//! A table of orders on the server.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use aws_lambda_events::event::dynamodb::EventRecord;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, PutRequest,
    ScalarAttributeType, StreamSpecification, StreamViewType, WriteRequest,
};
use futures::stream::{self, StreamExt};

/// The most items of one BatchWriteItem.
const WRITE: usize = 25;

pub(super) type Attributes = HashMap<String, AttributeValue>;

pub(super) struct OrderTable {
    pub(super) name: String,
    stream_arn: Option<String>,
}

impl OrderTable {
    /// Creates an empty table.
    pub(super) async fn create(client: &Client, streamed: bool) -> Result<Self> {
        let name = format!("murmur-bench-{:016x}-orders", fastrand::u64(..));
        let id = AttributeDefinition::builder().attribute_name("id");
        let key = KeySchemaElement::builder().attribute_name("id");
        let stream = StreamSpecification::builder()
            .stream_enabled(true)
            .stream_view_type(StreamViewType::NewAndOldImages);
        let created = client
            .create_table()
            .table_name(&name)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(id.attribute_type(ScalarAttributeType::S).build()?)
            .key_schema(key.key_type(KeyType::Hash).build()?)
            .set_stream_specification(streamed.then(|| stream.build()).transpose()?)
            .send()
            .await?;
        let stream_arn = created
            .table_description
            .and_then(|table| table.latest_stream_arn);
        Ok(Self { name, stream_arn })
    }

    pub(super) fn stream_arn(&self) -> Result<&str> {
        let arn = self.stream_arn.as_deref();
        arn.context("the table has no stream")
    }

    /// Puts items, with `at_once` requests of 25 items at once. Each item is generated just before
    /// it is sent.
    pub(super) async fn put(
        &self,
        client: &Client,
        items: impl Iterator<Item = Attributes>,
        at_once: usize,
    ) -> Result<()> {
        let mut items = items.peekable();
        let parts = std::iter::from_fn(|| {
            items.peek()?;
            Some(items.by_ref().take(WRITE).collect())
        });
        let writes = stream::iter(parts).map(|part| self.write(client, part));
        let mut writes = writes.buffer_unordered(at_once);
        while let Some(written) = writes.next().await {
            written?;
        }
        Ok(())
    }

    async fn write(&self, client: &Client, items: Vec<Attributes>) -> Result<()> {
        let put = |item| {
            let put = PutRequest::builder().set_item(Some(item)).build()?;
            Ok(WriteRequest::builder().put_request(put).build())
        };
        let puts: Vec<WriteRequest> = items.into_iter().map(put).collect::<Result<_>>()?;
        let write = client.batch_write_item().request_items(&self.name, puts);
        let left = write.send().await?.unprocessed_items.unwrap_or_default();
        ensure!(left.is_empty(), "the server did not take all puts");
        Ok(())
    }

    pub(super) async fn remove(self, client: &Client) -> Result<()> {
        client.delete_table().table_name(self.name).send().await?;
        Ok(())
    }
}

/// The order of a record as it is stored in a table: about 300 bytes.
pub(super) fn row(record: EventRecord) -> Attributes {
    let mut row: Attributes = record.change.new_image.into();
    let mut text = |name: &str, value: &str| {
        row.insert(name.to_owned(), AttributeValue::S(value.to_owned()));
    };
    text("status", "shipped");
    text("currency", "EUR");
    text("channel", "web");
    text("address", "12 Long Street, 10115 Berlin, Germany");
    text("note", &"please ring twice ".repeat(8));
    row.insert(
        "placed_at".to_owned(),
        AttributeValue::N("1767225600".to_owned()),
    );
    row
}

#[cfg(test)]
mod tests {
    use super::super::workload::{Keys, Workload};
    use super::*;
    use murmur_state::Timestamp;

    #[test]
    fn a_row_has_some_300_bytes() {
        let mut workload = Workload::new(Keys::Zipf, 1);
        let event = workload.batch(1, |_| Timestamp::from_secs(1));
        let row = row(event.records.into_iter().next().unwrap());
        let size = |value: &AttributeValue| match value {
            AttributeValue::S(text) => text.len(),
            AttributeValue::N(digits) => digits.len().div_ceil(2) + 1,
            other => panic!("{other:?}"),
        };
        let bytes: usize = row
            .iter()
            .map(|(name, value)| name.len() + size(value))
            .sum();
        assert!((280..=320).contains(&bytes), "{bytes}");
    }
}
