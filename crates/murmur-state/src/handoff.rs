//! The handoff token: where the stream consumer begins after a scan.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use crate::shard_ids::ShardIds;
use crate::time::Timestamp;

/// The token version that this release writes.
const VERSION: u32 = 2;

/// The only kind: the shards of one DynamoDB stream.
const KIND: &str = "dynamodb-streams";

/// Where stream processing begins after a bootstrap: the shards of the stream that were closed
/// *before* the scan.
///
/// The stream consumer skips these shards, since their changes were in the table before the scan.
/// It reads every other shard from its beginning, parents first. Changes between a shard's
/// beginning and the capture arrive twice, once scanned and once streamed; a pipeline must absorb
/// that.
///
/// The token is void once a shard that was open at the capture was not begun within the stream's 24
/// hours of retention.
///
/// A stream lists about seven shards for each partition and day, and nearly all of them are closed:
/// a token of 100,000 shards is about 2 MB of text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandoffToken {
    /// The stream's ARN, which identifies the table and the generation of the stream.
    pub stream_arn: String,
    /// When the token was captured.
    pub captured_at: Timestamp,
    /// The shards that could take no more records: those with an ending sequence number *and* a
    /// listed child. If in doubt, a shard counts as open, since reading it is harmless.
    pub closed: ShardIds,
}

/// The written form of the token.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    kind: String,
    stream_arn: String,
    captured_at: Timestamp,
    closed: ShardIds,
    /// The digest of all other fields.
    digest: String,
}

/// A handoff token that cannot be used.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum HandoffError {
    /// The text is not a token, or a truncated one.
    #[error(
        "this is not a handoff token, or not all of it; use the text exactly as the bootstrap reported it"
    )]
    Unreadable(#[source] serde_json::Error),
    /// The text is a token, but a part of it was changed.
    #[error(
        "the handoff token was changed after it was written; use the text exactly as the bootstrap reported it"
    )]
    Altered,
    /// The token is of a kind or version that this release does not know.
    #[error(
        "the handoff token is of kind `{kind}`, version {version}; this release reads `{KIND}`, version {VERSION}: use the release that wrote it, or start a new bootstrap with `restart`"
    )]
    Unknown {
        /// Its kind.
        kind: String,
        /// Its version.
        version: u32,
    },
}

crate::debug_as_message!(HandoffError);

impl HandoffToken {
    /// A token with `closed` as the ids of the closed shards.
    pub fn new(stream_arn: impl Into<String>, captured_at: Timestamp, closed: Vec<String>) -> Self {
        Self {
            stream_arn: stream_arn.into(),
            captured_at,
            closed: closed.into_iter().collect(),
        }
    }

    /// The token as text (JSON, one line), to be kept beside the run's progress. Equal tokens have
    /// equal texts.
    pub fn encode(&self) -> String {
        let written = |digest| {
            let written = Written {
                version: VERSION,
                kind: KIND.to_owned(),
                stream_arn: self.stream_arn.clone(),
                captured_at: self.captured_at,
                closed: self.closed.clone(),
                digest,
            };
            serde_json::json!(written).to_string()
        };
        let digest = Sha256::digest(written(String::new()));
        let digest = digest.iter().take(16).map(|byte| format!("{byte:02x}"));
        written(digest.collect())
    }

    /// Reads a token from its text; surrounding whitespace is ignored.
    ///
    /// # Errors
    ///
    /// [`HandoffError`] if the text is truncated, changed in any way, or of an unknown version.
    /// There is no fallback to another starting point.
    pub fn decode(text: &str) -> Result<Self, HandoffError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
            kind: String,
        }
        let text = text.trim();
        let Head { version, kind } =
            serde_json::from_str(text).map_err(HandoffError::Unreadable)?;
        if version != VERSION || kind != KIND {
            return Err(HandoffError::Unknown { kind, version });
        }
        let written: Written = serde_json::from_str(text).map_err(HandoffError::Unreadable)?;
        let token = Self {
            stream_arn: written.stream_arn,
            captured_at: written.captured_at,
            closed: written.closed,
        };
        match token.encode() == text {
            true => Ok(token),
            false => Err(HandoffError::Altered),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> HandoffToken {
        HandoffToken::new(
            "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/2026-01-01T00:00:00.000",
            Timestamp::from_secs(1_767_225_600),
            vec!["shardId-2".into(), "shardId-1".into()],
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
        assert_eq!(HandoffToken::decode(&format!("{text}\n")).unwrap(), token());
    }

    #[test]
    fn every_changed_byte_is_an_error() {
        let text = token().encode();
        for at in 0..text.len() {
            for byte in (b' '..=b'~').filter(|byte| *byte != text.as_bytes()[at]) {
                let mut other = text.clone().into_bytes();
                other[at] = byte;
                let other = String::from_utf8(other).unwrap();
                // Space around the token is no part of it.
                let same = other.trim() == text;
                assert_eq!(HandoffToken::decode(&other).is_ok(), same, "{other}");
            }
        }
    }

    #[test]
    fn what_an_earlier_release_wrote_is_refused_by_its_version() {
        let old = r#"{"version":1,"kind":"dynamodb-streams","stream_arn":"arn","captured_at":1,"shards":[]}"#;
        let error = HandoffToken::decode(old).unwrap_err();
        assert!(error.to_string().contains("version 1"), "{error}");
    }

    #[test]
    fn an_unknown_version_or_kind_is_named() {
        let later = token().encode().replace("\"version\":2", "\"version\":3");
        assert!(matches!(
            HandoffToken::decode(&later),
            Err(HandoffError::Unknown { version: 3, .. })
        ));
        let other = token().encode().replace(KIND, "kafka");
        assert!(matches!(
            HandoffToken::decode(&other),
            Err(HandoffError::Unknown { .. })
        ));
    }
}
