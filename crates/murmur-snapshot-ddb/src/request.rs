use aws_sdk_dynamodb::operation::scan::ScanOutput;
use aws_sdk_dynamodb::types::ReturnConsumedCapacity;
use murmur_snapshot::SourceError;

use crate::attributes::Attributes;
use crate::error::{self, Operation};
use crate::settings::ScanSettings;

/// Requests a page of at most `limit` items.
pub(crate) async fn scan(
    settings: &ScanSettings,
    segment: u32,
    start: Option<Attributes>,
    limit: i32,
) -> Result<ScanOutput, SourceError> {
    // Both are at most 1,000,000.
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let mut request = settings
        .client
        .scan()
        .table_name(&settings.table)
        .segment(number(segment))
        .total_segments(number(settings.segments))
        .limit(limit)
        .consistent_read(settings.consistent)
        .return_consumed_capacity(ReturnConsumedCapacity::Total)
        .set_exclusive_start_key(start);
    if let Some(filter) = &settings.filter {
        // The service refuses an empty map.
        let names = Some(filter.names.clone()).filter(|names| !names.is_empty());
        let values = Some(filter.values.clone()).filter(|values| !values.is_empty());
        request = request
            .filter_expression(&filter.expression)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(values);
    }
    request
        .customize()
        .config_override(settings.of_requests())
        .send()
        .await
        .map_err(|error| error::of(settings, Operation::Scan, error))
}
