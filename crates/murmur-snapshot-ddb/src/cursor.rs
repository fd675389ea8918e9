use murmur_core::Item;
use murmur_snapshot::SourceError;
use murmur_snapshot::source::Cursor;
use serde::{Deserialize, Serialize};

use crate::attributes::{self, Attributes, RowError};
use crate::settings::ScanSettings;

/// Where a page ended. A LastEvaluatedKey is valid only in the same segment of the same number of
/// segments, so the cursor holds both.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScanCursor {
    pub(crate) table: String,
    pub(crate) segment: u32,
    pub(crate) segments: u32,
    pub(crate) key: Item,
}

impl ScanCursor {
    pub(crate) fn new(
        scan: &ScanSettings,
        segment: u32,
        last_evaluated: Attributes,
    ) -> Result<Self, RowError> {
        Ok(Self {
            table: scan.table.clone(),
            segment,
            segments: scan.segments,
            key: attributes::item(last_evaluated)?,
        })
    }

    pub(crate) fn encode(&self) -> Cursor {
        Cursor::new(serde_json::json!(self).to_string())
    }

    /// The ExclusiveStartKey that continues at `cursor`.
    pub(crate) fn start_key(
        scan: &ScanSettings,
        segment: u32,
        cursor: &Cursor,
    ) -> Result<Attributes, SourceError> {
        let refused = |reason| SourceError::Cursor {
            place: scan.place(),
            cursor: cursor.to_string(),
            reason,
        };
        let at: Self = serde_json::from_str(cursor.as_str())
            .map_err(|error| refused(format!("it is not a cursor of a table scan ({error})")))?;
        let (theirs, ours) = (
            (at.table.as_str(), at.segment, at.segments),
            (scan.table.as_str(), segment, scan.segments),
        );
        if theirs != ours {
            return Err(refused(format!(
                "it belongs to segment {} of {} of table `{}`, and this is segment {} of {} of \
                 table `{}`; scan with the settings it was made with",
                theirs.1, theirs.2, theirs.0, ours.1, ours.2, ours.0
            )));
        }
        Ok(at.key.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use murmur_core::AttributeValue;
    use murmur_state::time::Random;

    #[test]
    fn a_hundred_thousand_mutated_cursors_are_refused_or_say_what_they_say() {
        let key = [
            ("id".to_owned(), AttributeValue::S("o-1".into())),
            ("at".to_owned(), AttributeValue::N("12".into())),
        ];
        let cursor = ScanCursor {
            table: "orders".into(),
            segment: 3,
            segments: 8,
            key: std::collections::HashMap::from(key).into(),
        };
        let cursor = cursor.encode();
        let random = Random::seeded(14);
        let below = |n: usize| (random.bits() % n.max(1) as u128) as usize;
        let mut read = 0;
        for _ in 0..100_000 {
            let mut bytes = cursor.as_str().as_bytes().to_vec();
            for _ in 0..1 + below(2) {
                let (at, byte) = (below(bytes.len()), b"{}:,\"0123SN"[below(11)]);
                match below(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, byte),
                    2 if !bytes.is_empty() => drop(bytes.remove(at)),
                    _ if !bytes.is_empty() => bytes[at] = byte,
                    _ => {}
                }
            }
            let Ok(text) = String::from_utf8(bytes) else {
                continue;
            };
            if let Ok(found) = serde_json::from_str::<ScanCursor>(&text) {
                read += 1;
                let said: serde_json::Value = serde_json::from_str(&text).unwrap();
                assert_eq!(serde_json::json!(found), said);
            }
        }
        assert!(read > 1_000, "{read}");
    }
}
