//! The shards of one stream, parents before children.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::description::StreamDescription;
use crate::trigger::beginning::{Begin, Beginning};

/// What this reader knows about a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is not read here: it waits for its parent, or for the next check of its lease.
    Idle,
    /// It is being read here.
    Working,
    /// It has answered empty, and the run only reads what is there.
    Drained,
    /// Another reader reads it.
    Elsewhere,
    /// It is read to its end.
    Done,
}

/// The state in which a reader leaves a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// It has no more records for now.
    Empty,
    /// It is read to its end, so its children may begin.
    Ended,
    /// Another reader has it.
    Elsewhere,
    /// The run was stopped. There may be more records.
    Interrupted,
}

/// The content of a shard's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SeenRow {
    /// No reader has it.
    Free,
    /// The named reader has it.
    Elsewhere(String),
    Ended,
}

#[derive(Debug)]
struct ShardNode {
    parent: Option<Arc<str>>,
    has_child: bool,
    state: State,
}

/// A shard to be read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardTask {
    pub(crate) shard: Arc<str>,
    pub(crate) parent: Option<Arc<str>>,
    /// Whether the parent is still listed, and so is read to its end.
    pub(crate) parent_listed: bool,
    /// Whether a child was listed, which proves that the shard will be closed.
    pub(crate) has_child: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Lineage {
    shards: BTreeMap<Arc<str>, ShardNode>,
    children: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// Shards that may be read and are not being read.
    ready: BTreeSet<Arc<str>>,
    working: usize,
    /// Parents that are gone and removed, as long as a listed shard names them.
    forgotten: HashSet<Arc<str>>,
}

impl Lineage {
    /// Takes over the stream's current list. Returns, each once, the shards that are no longer
    /// listed and whose children have all been begun according to `is_read`. Their rows are no
    /// longer needed.
    pub(crate) fn update(
        &mut self,
        listed: &StreamDescription,
        beginning: &Beginning,
        is_read: impl Fn(&str) -> bool,
    ) -> Vec<Arc<str>> {
        for shard in &listed.shards {
            let skip = beginning.shards.get(&shard.id) == Some(&Begin::Skip);
            let known = self.shards.entry(shard.id.as_str().into());
            known.or_insert_with(|| ShardNode {
                parent: shard.parent.as_deref().map(Into::into),
                has_child: false,
                state: if skip { State::Done } else { State::Idle },
            });
        }
        let (ids, parents) = (listed.ids(), listed.parents());
        // The children of a shard that is gone before it was read to its end, or its reader, will
        // find that out.
        self.shards
            .retain(|id, shard| ids.contains(&**id) || shard.state == State::Working);
        for (id, shard) in &mut self.shards {
            shard.has_child |= parents.contains(&**id);
        }
        let mut gone: BTreeMap<Arc<str>, bool> = BTreeMap::new();
        for (id, shard) in &self.shards {
            let parent = shard.parent.as_ref();
            if let Some(parent) = parent.filter(|id| !self.shards.contains_key(*id)) {
                let begun = match shard.state {
                    State::Drained | State::Done => true,
                    State::Working => is_read(id),
                    State::Idle | State::Elsewhere => false,
                };
                *gone.entry(Arc::clone(parent)).or_insert(true) &= begun;
            }
        }
        self.forgotten.retain(|id| gone.contains_key(id));
        let gone = gone.into_iter().filter(|(_, begun)| *begun);
        let gone = gone
            .map(|(id, _)| id)
            .filter(|id| self.forgotten.insert(Arc::clone(id)))
            .collect();
        self.index();
        gone
    }

    /// Derives the indexes from the shards.
    fn index(&mut self) {
        self.children.clear();
        for (id, shard) in &self.shards {
            if let Some(parent) = &shard.parent {
                let children = self.children.entry(Arc::clone(parent)).or_default();
                children.push(Arc::clone(id));
            }
        }
        let ready = |shard: &&ShardNode| shard.state == State::Idle && !self.waits(shard);
        let ready = self.shards.iter().filter(|(_, shard)| ready(shard));
        self.ready = ready.map(|(id, _)| Arc::clone(id)).collect();
        let states = self.shards.values().map(|shard| shard.state);
        self.working = states.filter(|state| *state == State::Working).count();
    }

    /// Whether a shard's parent is listed and not read to its end.
    fn waits(&self, shard: &ShardNode) -> bool {
        let parent = shard.parent.as_ref().and_then(|id| self.shards.get(id));
        parent.is_some_and(|parent| parent.state != State::Done)
    }

    fn set(&mut self, id: &str, state: State) {
        let Some((id, _)) = self.shards.get_key_value(id) else {
            return;
        };
        let id = Arc::clone(id);
        let Some(shard) = self.shards.get_mut(&id) else {
            return;
        };
        let before = std::mem::replace(&mut shard.state, state);
        self.working -= usize::from(before == State::Working);
        self.working += usize::from(state == State::Working);
        let of_shard = std::iter::once(&id);
        let children = self.children.get(&id).into_iter().flatten();
        for id in of_shard.chain(children) {
            let shard = self.shards.get(id);
            match shard.is_some_and(|shard| shard.state == State::Idle && !self.waits(shard)) {
                true => self.ready.insert(Arc::clone(id)),
                false => self.ready.remove(id),
            };
        }
    }

    /// Takes the shards that may be read and are not, up to `room` of them, and marks them as being
    /// read. Also returns how many there was no room for.
    pub(crate) fn start(&mut self, room: usize) -> (Vec<ShardTask>, usize) {
        let ready: Vec<Arc<str>> = self.ready.iter().take(room).map(Arc::clone).collect();
        let task = |id: Arc<str>| {
            self.set(&id, State::Working);
            let shard = self.shards.get(&id)?;
            let parent = shard.parent.clone();
            Some(ShardTask {
                parent_listed: parent
                    .as_ref()
                    .is_some_and(|parent| self.shards.contains_key(parent)),
                has_child: shard.has_child,
                parent,
                shard: id,
            })
        };
        let tasks = ready.into_iter().filter_map(task).collect();
        (tasks, self.ready.len())
    }

    /// The number of shards that can be read now, here or elsewhere.
    pub(crate) fn readable(&self) -> usize {
        let shards = self.shards.values();
        let open = shards.filter(|shard| !matches!(shard.state, State::Done | State::Drained));
        open.filter(|shard| !self.waits(shard)).count()
    }

    /// The shards that can be read now and are not read here.
    pub(crate) fn others(&self) -> Vec<Arc<str>> {
        let shards = self.shards.iter();
        let others = shards.filter(|(_, shard)| {
            matches!(shard.state, State::Idle | State::Elsewhere) && !self.waits(shard)
        });
        others.map(|(id, _)| Arc::clone(id)).collect()
    }

    /// Records the content of the row of a shard that is not read here.
    pub(crate) fn seen(&mut self, id: &str, seen: &SeenRow) {
        let shard = self.shards.get(id);
        if shard.is_some_and(|shard| matches!(shard.state, State::Idle | State::Elsewhere)) {
            self.set(
                id,
                match seen {
                    SeenRow::Free => State::Idle,
                    SeenRow::Elsewhere(_) => State::Elsewhere,
                    SeenRow::Ended => State::Done,
                },
            );
        }
    }

    /// Records how a reader left a shard. Returns whether a child of it can begin now.
    pub(crate) fn left(&mut self, id: &str, left: Left) -> bool {
        self.set(
            id,
            match left {
                Left::Empty => State::Drained,
                Left::Ended => State::Done,
                Left::Elsewhere => State::Elsewhere,
                Left::Interrupted => State::Idle,
            },
        );
        let has_child = self.shards.get(id).is_some_and(|shard| shard.has_child);
        left == Left::Ended && has_child
    }

    /// Checks again the shards that other readers have, and drained shards that turned out to have
    /// a child.
    pub(crate) fn look_again(&mut self) {
        for shard in self.shards.values_mut() {
            if shard.state == State::Elsewhere || shard.state == State::Drained && shard.has_child {
                shard.state = State::Idle;
            }
        }
        self.index();
    }

    pub(crate) fn working(&self) -> usize {
        self.working
    }

    /// Whether nothing is left to read here for now.
    pub(crate) fn is_drained(&self) -> bool {
        let states = &mut self.shards.values().map(|shard| shard.state);
        states.all(|state| matches!(state, State::Drained | State::Done | State::Elsewhere))
    }

    /// Whether every shard is read to its end.
    pub(crate) fn is_done(&self) -> bool {
        self.shards.values().all(|shard| shard.state == State::Done)
    }

    /// Whether a shard has ended for which no child was ever listed.
    pub(crate) fn awaits_children(&self) -> bool {
        let mut shards = self.shards.values();
        shards.any(|shard| shard.state == State::Done && !shard.has_child)
    }

    /// Whether shards wait for each other, so that none can ever be read.
    pub(crate) fn is_stuck(&self) -> bool {
        let open = |shard: &ShardNode| shard.state != State::Done;
        let waits = |shard: &ShardNode| shard.state == State::Idle && self.waits(shard);
        let mut open = self.shards.values().filter(|shard| open(shard)).peekable();
        open.peek().is_some() && open.all(waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::{ShardInfo, StreamInfo};
    use aws_lambda_events::event::dynamodb::StreamViewType;
    use murmur_state::{SequenceNumber, Timestamp};

    fn listed(shards: &[(&str, Option<&str>)]) -> StreamDescription {
        let info = |(id, parent): &(&str, Option<&str>)| ShardInfo {
            id: (*id).to_owned(),
            parent: parent.map(str::to_owned),
            first: None,
            ending: None,
        };
        StreamDescription {
            info: StreamInfo::new("arn", StreamViewType::KeysOnly),
            shards: shards.iter().map(info).collect(),
        }
    }

    fn beginning(skipped: &[&str]) -> Beginning {
        Beginning {
            stream_arn: "arn".to_owned(),
            begun_at: Timestamp::from_secs(0),
            captured_at: None,
            shards: skipped
                .iter()
                .map(|id| ((*id).to_owned(), Begin::Skip))
                .collect(),
        }
    }

    fn started(lineage: &mut Lineage) -> Vec<String> {
        let (tasks, left) = lineage.start(usize::MAX);
        assert_eq!(left, 0);
        let tasks = tasks.into_iter();
        tasks.map(|task| task.shard.to_string()).collect()
    }

    #[test]
    fn children_begin_once_their_parent_is_done_wherever_it_was_read() {
        let mut lineage = Lineage::default();
        let tree = listed(&[("a", Some("trimmed")), ("b", Some("a")), ("c", Some("a"))]);
        lineage.update(&tree, &beginning(&[]), |_| true);
        assert_eq!(started(&mut lineage), ["a"]);
        assert!(started(&mut lineage).is_empty());
        for left in [Left::Interrupted, Left::Elsewhere] {
            assert!(!lineage.left("a", left));
            lineage.look_again();
            assert_eq!(started(&mut lineage), ["a"], "after {left:?}");
        }
        assert!(lineage.left("a", Left::Ended));
        assert_eq!(started(&mut lineage), ["b", "c"]);
        assert_eq!(lineage.working(), 2);
        assert!(!lineage.is_drained());
        lineage.left("b", Left::Empty);
        lineage.left("c", Left::Elsewhere);
        assert!(lineage.is_drained());
        assert!(!lineage.is_done());
    }

    #[test]
    fn a_skipped_shard_is_done_from_the_start() {
        let mut lineage = Lineage::default();
        let tree = listed(&[("a", None), ("b", Some("a"))]);
        lineage.update(&tree, &beginning(&["a"]), |_| true);
        assert_eq!(started(&mut lineage), ["b"]);
    }

    #[test]
    fn a_shard_is_forgotten_once_when_it_is_gone_and_its_children_have_begun() {
        let mut lineage = Lineage::default();
        let begun = beginning(&[]);
        let later = listed(&[("b", Some("a")), ("c", Some("a"))]);
        let all = listed(&[("a", None), ("b", Some("a")), ("c", Some("a"))]);
        let forgotten = |lineage: &mut Lineage, tree, read: &[&str]| -> Vec<String> {
            let gone = lineage.update(tree, &begun, |id| read.contains(&id));
            gone.iter().map(ToString::to_string).collect()
        };
        assert!(forgotten(&mut lineage, &all, &[]).is_empty());
        started(&mut lineage);
        lineage.left("a", Left::Ended);
        assert!(
            forgotten(&mut lineage, &all, &[]).is_empty(),
            "it is listed"
        );
        assert!(forgotten(&mut lineage, &later, &[]).is_empty(), "they wait");
        started(&mut lineage);
        assert!(
            forgotten(&mut lineage, &later, &["b"]).is_empty(),
            "`c` has no row"
        );
        lineage.left("b", Left::Elsewhere);
        assert!(
            forgotten(&mut lineage, &later, &["c"]).is_empty(),
            "`b` may have none"
        );
        lineage.left("b", Left::Ended);
        assert_eq!(forgotten(&mut lineage, &later, &["c"]), ["a"]);
        assert!(forgotten(&mut lineage, &later, &["c"]).is_empty());
    }

    #[test]
    fn a_parent_that_is_gone_holds_nobody_up_until_it_turns_out_unread() {
        let mut lineage = Lineage::default();
        let begun = beginning(&[]);
        lineage.update(&listed(&[("a", None), ("b", Some("a"))]), &begun, |_| true);
        lineage.update(&listed(&[("b", Some("a"))]), &begun, |_| true);
        let (tasks, _) = lineage.start(usize::MAX);
        assert_eq!(tasks.len(), 1);
        assert!(!tasks[0].parent_listed);
    }

    #[test]
    fn shards_that_wait_for_each_other_are_noticed_and_those_of_others_are_not() {
        let mut lineage = Lineage::default();
        let begun = beginning(&[]);
        lineage.update(
            &listed(&[("a", Some("b")), ("b", Some("a"))]),
            &begun,
            |_| true,
        );
        assert!(lineage.is_stuck());
        let mut lineage = Lineage::default();
        lineage.update(&listed(&[("a", None), ("b", Some("a"))]), &begun, |_| true);
        assert!(!lineage.is_stuck());
        started(&mut lineage);
        lineage.left("a", Left::Elsewhere);
        lineage.look_again();
        assert!(!lineage.is_stuck());
        lineage.left("a", Left::Ended);
        lineage.left("b", Left::Ended);
        assert!(!lineage.is_stuck() && lineage.is_done());
    }

    #[test]
    fn no_more_shards_are_started_than_there_is_room_for() {
        let mut lineage = Lineage::default();
        let three = listed(&[("a", None), ("b", None), ("c", None)]);
        lineage.update(&three, &beginning(&[]), |_| true);
        for (room, started, left) in [(2, 2, 1), (0, 0, 1), (2, 1, 0)] {
            let (tasks, without_room) = lineage.start(room);
            assert_eq!((tasks.len(), without_room), (started, left));
        }
    }

    #[test]
    fn what_was_forgotten_is_remembered_only_while_it_is_named() {
        let mut lineage = Lineage::default();
        let begun = beginning(&[]);
        let names: Vec<String> = (0..100).map(|n| format!("s{n:03}")).collect();
        for pair in names.windows(2) {
            lineage.update(&listed(&[(&pair[1], Some(&pair[0]))]), &begun, |_| true);
            lineage.start(usize::MAX);
            lineage.left(&pair[1], Left::Ended);
            assert!(lineage.forgotten.len() <= 1 && lineage.shards.len() <= 1);
        }
    }

    #[test]
    fn a_shard_that_ended_without_a_listed_child_is_known() {
        let mut lineage = Lineage::default();
        let begun = beginning(&[]);
        lineage.update(&listed(&[("a", None)]), &begun, |_| true);
        assert!(!lineage.awaits_children());
        lineage.start(1);
        assert!(!lineage.left("a", Left::Ended));
        assert!(lineage.awaits_children());
        lineage.update(&listed(&[("a", None), ("b", Some("a"))]), &begun, |_| true);
        assert!(!lineage.awaits_children());
        // A list that misses the child again for a moment.
        lineage.update(&listed(&[("a", None)]), &begun, |_| true);
        assert!(!lineage.awaits_children());
    }

    #[test]
    fn a_hundred_thousand_shards_are_looked_through_once() {
        let names: Vec<String> = (0..100_000).map(|n| format!("s{n:06}")).collect();
        let mut tree = listed(&[]);
        tree.shards = names
            .iter()
            .enumerate()
            .map(|(at, id)| ShardInfo {
                id: id.clone(),
                parent: at.checked_sub(500).map(|parent| names[parent].clone()),
                first: None,
                ending: SequenceNumber::new(at.to_string()).ok(),
            })
            .collect();
        let began = std::time::Instant::now();
        assert_eq!(tree.closed().len(), 99_500);
        let mut lineage = Lineage::default();
        assert!(lineage.update(&tree, &beginning(&[]), |_| true).is_empty());
        assert_eq!(lineage.start(usize::MAX).0.len(), 500);
        // Comparing each shard with each other would take minutes.
        let took = began.elapsed();
        assert!(took.as_secs() < 20, "{took:?}");
        println!("100,000 shards listed in {took:?}");
    }
}
