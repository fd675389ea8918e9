use std::collections::{BTreeMap, HashSet};

use aws_lambda_events::event::dynamodb::EventRecord;

use crate::description::StreamDescription;
use crate::options::StartingPosition;
use crate::source::{Cursor, Start};

/// How far one shard is.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) id: String,
    parent: Option<String>,
    /// Whether a child was listed, which proves that the shard will be closed.
    pub(crate) has_child: bool,
    /// Where to read on; `None` once it is read to its end.
    pub(crate) cursor: Option<Cursor>,
    /// Read and not yet done.
    pub(crate) pending: Vec<EventRecord>,
    /// How often in a row the first pending record was in a batch and not done.
    pub(crate) failures: u32,
}

impl Shard {
    fn is_done(&self) -> bool {
        self.cursor.is_none() && self.pending.is_empty()
    }
}

/// The shards of one stream, parents before children.
#[derive(Debug, Default)]
pub(crate) struct Lineage {
    shards: BTreeMap<String, Shard>,
    begun: bool,
}

impl Lineage {
    /// Takes in what the stream lists now: new shards begin, those done and gone are forgotten.
    pub(crate) fn update(&mut self, listed: &StreamDescription, position: StartingPosition) {
        let first_generation = !std::mem::replace(&mut self.begun, true);
        let latest = first_generation && position == StartingPosition::Latest;
        for shard in &listed.shards {
            // A shard that waits for a parent gets there later than now: LATEST would then skip
            // what was put meanwhile.
            let waits = listed
                .shards
                .iter()
                .any(|other| Some(&other.id) == shard.parent.as_ref() && !listed.is_closed(other));
            let known = self
                .shards
                .entry(shard.id.clone())
                .or_insert_with(|| Shard {
                    id: shard.id.clone(),
                    parent: shard.parent.clone(),
                    has_child: false,
                    cursor: match latest {
                        true if listed.is_closed(shard) => None,
                        true if !waits => Some(Start::Latest.into()),
                        _ => Some(Start::TrimHorizon.into()),
                    },
                    pending: Vec::new(),
                    failures: 0,
                });
            known.has_child = listed.has_child(&shard.id);
        }
        let ids = listed.ids();
        self.shards
            .retain(|id, shard| !shard.is_done() || ids.contains(id.as_str()));
    }

    /// The shards that are not done and need not wait for their parent.
    pub(crate) fn ready(&mut self) -> Vec<&mut Shard> {
        let unfinished: HashSet<String> = self
            .shards
            .values()
            .filter(|shard| !shard.is_done())
            .map(|shard| shard.id.clone())
            .collect();
        self.shards
            .values_mut()
            .filter(|shard| unfinished.contains(&shard.id))
            .filter(|shard| {
                !shard
                    .parent
                    .as_ref()
                    .is_some_and(|id| unfinished.contains(id))
            })
            .collect()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.shards.values().all(Shard::is_done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::{ShardInfo, StreamInfo};
    use aws_lambda_events::event::dynamodb::StreamViewType;
    use murmur_state::SequenceNumber;

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

    fn ready(lineage: &mut Lineage) -> Vec<String> {
        lineage
            .ready()
            .into_iter()
            .map(|shard| shard.id.clone())
            .collect()
    }

    #[test]
    fn latest_is_for_shards_that_are_open_and_wait_for_nobody() {
        let mut lineage = Lineage::default();
        let first = [
            ("closed", Some("trimmed"), true),
            ("child", Some("closed"), false),
            ("unsure", None, false),
            ("waits", Some("unsure"), false),
            ("shows an end", None, true),
        ];
        lineage.update(&listed(&first), StartingPosition::Latest);
        let start = |lineage: &Lineage, id: &str| lineage.shards[id].cursor.clone();
        assert_eq!(start(&lineage, "closed"), None);
        assert_eq!(start(&lineage, "child"), Some(Start::Latest.into()));
        assert_eq!(start(&lineage, "unsure"), Some(Start::Latest.into()));
        assert_eq!(start(&lineage, "waits"), Some(Start::TrimHorizon.into()));
        assert_eq!(start(&lineage, "shows an end"), Some(Start::Latest.into()));
        let later = [
            ("child", Some("closed"), true),
            ("grandchild", Some("child"), false),
        ];
        lineage.update(&listed(&later), StartingPosition::Latest);
        assert_eq!(
            start(&lineage, "grandchild"),
            Some(Start::TrimHorizon.into())
        );
    }

    #[test]
    fn a_stream_without_shards_was_still_begun() {
        let mut lineage = Lineage::default();
        lineage.update(&listed(&[]), StartingPosition::Latest);
        lineage.update(&listed(&[("s", None, false)]), StartingPosition::Latest);
        assert_eq!(lineage.shards["s"].cursor, Some(Start::TrimHorizon.into()));
    }

    #[test]
    fn children_wait_for_a_parent_that_is_known_and_not_done() {
        let mut lineage = Lineage::default();
        let tree = [
            ("a", Some("trimmed"), true),
            ("b", Some("a"), false),
            ("c", Some("a"), false),
        ];
        lineage.update(&listed(&tree), StartingPosition::TrimHorizon);
        assert_eq!(ready(&mut lineage), ["a"]);
        let a = lineage.ready().remove(0);
        a.cursor = None;
        a.pending.push(EventRecord::default());
        assert_eq!(ready(&mut lineage), ["a"], "read to its end, and not done");
        lineage.ready().remove(0).pending.clear();
        assert_eq!(ready(&mut lineage), ["b", "c"]);
    }

    #[test]
    fn shards_are_forgotten_once_they_are_done_and_no_longer_listed() {
        let mut lineage = Lineage::default();
        let tree = listed(&[("a", None, true), ("b", Some("a"), false)]);
        lineage.update(&tree, StartingPosition::TrimHorizon);
        lineage.ready().remove(0).cursor = None;
        lineage.update(&tree, StartingPosition::TrimHorizon);
        assert_eq!(
            ready(&mut lineage),
            ["b"],
            "done, still listed, and not begun again"
        );
        lineage.update(&listed(&[]), StartingPosition::TrimHorizon);
        assert_eq!(lineage.shards.keys().collect::<Vec<_>>(), ["b"]);
        assert!(!lineage.is_done());
    }
}
