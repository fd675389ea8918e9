//! The shards of one stream, parents before children.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::description::StreamDescription;
use crate::trigger::positions::{Begin, Beginning};

/// What this reader knows of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody reads it here: it waits for its parent, or for the next look at its lease.
    Idle,
    /// It is being read here.
    Working,
    /// It has answered empty, and the run only wants what was there.
    Drained,
    /// Somebody else reads it.
    Elsewhere,
    /// It is read to its end.
    Done,
}

/// In what state a reader leaves a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing more for now.
    Empty,
    /// Read to its end: its children may begin.
    Ended,
    /// Another reader has it.
    Elsewhere,
    /// The run was stopped; there may be more.
    Interrupted,
}

#[derive(Debug)]
struct Known {
    parent: Option<Arc<str>>,
    has_child: bool,
    listed: bool,
    state: State,
}

/// A shard to be read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) shard: Arc<str>,
    pub(crate) parent: Option<Arc<str>>,
    /// Whether the parent is still listed; it is read to its end then.
    pub(crate) parent_listed: bool,
    /// Whether a child was listed, which proves that the shard will be closed.
    pub(crate) has_child: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Lineage {
    shards: BTreeMap<Arc<str>, Known>,
}

impl Lineage {
    /// Takes in what the stream lists now; answers the shards that are listed no more, were read
    /// to their end, and whose children have begun, as `is_read` says.
    pub(crate) fn update(
        &mut self,
        listed: &StreamDescription,
        beginning: &Beginning,
        is_read: impl Fn(&str) -> bool,
    ) -> Vec<Arc<str>> {
        for known in self.shards.values_mut() {
            (known.listed, known.has_child) = (false, false);
        }
        for shard in &listed.shards {
            let skip = beginning.shards.get(&shard.id) == Some(&Begin::Skip);
            let known = self
                .shards
                .entry(shard.id.as_str().into())
                .or_insert_with(|| Known {
                    parent: shard.parent.as_deref().map(Into::into),
                    has_child: false,
                    listed: true,
                    state: if skip { State::Done } else { State::Idle },
                });
            known.listed = true;
            known.has_child = listed.has_child(&shard.id);
        }
        let waiting: HashSet<Arc<str>> = self
            .shards
            .iter()
            .filter(|(id, shard)| match shard.state {
                State::Idle | State::Elsewhere => true,
                State::Working => !is_read(id),
                State::Drained | State::Done => false,
            })
            .filter_map(|(_, shard)| shard.parent.clone())
            .collect();
        let forgotten: Vec<Arc<str>> = self
            .shards
            .iter()
            .filter(|(id, shard)| {
                !shard.listed && shard.state == State::Done && !waiting.contains(*id)
            })
            .map(|(id, _)| Arc::clone(id))
            .collect();
        // One that is gone before it was read to its end is found out by its children, and by
        // whoever reads it.
        self.shards.retain(|id, shard| match shard.state {
            _ if shard.listed => true,
            State::Working => true,
            State::Done => waiting.contains(id),
            _ => false,
        });
        forgotten
    }

    /// The shards that may be read and are not, up to `room` of them; they are being read from
    /// now on.
    pub(crate) fn start(&mut self, room: usize) -> Vec<Task> {
        let open: HashSet<Arc<str>> = self
            .shards
            .iter()
            .filter(|(_, shard)| shard.state != State::Done)
            .map(|(id, _)| Arc::clone(id))
            .collect();
        let ids: HashSet<Arc<str>> = self.shards.keys().cloned().collect();
        let waits = |shard: &Known| shard.parent.as_ref().is_some_and(|id| open.contains(id));
        self.shards
            .iter_mut()
            .filter(|(_, shard)| shard.state == State::Idle && !waits(shard))
            .take(room)
            .map(|(id, shard)| {
                shard.state = State::Working;
                Task {
                    shard: Arc::clone(id),
                    parent: shard.parent.clone(),
                    parent_listed: shard.parent.as_ref().is_some_and(|id| ids.contains(id)),
                    has_child: shard.has_child,
                }
            })
            .collect()
    }

    /// Notes how a reader left a shard; whether a child of it can begin now.
    pub(crate) fn left(&mut self, id: &str, left: Left) -> bool {
        if let Some(shard) = self.shards.get_mut(id) {
            shard.state = match left {
                Left::Empty => State::Drained,
                Left::Ended => State::Done,
                Left::Elsewhere => State::Elsewhere,
                Left::Interrupted => State::Idle,
            };
        }
        left == Left::Ended && self.has_child(id)
    }

    /// The shards somebody else reads are looked at once more, and so are those drained that
    /// turned out to have a child.
    pub(crate) fn look_again(&mut self) {
        for shard in self.shards.values_mut() {
            if shard.state == State::Elsewhere || shard.state == State::Drained && shard.has_child {
                shard.state = State::Idle;
            }
        }
    }

    pub(crate) fn working(&self) -> usize {
        let working = |shard: &&Known| shard.state == State::Working;
        self.shards.values().filter(working).count()
    }

    /// Whether nothing is left to read, now and here.
    pub(crate) fn is_drained(&self) -> bool {
        let states = &mut self.shards.values().map(|shard| shard.state);
        states.all(|state| matches!(state, State::Drained | State::Done | State::Elsewhere))
    }

    /// Whether every shard is read to its end.
    pub(crate) fn is_done(&self) -> bool {
        self.shards.values().all(|shard| shard.state == State::Done)
    }

    /// Whether shards wait for each other, so that none can ever be read.
    pub(crate) fn is_stuck(&self) -> bool {
        let open = |shard: &Known| shard.state != State::Done;
        let waits = |shard: &Known| {
            let parent = shard.parent.as_ref().and_then(|id| self.shards.get(id));
            shard.state == State::Idle && parent.is_some_and(open)
        };
        let mut open = self.shards.values().filter(|shard| open(shard)).peekable();
        open.peek().is_some() && open.all(waits)
    }

    fn has_child(&self, id: &str) -> bool {
        let is_child = |shard: &Known| shard.parent.as_deref() == Some(id);
        self.shards.values().any(is_child)
    }
}
