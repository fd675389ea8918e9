//! A shard's row: its position, and its reader.

use std::sync::Arc;

use murmur_state::{SequenceNumber, Timestamp};
use serde::{Deserialize, Serialize};

use crate::trigger::form::StoredForm;

/// The position of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum At {
    /// Begun, and no record seen.
    Begun,
    /// No record is done. This is the first record that was read.
    From(SequenceNumber),
    /// Everything up to this number is done.
    After(SequenceNumber),
    /// Read to its end, with everything done.
    Ended,
}

/// A shard's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) at: At,
    /// Everything put into the shard's lineage before this time is done or not wanted. `None` if
    /// there is no such time.
    pub(crate) through: Option<Timestamp>,
    pub(crate) owner: Option<String>,
    /// When the lease ends, by the owner's wall clock.
    pub(crate) until: Option<Timestamp>,
}

impl StoredForm for Row {
    const VERSION: u32 = 1;
}

impl Row {
    /// A row without a lease.
    pub(crate) fn released(at: At, through: Option<Timestamp>) -> Self {
        Self {
            at,
            through,
            owner: None,
            until: None,
        }
    }
}

/// A shard's row as this reader saved it.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) shard: Arc<str>,
    pub(crate) row: Row,
    /// The version of the saved row.
    pub(crate) version: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trigger::form::{decode, encode};
    use murmur_testkit::damage::accepts_only_json_it_writes;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    #[test]
    fn rows_are_kept_in_a_form_that_later_releases_have_to_read() {
        let after = At::After(SequenceNumber::new("100000000000000000002").unwrap());
        let row = Row::released(after, Some(NOW));
        let kept = encode(&row);
        let text = r#"{"version":1,"at":{"after":"100000000000000000002"},"through":1800000000000,"owner":null,"until":null}"#;
        assert_eq!(
            kept,
            serde_json::from_str::<serde_json::Value>(text).unwrap()
        );
        assert_eq!(decode::<Row>("n", text).unwrap(), row);
        for (at, text) in [(At::Begun, "\"begun\""), (At::Ended, "\"ended\"")] {
            assert_eq!(serde_json::to_string(&at).unwrap(), text);
        }
    }
    #[test]
    fn damaged_rows_are_refused_or_are_what_is_written() {
        fn again(bytes: &[u8]) -> Option<Vec<u8>> {
            let content: Row = decode("n", std::str::from_utf8(bytes).ok()?).ok()?;
            Some(encode(&content).to_string().into_bytes())
        }
        let number = || SequenceNumber::new("100000000000000000002").unwrap();
        let rows = [
            Row::released(At::After(number()), Some(NOW)),
            Row::released(At::Ended, None),
            Row {
                owner: Some("reader-1".to_owned()),
                until: Some(NOW),
                ..Row::released(At::From(number()), Some(NOW))
            },
            Row::released(At::Begun, Some(NOW)),
        ];
        let rows = rows.map(|row| encode(&row).to_string());
        accepts_only_json_it_writes(&rows, again);
    }
}
