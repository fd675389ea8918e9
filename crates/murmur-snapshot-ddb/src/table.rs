use std::collections::HashMap;

use aws_sdk_dynamodb::types::{TableDescription, TableStatus};
use murmur_core::Item;
use murmur_snapshot::SourceError;

use crate::attributes::{self, Attributes, RowError};
use crate::error::{self, Operation};
use crate::settings::ScanSettings;

/// What a scan needs to know about its table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) arn: String,
    pub(crate) stream_arn: Option<String>,
    /// An estimate of the number of items; DynamoDB updates it about every six hours.
    pub(crate) rows: Option<u64>,
    /// `None` if the table is billed by request.
    pub(crate) provisioned_read_units: Option<f64>,
    key: Vec<String>,
}

impl Table {
    pub(crate) fn has_key(&self, attribute: &str) -> bool {
        self.key.iter().any(|name| name == attribute)
    }

    /// The primary key among `attributes`.
    pub(crate) fn keys_of(&self, attributes: &Attributes) -> Result<Item, RowError> {
        let mut keys = HashMap::with_capacity(self.key.len());
        for name in &self.key {
            let value = attributes
                .get(name)
                .ok_or_else(|| RowError::NoKey(name.clone()))?;
            keys.insert(name.clone(), value.clone());
        }
        attributes::item(keys)
    }
}

pub(crate) async fn describe(scan: &ScanSettings) -> Result<Table, SourceError> {
    let answer = scan
        .client
        .describe_table()
        .table_name(&scan.table)
        .customize()
        .config_override(scan.of_requests())
        .send()
        .await
        .map_err(|error| error::of(scan, Operation::DescribeTable, error))?;
    let table = answer.table.ok_or_else(|| {
        error::setup(
            scan,
            "the endpoint described no table; check that it is DynamoDB",
        )
    })?;
    usable(scan, &table)?;
    let key: Vec<String> = table
        .key_schema
        .unwrap_or_default()
        .into_iter()
        .map(|element| element.attribute_name)
        .collect();
    if key.is_empty() {
        return Err(error::setup(
            scan,
            "the endpoint named no primary key; check that it is DynamoDB",
        ));
    }
    let units = table
        .provisioned_throughput
        .and_then(|given| given.read_capacity_units);
    let provisioned = units.filter(|units| *units > 0).map(|units| units as f64);
    Ok(Table {
        arn: table.table_arn.unwrap_or_default(),
        stream_arn: table.latest_stream_arn,
        rows: table.item_count.and_then(|rows| u64::try_from(rows).ok()),
        provisioned_read_units: provisioned,
        key,
    })
}

fn usable(scan: &ScanSettings, table: &TableDescription) -> Result<(), SourceError> {
    let advice = match &table.table_status {
        // Some servers do not say.
        None | Some(TableStatus::Active | TableStatus::Updating) => return Ok(()),
        Some(TableStatus::Creating) => {
            "it is being created; run this again once it is ACTIVE".to_owned()
        }
        Some(TableStatus::Deleting) => {
            "it is being deleted; restore it, or name another table".to_owned()
        }
        Some(TableStatus::InaccessibleEncryptionCredentials) => {
            "its encryption key cannot be used; allow DynamoDB to use the KMS key".to_owned()
        }
        Some(other) => format!("its status is {other}; run this again once it is ACTIVE"),
    };
    Err(error::setup(scan, advice))
}
