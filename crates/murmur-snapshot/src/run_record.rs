use std::collections::BTreeMap;
use std::sync::Arc;

use murmur_core::Pipeline;
use murmur_state::{
    Checkpoint, Checkpoints, HandoffError, HandoffToken, OptionError, PipelineName, StoreError,
    Timestamp,
};
use serde::{Deserialize, Serialize};

/// The version of the record this release writes.
const VERSION: u32 = 2;

/// The record of a bootstrap run, saved for each of its pipelines before the first page: what the
/// run reads and feeds, the handoff token, and whether the run is finished.
///
/// It is a checkpoint in the pipeline's marker table, or in the place that
/// [`checkpoints`](crate::BootstrapBuilder::checkpoints) names. It does not expire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunRecord {
    /// The run's id: the same in every attempt at it, and for all its workers.
    pub run: String,
    /// The pipelines that it feeds: name → [fingerprint](murmur_core::Pipeline::fingerprint).
    pub pipelines: BTreeMap<String, String>,
    /// The [settings](crate::Description::settings) of its source.
    pub settings: String,
    /// How many segments its source has.
    pub segments: u32,
    /// When the run began, before the token was captured.
    pub captured_at: Timestamp,
    /// Where the stream consumer has to begin; `None` if the source has no stream.
    pub token: Option<HandoffToken>,
    /// When the run was finished; `None` if it is not.
    pub finished_at: Option<Timestamp>,
}

/// Why the record of a run, or a checkpoint, cannot be read.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum RunRecordError {
    /// It could not be loaded.
    #[error("it could not be loaded")]
    Store(#[source] StoreError),
    /// The checkpoint was changed, or is incomplete.
    #[error(
        "the checkpoint `{name}` is not a run's checkpoint, or not all of it; restore it, or remove \
         it together with the pipeline's state"
    )]
    Unreadable {
        /// The checkpoint's name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// This release does not know the checkpoint's version.
    #[error(
        "the checkpoint `{name}` is of version {version}, and this release reads {reads}; use the \
         release that wrote it, or the later one of the two"
    )]
    Unknown {
        /// The checkpoint's name.
        name: String,
        /// Its version.
        version: u32,
        /// The version that this release reads.
        reads: u32,
    },
    /// Its handoff token cannot be used.
    #[error("the checkpoint `{name}` has a handoff token that cannot be used")]
    Token {
        /// The checkpoint's name.
        name: String,
        /// Why.
        #[source]
        source: HandoffError,
    },
}

murmur_state::debug_as_message!(RunRecordError);

impl RunRecordError {
    /// Whether trying the same again can help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_retryable())
    }
}

/// The record as it is saved.
///
/// Every field is required, and no other is allowed: a record that lost its token must not pass for
/// one of a table without a stream.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u32,
    run: String,
    pipelines: BTreeMap<String, String>,
    settings: String,
    segments: u32,
    captured_at: Timestamp,
    #[serde(deserialize_with = "Option::deserialize")]
    token: Option<String>,
    #[serde(deserialize_with = "Option::deserialize")]
    finished_at: Option<Timestamp>,
}

impl RunRecord {
    /// Loads the record of the run of `pipeline` over the source called `source` from `place`;
    /// `None` if there never was one. A stream consumer gets its token here if the bootstrap ran in
    /// another process.
    ///
    /// # Errors
    ///
    /// [`RunRecordError`] if the record cannot be loaded or read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn load(
        place: &dyn Checkpoints,
        pipeline: &PipelineName,
        source: &str,
    ) -> Result<Option<Self>, RunRecordError> {
        let name = Self::name(pipeline, source);
        let found = place.load(&name).await.map_err(RunRecordError::Store)?;
        found.map(|found| Self::decode(&name, &found)).transpose()
    }

    /// Where the record of the run of `pipeline` is kept: in the `chosen` place, or in the
    /// pipeline's own marker table.
    pub(crate) fn place<'p, T>(
        chosen: Option<&'p Arc<dyn Checkpoints>>,
        pipeline: &'p Pipeline<T>,
    ) -> Result<&'p Arc<dyn Checkpoints>, OptionError> {
        chosen.or(pipeline.checkpoints()).ok_or_else(|| {
            let reason = format!(
                "pipeline `{}` has no marker table for the run's record; give another place for it",
                pipeline.name()
            );
            OptionError::new("checkpoints", reason)
        })
    }

    /// The name of the checkpoint.
    pub(crate) fn name(pipeline: &PipelineName, source: &str) -> String {
        pipeline.marker("bootstrap", &[source])
    }

    pub(crate) fn encode(&self) -> String {
        let Self {
            run,
            pipelines,
            settings,
            segments,
            captured_at,
            token,
            finished_at,
        } = self.clone();
        let kept = Kept {
            version: VERSION,
            run,
            pipelines,
            settings,
            segments,
            captured_at,
            token: token.map(|token| token.encode()),
            finished_at,
        };
        serde_json::json!(kept).to_string()
    }

    pub(crate) fn decode(name: &str, found: &Checkpoint) -> Result<Self, RunRecordError> {
        decode_version(name, &found.data, VERSION)?;
        let kept: Kept =
            serde_json::from_str(&found.data).map_err(|source| RunRecordError::Unreadable {
                name: name.to_owned(),
                source,
            })?;
        let token = kept.token.as_deref().map(HandoffToken::decode).transpose();
        Ok(Self {
            run: kept.run,
            pipelines: kept.pipelines,
            settings: kept.settings,
            segments: kept.segments,
            captured_at: kept.captured_at,
            token: token.map_err(|source| RunRecordError::Token {
                name: name.to_owned(),
                source,
            })?,
            finished_at: kept.finished_at,
        })
    }
}

/// Checks that `data` is of the version that this release `reads`.
pub(crate) fn decode_version(name: &str, data: &str, reads: u32) -> Result<(), RunRecordError> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let name = || name.to_owned();
    let head = serde_json::from_str(data).map_err(|source| RunRecordError::Unreadable {
        name: name(),
        source,
    });
    match head? {
        Head { version } if version == reads => Ok(()),
        Head { version } => Err(RunRecordError::Unknown {
            name: name(),
            version,
            reads,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutations::Mutations;

    fn record() -> RunRecord {
        RunRecord {
            run: "r1".into(),
            pipelines: BTreeMap::from([("a".into(), "a, version 1".into())]),
            settings: "table `orders`, 8 segments".into(),
            segments: 8,
            captured_at: Timestamp::from_secs(1_700_000_000),
            token: Some(HandoffToken::new(
                "arn",
                Timestamp::from_secs(1),
                Vec::new(),
            )),
            finished_at: None,
        }
    }

    fn found(data: impl Into<String>) -> Checkpoint {
        Checkpoint {
            data: data.into(),
            version: 1,
        }
    }

    #[test]
    fn it_survives_the_round_trip() {
        let decoded = RunRecord::decode("n", &found(record().encode())).unwrap();
        assert_eq!(decoded, record());
    }

    #[test]
    fn every_truncation_is_an_error() {
        let text = record().encode();
        for end in 0..text.len() {
            let error = RunRecord::decode("n", &found(&text[..end])).unwrap_err();
            assert!(error.to_string().contains("`n`"), "{error}");
        }
    }

    #[test]
    fn a_later_version_and_an_unknown_token_are_named() {
        let later = record().encode().replace("\"version\":2", "\"version\":9");
        let error = RunRecord::decode("n", &found(later)).unwrap_err();
        assert!(
            matches!(error, RunRecordError::Unknown { version: 9, .. }),
            "{error}"
        );
        let other = record().encode().replace("dynamodb-streams", "kafka");
        let error = RunRecord::decode("n", &found(other)).unwrap_err();
        assert!(matches!(error, RunRecordError::Token { .. }), "{error}");
    }

    #[test]
    fn a_hundred_thousand_mutated_records_are_refused_or_say_what_they_say() {
        let text = record().encode();
        let random = Mutations::seeded(12);
        let mut read = 0;
        for round in 0..100_000 {
            let mutated = match round % 10 {
                0 => random.bytes(),
                _ => random.mutated(text.as_bytes()),
            };
            let Ok(mutated) = String::from_utf8(mutated) else {
                continue;
            };
            if let Ok(record) = RunRecord::decode("n", &found(mutated.as_str())) {
                read += 1;
                let said: serde_json::Value = serde_json::from_str(&mutated).unwrap();
                let mut again: serde_json::Value = serde_json::from_str(&record.encode()).unwrap();
                // The token has a text of its own.
                assert_eq!(said["token"].is_null(), again["token"].is_null());
                again["token"] = said["token"].clone();
                assert_eq!(again, said);
            }
        }
        assert!(read > 1_000, "{read}");
    }
}
