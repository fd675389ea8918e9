use std::fmt;

use chrono::DateTime;
use murmur_state::{HandoffToken, Timestamp};
use serde::{Deserialize, Deserializer, de};

/// An event source mapping as Lambda describes it: the output of `aws lambda
/// get-event-source-mapping --uuid …`.
///
/// Lambda cannot start at a [`HandoffToken`]. But a mapping that existed before the token was
/// captured, starts at the oldest record and leaves nothing out reads everything that the token
/// asks for, and more. [`check`](Mapping::check) tells whether a mapping is like that. A ledger
/// absorbs the additional changes.
///
/// ```
/// # use murmur_state::{HandoffToken, Timestamp};
/// use murmur_lambda_ddbstreams::Mapping;
///
/// let printed = r#"{
///     "EventSourceArn": "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/2026-01-01T00:00:00.000",
///     "StartingPosition": "LATEST",
///     "State": "Enabled",
///     "LastModified": "2026-11-21T09:00:00+00:00",
///     "FunctionResponseTypes": ["ReportBatchItemFailures"]
/// }"#;
/// let mapping: Mapping = serde_json::from_str(printed)?;
/// # let token = HandoffToken::new("arn:aws:dynamodb:eu-west-1:1:table/orders/stream/2026-01-01T00:00:00.000", Timestamp::from_secs(1_795_300_000), Vec::new());
/// let unfit = mapping.check(&token).unwrap_err();
/// assert!(unfit.to_string().contains("TRIM_HORIZON"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Mapping {
    event_source_arn: String,
    starting_position: String,
    state: String,
    #[serde(deserialize_with = "time")]
    last_modified: Timestamp,
    #[serde(default)]
    function_response_types: Vec<String>,
    #[serde(default)]
    tumbling_window_in_seconds: u32,
    #[serde(default)]
    filter_criteria: FilterCriteria,
    /// -1 means no limit, as does a missing setting.
    maximum_retry_attempts: Option<i64>,
    /// In seconds. -1 as above.
    maximum_record_age_in_seconds: Option<i64>,
    destination_config: Option<DestinationConfig>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct FilterCriteria {
    filters: Vec<de::IgnoredAny>,
}

/// Where Lambda sends records that the mapping gives up.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DestinationConfig {
    on_failure: Option<OnFailure>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OnFailure {
    destination: Option<String>,
}

/// Everything that is wrong with an event source mapping, each with what to do.
#[derive(Clone, PartialEq, Eq)]
pub struct MappingUnfit(Vec<String>);

murmur_state::debug_as_message!(MappingUnfit);

impl MappingUnfit {
    /// What is wrong, one sentence each.
    pub fn reasons(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for MappingUnfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the event source mapping does not deliver what the bootstrap relies on: {}",
            self.0.join("; ")
        )
    }
}

impl std::error::Error for MappingUnfit {}

impl Mapping {
    /// Checks that this mapping delivers every change made since `token` was captured, or before.
    ///
    /// # Errors
    ///
    /// [`MappingUnfit`] names every reason why it may not:
    ///
    /// - it reads another stream, or has another starting position;
    /// - its state is not `Enabled`;
    /// - it was changed after the capture, so it may have been disabled at that time;
    /// - it has a filter;
    /// - it has a limit after which it gives changes up, and no destination for them;
    /// - it has settings with which this crate's handler cannot work.
    pub fn check(&self, token: &HandoffToken) -> Result<(), MappingUnfit> {
        let Self {
            event_source_arn,
            starting_position,
            state,
            last_modified,
            function_response_types,
            tumbling_window_in_seconds,
            filter_criteria,
            maximum_retry_attempts,
            maximum_record_age_in_seconds,
            destination_config,
        } = self;
        let mut wrong = Vec::new();
        if *event_source_arn != token.stream_arn {
            wrong.push(format!(
                "it reads `{event_source_arn}`, but the bootstrap relies on `{}`; make a mapping of \
                 that stream",
                token.stream_arn
            ));
        }
        if starting_position != "TRIM_HORIZON" {
            wrong.push(format!(
                "it begins at {starting_position}, so it misses the changes before it was ready; make \
                 a new one with TRIM_HORIZON, and bootstrap after that"
            ));
        }
        if state != "Enabled" {
            wrong.push(format!(
                "its state is {state}; enable it, wait until it says Enabled, and bootstrap after that"
            ));
        }
        if *last_modified > token.captured_at {
            wrong.push(
                "it was changed after the handoff token was captured, so it may have been disabled \
                 at that time; start the bootstrap after the last change of the mapping"
                    .to_owned(),
            );
        }
        if !filter_criteria.filters.is_empty() {
            wrong.push(
                "it has filter criteria, which leave changes out; remove them, and let the \
                 decoder skip what does not count"
                    .to_owned(),
            );
        }
        let reports = |kind: &String| kind == "ReportBatchItemFailures";
        if !function_response_types.iter().any(reports) {
            wrong.push(
                "its function response types lack ReportBatchItemFailures, so Lambda treats failed \
                 records as done; add it"
                    .to_owned(),
            );
        }
        if *tumbling_window_in_seconds > 0 {
            wrong.push(
                "it has a tumbling window, which this handler does not support; set it to 0".into(),
            );
        }
        let limits: Vec<String> = [
            ("MaximumRetryAttempts", maximum_retry_attempts),
            ("MaximumRecordAgeInSeconds", maximum_record_age_in_seconds),
        ]
        .into_iter()
        .filter_map(|(setting, limit)| Some((setting, limit.filter(|limit| *limit >= 0)?)))
        .map(|(setting, limit)| format!("{setting} is {limit}"))
        .collect();
        let on_failure = destination_config
            .as_ref()
            .and_then(|config| config.on_failure.as_ref()?.destination.as_deref());
        if !limits.is_empty() && on_failure.unwrap_or_default().is_empty() {
            wrong.push(format!(
                "its {}, and it has no destination on failure, so the changes it gives up are lost \
                 without a notice; set DestinationConfig.OnFailure to a queue or a topic, or the \
                 limits to -1",
                limits.join(" and ")
            ));
        }
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(MappingUnfit(wrong)),
        }
    }
}

/// A time as the versions of the AWS CLI print it: a text, or seconds.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Time {
        Seconds(f64),
        Text(String),
    }
    match Time::deserialize(deserializer)? {
        Time::Seconds(seconds) => Ok(Timestamp::from_millis((seconds * 1000.0) as i64)),
        Time::Text(text) => DateTime::parse_from_rfc3339(&text)
            .map(|time| Timestamp::from_millis(time.timestamp_millis()))
            .map_err(|error| de::Error::custom(format!("LastModified `{text}`: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ARN: &str =
        "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-01-01T00:00:00.000";

    /// A mapping roughly as the CLI prints it.
    fn printed() -> Value {
        json!({
            "UUID": "14e0db71-5d35-4eb5-b481-8945cf9d10c2",
            "StartingPosition": "TRIM_HORIZON",
            "BatchSize": 1000,
            "MaximumBatchingWindowInSeconds": 1,
            "ParallelizationFactor": 1,
            "EventSourceArn": ARN,
            "FunctionArn": "arn:aws:lambda:eu-west-1:123456789012:function:live",
            "LastModified": "2026-11-21T10:17:23.350000+01:00",
            "LastProcessingResult": "OK",
            "State": "Enabled",
            "StateTransitionReason": "User action",
            "DestinationConfig": {
                "OnFailure": { "Destination": "arn:aws:sqs:eu-west-1:123456789012:failed" },
            },
            "MaximumRecordAgeInSeconds": 43200,
            "BisectBatchOnFunctionError": true,
            "MaximumRetryAttempts": 100,
            "TumblingWindowInSeconds": 0,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
        })
    }

    /// 2026-11-21T09:17:24Z, which is after the mapping's last change.
    const LATER: i64 = 1_795_252_644;

    fn check(printed: Value, captured_at: i64) -> Result<(), MappingUnfit> {
        let mapping: Mapping = serde_json::from_value(printed).unwrap();
        let captured_at = Timestamp::from_secs(captured_at);
        mapping.check(&HandoffToken::new(ARN, captured_at, Vec::new()))
    }

    #[test]
    fn a_mapping_that_was_there_before_the_capture_fits() {
        assert_eq!(check(printed(), LATER), Ok(()));
        let mut old = printed();
        old["LastModified"] = json!(LATER as f64 - 0.65);
        assert_eq!(check(old, LATER), Ok(()));
    }

    #[test]
    fn whatever_would_leave_changes_out_is_named() {
        for (field, value, word) in [
            ("EventSourceArn", json!("arn/2"), "`arn/2`"),
            ("StartingPosition", json!("LATEST"), "begins at LATEST"),
            ("State", json!("Disabled"), "Disabled"),
            ("State", json!("Creating"), "Creating"),
            (
                "LastModified",
                json!(LATER as f64 + 0.1),
                "was changed after",
            ),
            (
                "FilterCriteria",
                json!({ "Filters": [{ "Pattern": "{}" }] }),
                "filter criteria",
            ),
            (
                "FunctionResponseTypes",
                json!([]),
                "ReportBatchItemFailures",
            ),
            ("TumblingWindowInSeconds", json!(30), "tumbling window"),
        ] {
            let mut mapping = printed();
            mapping[field] = value;
            let unfit = check(mapping, LATER).unwrap_err();
            assert_eq!(unfit.reasons().len(), 1, "{unfit}");
            assert!(unfit.to_string().contains(word), "{unfit}");
        }
        let mut worse = printed();
        worse["State"] = json!("Disabled");
        worse["StartingPosition"] = json!("LATEST");
        assert_eq!(check(worse, LATER).unwrap_err().reasons().len(), 2);
    }

    #[test]
    fn whatever_is_given_up_has_to_be_told_to_somebody() {
        let nobody = [
            Value::Null,
            json!({}),
            json!({ "OnFailure": {} }),
            json!({ "OnFailure": { "Destination": "" } }),
        ];
        for destination in nobody {
            for (retries, age, words) in [
                (json!(100), json!(-1), "MaximumRetryAttempts is 100"),
                (json!(0), json!(null), "MaximumRetryAttempts is 0"),
                (
                    json!(-1),
                    json!(43200),
                    "MaximumRecordAgeInSeconds is 43200",
                ),
                (
                    json!(3),
                    json!(60),
                    "is 3 and MaximumRecordAgeInSeconds is 60",
                ),
            ] {
                let mut mapping = printed();
                mapping["DestinationConfig"] = destination.clone();
                mapping["MaximumRetryAttempts"] = retries;
                mapping["MaximumRecordAgeInSeconds"] = age;
                let unfit = check(mapping, LATER).unwrap_err();
                assert_eq!(unfit.reasons().len(), 1, "{unfit}");
                assert!(unfit.to_string().contains(words), "{unfit}");
                assert!(unfit.to_string().contains("OnFailure"), "{unfit}");
            }
            let mut without_limits = printed();
            without_limits["DestinationConfig"] = destination;
            without_limits["MaximumRetryAttempts"] = json!(-1);
            without_limits["MaximumRecordAgeInSeconds"] = json!(-1);
            assert_eq!(check(without_limits, LATER), Ok(()));
        }
        let mut silent = printed();
        let fields = silent.as_object_mut().unwrap();
        for field in [
            "DestinationConfig",
            "MaximumRetryAttempts",
            "MaximumRecordAgeInSeconds",
        ] {
            fields.remove(field);
        }
        assert_eq!(check(silent, LATER), Ok(()), "absent is without limit");
    }

    #[test]
    fn what_is_no_mapping_is_an_error() {
        let parse = |value: Value| serde_json::from_value::<Mapping>(value);
        assert!(parse(json!({})).is_err());
        let mut odd = printed();
        odd["LastModified"] = json!("yesterday");
        assert!(parse(odd).unwrap_err().to_string().contains("yesterday"));
    }
}
