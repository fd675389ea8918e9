//! How far each shard is, and who reads it: what outlives a run.
//!
//! Under the trigger's name there is one *beginning*, saved before anything is read, which says
//! how each shard of the first generation begins; and one row per shard, with its position and
//! its lease. Every row is saved only over the version that was read, so that of two readers
//! that hold each other for gone one finds out with its next save.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use murmur_state::{
    Checkpoint, Checkpoints, Clock, HandoffToken, PipelineName, Removed, Saved, SequenceNumber,
    ShardIds, StoreError, Timestamp,
};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::description::StreamDescription;
use crate::options::StartingPosition;
use crate::trigger::error::TriggerError;
use crate::trigger::sharing::Sightings;

/// What is kept as a checkpoint, in a form that later releases have to read.
pub(crate) trait Kept: Serialize + DeserializeOwned {
    /// The version of the form this release writes, and reads.
    const VERSION: u32;
}

/// How a shard is begun that nobody has read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Not at all: what it holds is not wanted.
    Skip,
    /// After its newest record.
    Latest,
    /// At the oldest record it has.
    TrimHorizon,
}

/// How reading the stream was begun, once for all who share the positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beginning {
    pub(crate) stream_arn: String,
    /// What is put from now on is missed if it is trimmed.
    pub(crate) begun_at: Timestamp,
    /// When the handoff token was captured that reading began from.
    pub(crate) captured_at: Option<Timestamp>,
    /// The shards listed then.
    #[serde(serialize_with = "in_sets", deserialize_with = "from_sets")]
    pub(crate) shards: BTreeMap<String, Begin>,
}

impl Kept for Beginning {
    const VERSION: u32 = 2;
}

/// How shards are begun, as it is saved: there may be a hundred thousand.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sets {
    skip: ShardIds,
    latest: ShardIds,
    trim_horizon: ShardIds,
}

fn in_sets<S: Serializer>(
    shards: &BTreeMap<String, Begin>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let set = |wanted: Begin| {
        let shards = shards.iter().filter(|(_, begin)| **begin == wanted);
        shards.map(|(id, _)| id.as_str()).collect()
    };
    let sets = Sets {
        skip: set(Begin::Skip),
        latest: set(Begin::Latest),
        trim_horizon: set(Begin::TrimHorizon),
    };
    sets.serialize(serializer)
}

fn from_sets<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Begin>, D::Error> {
    let sets = Sets::deserialize(deserializer)?;
    let mut shards = BTreeMap::new();
    for (set, begin) in [
        (&sets.skip, Begin::Skip),
        (&sets.latest, Begin::Latest),
        (&sets.trim_horizon, Begin::TrimHorizon),
    ] {
        shards.extend(set.iter().map(|id| (id.to_owned(), begin)));
    }
    match shards.len() == sets.skip.len() + sets.latest.len() + sets.trim_horizon.len() {
        true => Ok(shards),
        false => Err(D::Error::custom("a shard is begun in two ways")),
    }
}

impl Beginning {
    /// What was put from this time on is wanted.
    pub(crate) fn since(&self) -> Timestamp {
        self.captured_at.unwrap_or(self.begun_at)
    }

    fn of(
        listed: &StreamDescription,
        position: StartingPosition,
        token: Option<&HandoffToken>,
        begun_at: Timestamp,
    ) -> Self {
        let (ids, closed) = (listed.ids(), listed.closed());
        let begin = |shard: &crate::ShardInfo| {
            if let Some(token) = token {
                return match token.closed.contains(&shard.id) {
                    true => Begin::Skip,
                    false => Begin::TrimHorizon,
                };
            }
            // A shard that waits for a parent gets there later than now: LATEST would then skip
            // what was put meanwhile.
            let parent = shard.parent.as_deref();
            let waits = parent.is_some_and(|id| ids.contains(id) && !closed.contains(id));
            match position {
                StartingPosition::Latest if closed.contains(&*shard.id) => Begin::Skip,
                StartingPosition::Latest if !waits => Begin::Latest,
                _ => Begin::TrimHorizon,
            }
        };
        let shards = listed.shards.iter();
        Self {
            stream_arn: listed.info.stream_arn.clone(),
            begun_at,
            captured_at: token.map(|token| token.captured_at),
            shards: shards
                .map(|shard| (shard.id.clone(), begin(shard)))
                .collect(),
        }
    }
}

/// How far a shard is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum At {
    /// Begun, and no record seen.
    Begun,
    /// Nothing done; this is the first record that was read.
    From(SequenceNumber),
    /// Everything up to this number is done.
    After(SequenceNumber),
    /// Read to its end, and all done.
    Ended,
}

/// A shard's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) at: At,
    /// Whatever was put into the shard's lineage before this time is done, or not wanted. `None`
    /// where that cannot be said.
    pub(crate) through: Option<Timestamp>,
    pub(crate) owner: Option<String>,
    /// When the lease ends, by the owner's wall clock.
    until: Option<Timestamp>,
}

impl Kept for Row {
    const VERSION: u32 = 1;
}

impl Row {
    /// A row under nobody's lease.
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
    /// Of the row as it is saved.
    pub(crate) version: u64,
}

pub(crate) struct Positions {
    pub(crate) place: Arc<dyn Checkpoints>,
    pub(crate) name: PipelineName,
    pub(crate) owner: String,
    pub(crate) lease: Duration,
    /// Whether others can see them: else nobody waits for a lease to end.
    pub(crate) lasting: bool,
    pub(crate) sightings: Sightings,
    pub(crate) clock: Arc<dyn Clock>,
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

impl Positions {
    fn beginning_name(&self) -> String {
        self.name.marker("stream", &[])
    }

    fn shard_name(&self, shard: &str) -> String {
        self.name.marker("shard", &[shard])
    }

    /// The beginning of the stream that is `listed`: the one that was saved, or a new one.
    pub(crate) async fn begin(
        &self,
        listed: &StreamDescription,
        position: StartingPosition,
        token: Option<&HandoffToken>,
    ) -> Result<Beginning, TriggerError> {
        let arn = &listed.info.stream_arn;
        if let Some(token) = token.filter(|token| token.stream_arn != *arn) {
            return Err(TriggerError::OtherStream {
                whose: "the handoff token".to_owned(),
                known: token.stream_arn.clone(),
                arn: arn.clone(),
            });
        }
        let name = self.beginning_name();
        loop {
            let found: Option<(Beginning, u64)> = self.load(&name).await?;
            if let Some((beginning, _)) = found {
                return self.same(beginning, arn, token);
            }
            let beginning = Beginning::of(listed, position, token, self.clock.now());
            if self.save(&name, &beginning, None).await?.is_some() {
                return Ok(beginning);
            }
        }
    }

    fn same(
        &self,
        known: Beginning,
        arn: &str,
        token: Option<&HandoffToken>,
    ) -> Result<Beginning, TriggerError> {
        if known.stream_arn != arn {
            return Err(TriggerError::OtherStream {
                whose: format!("the positions of `{}`", self.name),
                known: known.stream_arn,
                arn: arn.to_owned(),
            });
        }
        match token {
            Some(token) if known.captured_at != Some(token.captured_at) => {
                Err(TriggerError::OtherHandoff {
                    name: self.name.to_string(),
                    known: known.captured_at,
                    captured_at: token.captured_at,
                })
            }
            _ => Ok(known),
        }
    }

    /// What is saved of a shard, whoever holds it, and its version.
    pub(crate) async fn find(&self, shard: &str) -> Result<Option<(Row, u64)>, TriggerError> {
        self.load(&self.shard_name(shard)).await
    }

    /// Whether the row's lease is another's, and has not expired: by this clock, with the
    /// [grace](Sightings::grace) that the owner has.
    pub(crate) fn is_elsewhere(&self, row: &Row) -> bool {
        let owner = row.owner.as_ref().filter(|owner| **owner != self.owner);
        owner.zip(row.until).is_some_and(|(owner, until)| {
            until.plus(self.sightings.grace(owner)) > self.clock.now()
        })
    }

    /// Whether the row's lease is of an earlier life of this reader, one before `began`.
    pub(crate) fn is_left_over(&self, row: &Row, began: Timestamp) -> bool {
        let own = row.owner.as_ref().filter(|owner| **owner == self.owner);
        own.and(row.until)
            .is_some_and(|until| until < began.plus(self.lease))
    }

    /// A row under this reader's lease, which begins now.
    pub(crate) fn leased(&self, at: At, through: Option<Timestamp>) -> Row {
        Row {
            at,
            through,
            owner: Some(self.owner.clone()),
            until: Some(self.clock.now().plus(self.lease)),
        }
    }

    /// Saves a shard's row over the version that was read; `None` if somebody saved it since.
    /// The same row can be saved again after an answer that was lost.
    pub(crate) async fn put(
        &self,
        shard: &Arc<str>,
        row: &Row,
        over: Option<u64>,
    ) -> Result<Option<Held>, TriggerError> {
        let version = self.save(&self.shard_name(shard), row, over).await?;
        Ok(version.map(|version| Held {
            shard: Arc::clone(shard),
            row: row.clone(),
            version,
        }))
    }

    /// Removes the row of a shard that ended, is listed no more, and whose children have begun.
    pub(crate) async fn forget(&self, shard: &str) -> Result<(), TriggerError> {
        let name = self.shard_name(shard);
        let found: Option<(Row, u64)> = self.load(&name).await?;
        if let Some((row, version)) = found.filter(|(row, _)| row.at == At::Ended) {
            // Whoever saved it since has a reason to keep it.
            let (Removed::Gone | Removed::Conflict) = self
                .place
                .remove(&name, version)
                .await
                .map_err(|source| failed(&name, source))?;
            tracing::debug!(shard, through = ?row.through, "its position is no longer needed");
        }
        Ok(())
    }

    /// What is kept as `name`, and its version.
    pub(crate) async fn load<T: Kept>(&self, name: &str) -> Result<Option<(T, u64)>, TriggerError> {
        let loaded = self.place.load(name).await;
        let Some(Checkpoint { data, version }) = loaded.map_err(|source| failed(name, source))?
        else {
            return Ok(None);
        };
        Ok(Some((decode(name, &data)?, version)))
    }

    /// `None` if somebody saved since.
    pub(crate) async fn save<T: Kept>(
        &self,
        name: &str,
        content: &T,
        over: Option<u64>,
    ) -> Result<Option<u64>, TriggerError> {
        let data = encode(content).to_string();
        let saved = self.place.save(name, &data, over).await;
        Ok(match saved.map_err(|source| failed(name, source))? {
            Saved::Version(version) => Some(version),
            Saved::Conflict => None,
        })
    }
}

impl fmt::Debug for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Positions")
            .field("name", &self.name)
            .field("owner", &self.owner)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// What is saved.
fn encode<T: Kept>(content: &T) -> serde_json::Value {
    serde_json::json!(Versioned {
        version: T::VERSION,
        content,
    })
}

/// What the row called `name` holds.
fn decode<T: Kept>(name: &str, data: &str) -> Result<T, TriggerError> {
    let unreadable = |source| TriggerError::UnreadablePosition {
        name: name.to_owned(),
        source: Arc::new(source),
    };
    let head: Head = serde_json::from_str(data).map_err(unreadable)?;
    if head.version != T::VERSION {
        return Err(TriggerError::UnknownPosition {
            name: name.to_owned(),
            version: head.version,
        });
    }
    let Versioned { content, .. } = serde_json::from_str(data).map_err(unreadable)?;
    // A field that is lost reads as one that says nothing, and of a repeated one the last counts;
    // the order of fields is not the same in every build.
    let (found, written): (serde_json::Value, _) = (
        serde_json::from_str(data).map_err(unreadable)?,
        encode(&content),
    );
    if found != written || data.len() != written.to_string().len() {
        let lost = "fields are missing, or there are too many";
        return Err(unreadable(serde::de::Error::custom(lost)));
    }
    Ok(content)
}

fn failed(name: &str, source: StoreError) -> TriggerError {
    TriggerError::Position {
        name: name.to_owned(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::{ShardInfo, StreamInfo};
    use aws_lambda_events::event::dynamodb::StreamViewType;
    use murmur_testkit::damage::accepts_only_json_it_writes;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    /// Shards given as (id, parent, whether an ending sequence number is shown).
    fn listed(shards: &[(&str, Option<&str>, bool)]) -> StreamDescription {
        let info = |(id, parent, ends): &(&str, Option<&str>, bool)| ShardInfo {
            id: (*id).to_owned(),
            parent: parent.map(str::to_owned),
            first: None,
            ending: ends.then(|| SequenceNumber::new("7").unwrap()),
        };
        StreamDescription {
            info: StreamInfo::new("arn", StreamViewType::KeysOnly),
            shards: shards.iter().map(info).collect(),
        }
    }

    fn begins(beginning: &Beginning) -> Vec<(&str, Begin)> {
        let shards = beginning.shards.iter();
        shards.map(|(id, begin)| (&**id, *begin)).collect()
    }

    #[test]
    fn latest_is_for_shards_that_are_open_and_wait_for_nobody() {
        let listed = listed(&[
            ("closed", Some("trimmed"), true),
            ("child", Some("closed"), false),
            ("unsure", None, false),
            ("waits", Some("unsure"), false),
            ("shows an end", None, true),
        ]);
        let beginning = Beginning::of(&listed, StartingPosition::Latest, None, NOW);
        let expected = [
            ("child", Begin::Latest),
            ("closed", Begin::Skip),
            ("shows an end", Begin::Latest),
            ("unsure", Begin::Latest),
            ("waits", Begin::TrimHorizon),
        ];
        assert_eq!(begins(&beginning), expected);
        assert_eq!(beginning.since(), NOW);
    }

    #[test]
    fn a_token_leaves_out_what_it_lists_as_closed_and_nothing_else() {
        let listed = listed(&[
            ("closed then", None, true),
            ("closed since", Some("closed then"), true),
            ("new", Some("closed since"), false),
        ]);
        let captured_at = Timestamp::from_secs(1_799_990_000);
        let token = HandoffToken::new("arn", captured_at, vec!["closed then".to_owned()]);
        // A token says where to begin, whatever the starting position.
        for position in [StartingPosition::TrimHorizon, StartingPosition::Latest] {
            let beginning = Beginning::of(&listed, position, Some(&token), NOW);
            let expected = [
                ("closed since", Begin::TrimHorizon),
                ("closed then", Begin::Skip),
                ("new", Begin::TrimHorizon),
            ];
            assert_eq!(begins(&beginning), expected);
            assert_eq!(beginning.since(), captured_at);
        }
    }

    #[test]
    fn a_beginning_is_kept_as_three_lists_of_ids() {
        let shards = [
            ("a", Begin::Skip),
            ("ab", Begin::Skip),
            ("b", Begin::Latest),
        ];
        let beginning = Beginning {
            stream_arn: "arn".to_owned(),
            begun_at: NOW,
            captured_at: None,
            shards: shards.map(|(id, begin)| (id.to_owned(), begin)).into(),
        };
        let kept = serde_json::json!(Versioned {
            version: Beginning::VERSION,
            content: &beginning
        });
        let text = r#"{"version":2,"stream_arn":"arn","begun_at":1800000000000,"captured_at":null,"shards":{"skip":"0.1:a1.1:b","latest":"0.1:b","trim_horizon":""}}"#;
        assert_eq!(
            kept,
            serde_json::from_str::<serde_json::Value>(text).unwrap()
        );
        let read: Versioned<Beginning> = serde_json::from_str(text).unwrap();
        assert_eq!(read.content, beginning);
        let twice = text.replace("0.1:b", "0.1:a");
        assert!(serde_json::from_str::<Versioned<Beginning>>(&twice).is_err());
    }

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
        fn again<T: Kept>(bytes: &[u8]) -> Option<Vec<u8>> {
            let content: T = decode("n", std::str::from_utf8(bytes).ok()?).ok()?;
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
        accepts_only_json_it_writes(&rows, again::<Row>);

        let shards = listed(&[
            ("closed", Some("trimmed"), true),
            ("child", Some("closed"), false),
            ("unsure", None, false),
        ]);
        let token = HandoffToken::new("arn", NOW.minus(Duration::from_secs(60)), Vec::new());
        let beginnings = [
            Beginning::of(&shards, StartingPosition::Latest, None, NOW),
            Beginning::of(&shards, StartingPosition::Latest, Some(&token), NOW),
        ];
        let beginnings = beginnings.map(|beginning| encode(&beginning).to_string());
        accepts_only_json_it_writes(&beginnings, again::<Beginning>);
    }
}
