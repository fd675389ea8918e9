//! How reading a stream was begun. It is saved before anything is read, and is the same for all
//! readers.

use std::collections::BTreeMap;

use murmur_state::handoff::ShardIds;
use murmur_state::{HandoffToken, Timestamp};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::description::{ShardInfo, StreamDescription};
use crate::trigger::form::StoredForm;
use crate::trigger::options::StartingPosition;

/// How to begin a shard that has not been read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Not at all, because its records are not wanted.
    Skip,
    /// After its newest record.
    Latest,
    /// At the oldest record it has.
    TrimHorizon,
}

/// How reading the stream was begun, once for all readers that share the positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beginning {
    pub(crate) stream_arn: String,
    /// A record put from this time on is missed if it is trimmed.
    pub(crate) begun_at: Timestamp,
    /// When the handoff token was captured from which reading started.
    pub(crate) captured_at: Option<Timestamp>,
    /// The shards listed at that time.
    #[serde(serialize_with = "in_sets", deserialize_with = "from_sets")]
    pub(crate) shards: BTreeMap<String, Begin>,
}

impl StoredForm for Beginning {
    const VERSION: u32 = 2;
}

/// How shards are begun, in the saved form. There may be a hundred thousand.
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
    /// Records put from this time on are wanted.
    pub(crate) fn since(&self) -> Timestamp {
        self.captured_at.unwrap_or(self.begun_at)
    }

    pub(crate) fn of(
        listed: &StreamDescription,
        position: StartingPosition,
        token: Option<&HandoffToken>,
        begun_at: Timestamp,
    ) -> Self {
        let (ids, closed) = (listed.ids(), listed.closed());
        let begin = |shard: &ShardInfo| {
            if let Some(token) = token {
                return match token.closed.contains(&shard.id) {
                    true => Begin::Skip,
                    false => Begin::TrimHorizon,
                };
            }
            // A shard that waits for a parent gets there later. LATEST would then skip the records
            // put meanwhile.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::StreamInfo;
    use crate::trigger::form::{decode, encode};
    use aws_lambda_events::event::dynamodb::StreamViewType;
    use murmur_state::SequenceNumber;
    use murmur_testkit::damage::accepts_only_json_it_writes;
    use std::time::Duration;

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
        // A token says where to start, for every starting position.
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
        let kept = encode(&beginning);
        let text = r#"{"version":2,"stream_arn":"arn","begun_at":1800000000000,"captured_at":null,"shards":{"skip":"0.1:a1.1:b","latest":"0.1:b","trim_horizon":""}}"#;
        assert_eq!(
            kept,
            serde_json::from_str::<serde_json::Value>(text).unwrap()
        );
        assert_eq!(decode::<Beginning>("n", text).unwrap(), beginning);
        let twice = text.replace("0.1:b", "0.1:a");
        let error = decode::<Beginning>("n", &twice).unwrap_err();
        assert!(format!("{error:?}").contains("begun in two ways"));
    }

    #[test]
    fn a_damaged_beginning_is_refused_or_is_what_is_written() {
        fn again(bytes: &[u8]) -> Option<Vec<u8>> {
            let content: Beginning = decode("n", std::str::from_utf8(bytes).ok()?).ok()?;
            Some(encode(&content).to_string().into_bytes())
        }
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
        accepts_only_json_it_writes(&beginnings, again);
    }
}
