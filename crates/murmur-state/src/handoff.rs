use serde::{Deserialize, Serialize};

use crate::ids::SequenceNumber;
use crate::time::Timestamp;

/// The version of the token this release writes.
const VERSION: u32 = 1;

/// The only kind there is: the shards of one DynamoDB stream.
const KIND: &str = "dynamodb-streams";

/// Where live begins: the stream's shards as they stood *before* the scan.
///
/// Its reader skips the shards listed closed (whatever they hold was in the table before the
/// scan) and reads every other from its beginning, parents first. What lies between a shard's
/// beginning and the capture comes twice, once scanned and once streamed; a pipeline has to
/// absorb that. The token is void once a shard listed open was not begun within the stream's
/// 24 hours of retention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandoffToken {
    version: u32,
    kind: String,
    /// The stream's ARN, which names table and generation of the stream.
    pub stream_arn: String,
    /// When it was captured.
    pub captured_at: Timestamp,
    /// The shards, as `DescribeStream` listed them.
    pub shards: Vec<HandoffShard>,
}

/// One shard of a [`HandoffToken`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandoffShard {
    /// The shard's id.
    pub id: String,
    /// Its parent, if it had one; the parent may be gone already.
    // Said to be none: a field that is missing has been lost.
    #[serde(deserialize_with = "Option::deserialize")]
    pub parent: Option<String>,
    /// The first sequence number in it, if the stream said.
    #[serde(deserialize_with = "Option::deserialize")]
    pub first: Option<SequenceNumber>,
    /// Whether it could take no more records: it had an ending sequence number *and* a listed
    /// child. In doubt it is open, and reading it is harmless.
    pub closed: bool,
}

/// A handoff token cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoffError {
    /// It is not a token, or a truncated one.
    #[error(
        "this is not a handoff token, or not all of it; use the text exactly as the bootstrap reported it"
    )]
    Unreadable(#[source] serde_json::Error),
    /// It is of a kind or version not known here.
    #[error(
        "the handoff token is of kind `{kind}`, version {version}; this release reads `{KIND}`, version {VERSION}: use the release that wrote it, or a later one"
    )]
    Unknown {
        /// Its kind.
        kind: String,
        /// Its version.
        version: u32,
    },
}

impl HandoffToken {
    /// A token of this release's version.
    pub fn new(
        stream_arn: impl Into<String>,
        captured_at: Timestamp,
        shards: Vec<HandoffShard>,
    ) -> Self {
        Self {
            version: VERSION,
            kind: KIND.to_owned(),
            stream_arn: stream_arn.into(),
            captured_at,
            shards,
        }
    }

    /// The token as text (JSON), to be kept beside the run's progress.
    pub fn encode(&self) -> String {
        serde_json::json!(self).to_string()
    }

    /// Reads a token back.
    ///
    /// # Errors
    ///
    /// [`HandoffError`] if it is truncated, altered in shape, or of an unknown version. There is
    /// no fallback to some other starting point.
    pub fn decode(text: &str) -> Result<Self, HandoffError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
            kind: String,
        }
        let Head { version, kind } =
            serde_json::from_str(text).map_err(HandoffError::Unreadable)?;
        if version != VERSION || kind != KIND {
            return Err(HandoffError::Unknown { kind, version });
        }
        serde_json::from_str(text).map_err(HandoffError::Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> HandoffToken {
        HandoffToken::new(
            "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/2026-01-01T00:00:00.000",
            Timestamp::from_secs(1_767_225_600),
            vec![HandoffShard {
                id: "shardId-1".into(),
                parent: None,
                first: Some(SequenceNumber::new("100000000000000000001").unwrap()),
                closed: false,
            }],
        )
    }

    #[test]
    fn it_survives_the_round_trip() {
        assert_eq!(HandoffToken::decode(&token().encode()).unwrap(), token());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let text = token().encode();
        for end in 0..text.len() {
            assert!(HandoffToken::decode(&text[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn an_unknown_version_or_kind_is_named() {
        let later = token().encode().replace("\"version\":1", "\"version\":2");
        assert!(matches!(
            HandoffToken::decode(&later),
            Err(HandoffError::Unknown { version: 2, .. })
        ));
        let other = token().encode().replace(KIND, "kafka");
        assert!(matches!(
            HandoffToken::decode(&other),
            Err(HandoffError::Unknown { .. })
        ));
    }
}
