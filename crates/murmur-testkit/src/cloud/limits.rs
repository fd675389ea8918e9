//! The checks of an expression's text that DynamoDB makes and dynoxide does not.
//!
//! The limit was measured on DynamoDB Local 3.1.0. In a condition every comparison, `AND`, `OR`,
//! `NOT`, `BETWEEN`, `IN` and function counts as one operator; the `AND` of a `BETWEEN` and the
//! length of a list do not count. In an update every `+`, `-` and function counts.

use serde_json::Value;

use super::server::Answer;

/// The most operators and functions in one expression.
const OPERATORS: usize = 300;

/// The longest expression in bytes. Dynoxide itself refuses longer ones.
const TEXT: usize = 4096;

/// Returns the refusal for the request's first expression with too many operators.
pub(super) fn check(operation: &str, body: &Value) -> Option<Answer> {
    if operation != "TransactWriteItems" {
        return check_one(body);
    }
    let actions = body["TransactItems"].as_array()?;
    let mut parts = actions.iter().filter_map(Value::as_object);
    parts.find_map(|action| action.values().find_map(check_one))
}

fn check_one(part: &Value) -> Option<Answer> {
    [
        "UpdateExpression",
        "ConditionExpression",
        "FilterExpression",
        "KeyConditionExpression",
    ]
    .into_iter()
    .find_map(|kind| {
        let text = part[kind].as_str().filter(|text| text.len() <= TEXT)?;
        let count = operators(text, kind == "UpdateExpression");
        (count > OPERATORS).then(|| {
            Answer::error(
                400,
                "ValidationException",
                format!(
                    "Invalid {kind}: The expression contains too many operators; operator count: \
                     {count}"
                ),
            )
        })
    })
}

fn operators(text: &str, update: bool) -> usize {
    let bytes = text.as_bytes();
    let (mut count, mut betweens, mut at) = (0, 0_usize, 0);
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'=' if !update => count += 1,
            b'<' | b'>' => {
                count += 1;
                if matches!(bytes.get(at + 1), Some(b'=' | b'>')) {
                    at += 1;
                }
            }
            b'+' | b'-' if update => count += 1,
            byte if is_word(byte) => {
                while at + 1 < bytes.len() && is_word(bytes[at + 1]) {
                    at += 1;
                }
                let word = &text[start..=at];
                let next = text[at + 1..].trim_start().as_bytes().first();
                if word.eq_ignore_ascii_case("between") {
                    count += 1;
                    betweens += 1;
                } else if word.eq_ignore_ascii_case("and") && betweens > 0 {
                    betweens -= 1;
                } else if ["and", "or", "not", "in"]
                    .iter()
                    .any(|operator| word.eq_ignore_ascii_case(operator))
                    || next == Some(&b'(')
                {
                    count += 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    count
}

/// Names and placeholders: `:in` and `#not` are not operators.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'#' | b'.')
}

#[cfg(test)]
mod tests {
    use super::operators;

    #[test]
    fn operators_count_as_dynamodb_counts_them() {
        for (text, count) in [
            ("a = :i", 1),
            ("a <> :i AND b<=c OR d >:x", 5),
            ("NOT (contains(cur, :i) OR contains (prev,:i))", 4),
            ("a BETWEEN :lo AND :hi", 1),
            ("a BETWEEN :lo AND :hi AND b between :lo and :hi", 3),
            ("a IN (:i, :j, :k)", 1),
            ("size(a) > :n", 2),
            ("attribute_not_exists(#and) and #or = :not", 3),
            ("(a = :i)", 1),
        ] {
            assert_eq!(operators(text, false), count, "{text}");
        }
        for (text, count) in [
            ("SET a = :x, b = :y", 0),
            ("SET a = a + :x, b = :y - :z", 2),
            ("SET a = if_not_exists(a, :x) + :x REMOVE c ADD d :e", 2),
        ] {
            assert_eq!(operators(text, true), count, "{text}");
        }
    }
}
