//! The refusals that a local server never returns, in AWS's words.
//!
//! Source:
//! <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html> and
//! `CancellationReasons` there.

use serde_json::{Map, Value, json};

use super::server::Answer;

const ONGOING: &str = "Transaction is ongoing for the item";
const EXCEEDED: &str = "The level of configured provisioned throughput for the table was exceeded. \
                        Consider increasing your provisioning level with the UpdateTable API.";
const OTHER_SCHEMA: &str = "The provided key element does not match the schema";
const TOO_FAST: &str = "Throughput exceeds the current capacity of your table or index. DynamoDB is \
                        automatically scaling your table or index so please try again shortly.";

/// A plain write met a held item.
pub(super) fn conflict() -> Answer {
    Answer::error(400, "TransactionConflictException", ONGOING)
}

/// A transaction met held items: those with a true entry.
pub(super) fn cancelled_by_conflict(held: &[bool]) -> Answer {
    cancelled(held, "TransactionConflict", ONGOING)
}

/// A transaction met items that have reached their write limit.
pub(super) fn cancelled_by_throttling(throttled: &[bool]) -> Answer {
    cancelled(throttled, "ThrottlingError", TOO_FAST)
}

/// The keys of an action do not match its table's.
pub(super) fn cancelled_by_schema(struck: &[bool]) -> Answer {
    cancelled(struck, "ValidationError", OTHER_SCHEMA)
}

/// The same for a plain request.
pub(super) fn other_schema() -> Answer {
    Answer::error(400, "ValidationException", OTHER_SCHEMA)
}

/// A name that no table can have.
pub(super) fn bad_name() -> Answer {
    let message = "1 validation error detected: Value 'bad table' at 'tableName' failed to satisfy \
                   constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+";
    Answer::error(400, "ValidationException", message)
}

/// Temporary credentials have expired.
pub(super) fn expired() -> Answer {
    let message = "The security token included in the request is expired";
    Answer::error(400, "ExpiredTokenException", message)
}

/// The credentials do not exist.
pub(super) fn unrecognized() -> Answer {
    let message = "The security token included in the request is invalid.";
    Answer::error(400, "UnrecognizedClientException", message)
}

/// A provisioned table has no capacity left for a transaction.
pub(super) fn cancelled_by_throughput(throttled: &[bool]) -> Answer {
    cancelled(throttled, "ProvisionedThroughputExceeded", EXCEEDED)
}

fn cancelled(struck: &[bool], code: &str, message: &str) -> Answer {
    let codes: Vec<&str> = struck
        .iter()
        .map(|struck| if *struck { code } else { "None" })
        .collect();
    let reasons = struck.iter().map(|struck| match struck {
        true => json!({ "Code": code, "Message": message }),
        false => json!({ "Code": "None" }),
    });
    let reasons: Vec<Value> = reasons.collect();
    let text = format!(
        "Transaction cancelled, please refer cancellation reasons for specific reasons [{}]",
        codes.join(", ")
    );
    let mut answer = Answer::error(400, "TransactionCanceledException", "");
    answer.body = json!({
        "__type": answer.body["__type"],
        "Message": text,
        "CancellationReasons": reasons,
    });
    answer
}

/// An item or a table has reached its limit.
pub(super) fn exceeded() -> Answer {
    Answer::error(400, "ProvisionedThroughputExceededException", EXCEEDED)
}

/// The account has reached its limit.
pub(super) fn throttled() -> Answer {
    Answer::error(400, "ThrottlingException", TOO_FAST)
}

/// A transaction with this token is under way.
pub(super) fn in_progress() -> Answer {
    let message = "The transaction with the given request token is already in progress.";
    Answer::error(400, "TransactionInProgressException", message)
}

/// The token was used before with another body.
pub(super) fn mismatch() -> Answer {
    let message = "DynamoDB rejected the request because you retried a request with a different \
                   payload but with an idempotent token that was already used.";
    Answer::error(400, "IdempotentParameterMismatchException", message)
}

/// Removes the entries from a batch request that `keep` rejects; `keep` is called for every key or
/// write, in order. Returns them in the form of an answer's unprocessed entries; null if there are
/// none.
pub(super) fn split_batch(body: &mut Value, mut keep: impl FnMut(usize) -> bool) -> Value {
    let mut left = Map::new();
    let mut nth = 0;
    for (table, part) in body["RequestItems"].as_object_mut().into_iter().flatten() {
        let mut rest = part.clone();
        let lists = match part.is_array() {
            true => (part.as_array_mut(), rest.as_array_mut()),
            false => (part["Keys"].as_array_mut(), rest["Keys"].as_array_mut()),
        };
        let (Some(kept), Some(others)) = lists else {
            continue;
        };
        let wanted: Vec<bool> = kept
            .iter()
            .map(|_| {
                nth += 1;
                keep(nth - 1)
            })
            .collect();
        let mut flags = wanted.iter();
        kept.retain(|_| flags.next().is_some_and(|wanted| *wanted));
        let mut flags = wanted.iter();
        others.retain(|_| flags.next().is_some_and(|wanted| !*wanted));
        if !others.is_empty() {
            left.insert(table.clone(), rest);
        }
    }
    if left.is_empty() {
        return Value::Null;
    }
    if let Some(tables) = body["RequestItems"].as_object_mut() {
        tables.retain(|_, part| {
            let list = part.as_array().or_else(|| part["Keys"].as_array());
            list.is_none_or(|list| !list.is_empty())
        });
    }
    Value::Object(left)
}
