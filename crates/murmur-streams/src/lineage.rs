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
