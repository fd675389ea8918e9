use aws_sdk_dynamodbstreams::Client;
use murmur_snapshot::SourceError;
use murmur_state::{HandoffToken, Timestamp};
use murmur_streams::source::StreamDescription;
use murmur_streams::{StreamInfo, describe_stream, describe_stream_info};

use crate::error;
use crate::settings::ScanSettings;
use crate::table::{self, Table};

/// Captures the handoff token; `None` without a streams client.
pub(crate) async fn capture(scan: &ScanSettings) -> Result<Option<HandoffToken>, SourceError> {
    if scan.streams.is_none() {
        return Ok(None);
    }
    // Taken first, so that a token is never taken for younger than it is.
    let captured_at = scan.clock.now();
    // Described again, because the stream may have been switched on since.
    let table = table::describe(scan).await?;
    let Some((client, arn)) = stream_of(scan, &table)? else {
        return Ok(None);
    };
    let description = describe_stream(client, arn).await;
    let description = description.map_err(|error| error::of_stream(scan, error))?;
    let enabled = description.ensure_enabled();
    enabled.map_err(|error| error::of_stream(scan, error))?;
    Ok(Some(token(&description, captured_at)))
}

/// The stream that will be read after the scan, without its shards. Checks that it belongs to
/// `table` and is enabled. `None` without a streams client.
pub(crate) async fn stream(
    scan: &ScanSettings,
    table: &Table,
) -> Result<Option<StreamInfo>, SourceError> {
    let Some((client, arn)) = stream_of(scan, table)? else {
        return Ok(None);
    };
    let info = describe_stream_info(client, arn).await;
    let info = info.map_err(|error| error::of_stream(scan, error))?;
    let enabled = info.ensure_enabled();
    enabled.map_err(|error| error::of_stream(scan, error))?;
    Ok(Some(info))
}

/// The client and the ARN of the stream that will be read after the scan, a stream of `table`.
/// `None` without a streams client.
fn stream_of<'a>(
    scan: &'a ScanSettings,
    table: &'a Table,
) -> Result<Option<(&'a Client, &'a str)>, SourceError> {
    let Some(client) = &scan.streams else {
        return Ok(None);
    };
    let arn = match (&scan.stream_arn, &table.stream_arn) {
        (Some(given), _) => given,
        (None, Some(latest)) => latest,
        (None, None) => {
            return Err(error::setup(
                scan,
                "it has no stream; switch one on (NEW_AND_OLD_IMAGES suits every pipeline), or \
                 leave `streams` out and start the stream consumer at the right place yourself",
            ));
        }
    };
    // A stream's ARN is the table's ARN, `/stream/` and a label (Amazon DynamoDB Developer Guide).
    let of_table = arn.split_once("/stream/").map(|(table, _)| table);
    if of_table != Some(table.arn.as_str()) {
        return Err(error::setup(
            scan,
            format!(
                "`stream_arn` is `{arn}`, which is not a stream of `{}`; give a stream of this table, \
                 or leave the option out for its latest one",
                table.arn
            ),
        ));
    }
    Ok(Some((client, arn)))
}

fn token(description: &StreamDescription, captured_at: Timestamp) -> HandoffToken {
    HandoffToken::new(
        description.info.stream_arn.as_str(),
        captured_at,
        description
            .closed()
            .into_iter()
            .map(str::to_owned)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use murmur_state::SequenceNumber;
    use murmur_streams::source::ShardInfo;
    use murmur_streams::{StreamInfo, StreamViewType};

    #[test]
    fn a_shard_is_closed_with_an_ending_and_a_listed_child_only() {
        let number = |n: &str| SequenceNumber::new(n).unwrap();
        let shard = |id: &str, parent: Option<&str>, ending: Option<&str>| {
            let mut shard = ShardInfo::new(id, parent.map(str::to_owned));
            (shard.first, shard.ending) = (Some(number("100")), ending.map(number));
            shard
        };
        let description = StreamDescription::new(
            StreamInfo::new("arn/t/stream/1", StreamViewType::NewAndOldImages),
            vec![
                shard("both", Some("gone"), Some("200")),
                shard("ending-only", None, Some("200")),
                shard("child-only", None, None),
                shard("neither", Some("both"), None),
                shard("other", Some("child-only"), None),
            ],
        );
        let token = token(&description, Timestamp::from_secs(7));
        assert_eq!(token.closed.iter().collect::<Vec<_>>(), ["both"]);
        assert_eq!(token.stream_arn, "arn/t/stream/1");
        assert_eq!(token.captured_at, Timestamp::from_secs(7));
    }
}
