//! The shards of one stream, parents before children.

use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// Parents that are gone and forgotten, as long as a listed shard names them.
    forgotten: HashSet<Arc<str>>,
}

impl Lineage {
    /// Takes in what the stream lists now. Answers the shards that are listed no more and whose
    /// children all have begun, as `is_read` says, each once: nobody needs their rows any longer.
    pub(crate) fn update(
        &mut self,
        listed: &StreamDescription,
        beginning: &Beginning,
        is_read: impl Fn(&str) -> bool,
    ) -> Vec<Arc<str>> {
        for shard in &listed.shards {
            let skip = beginning.shards.get(&shard.id) == Some(&Begin::Skip);
            let known = self.shards.entry(shard.id.as_str().into());
            known.or_insert_with(|| Known {
                parent: shard.parent.as_deref().map(Into::into),
                has_child: false,
                state: if skip { State::Done } else { State::Idle },
            });
        }
        let (ids, parents) = (listed.ids(), listed.parents());
        // One that is gone before it was read to its end is found out by its children, and by
        // whoever reads it.
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
        gone.map(|(id, _)| id)
            .filter(|id| self.forgotten.insert(Arc::clone(id)))
            .collect()
    }

    /// The shards that may be read and are not, up to `room` of them; they are being read from
    /// now on. And how many there was no room for.
    pub(crate) fn start(&mut self, room: usize) -> (Vec<Task>, usize) {
        let is_open: HashMap<Arc<str>, bool> = self
            .shards
            .iter()
            .map(|(id, shard)| (Arc::clone(id), shard.state != State::Done))
            .collect();
        // Of the shard's parent, if that is listed.
        let parent_open = |shard: &Known| is_open.get(shard.parent.as_ref()?).copied();
        let mut ready = self
            .shards
            .iter_mut()
            .filter(|(_, shard)| shard.state == State::Idle && parent_open(shard) != Some(true));
        let tasks = ready.by_ref().take(room).map(|(id, shard)| {
            shard.state = State::Working;
            Task {
                shard: Arc::clone(id),
                parent: shard.parent.clone(),
                parent_listed: parent_open(shard).is_some(),
                has_child: shard.has_child,
            }
        });
        (tasks.collect(), ready.count())
    }

    /// Notes how a reader left a shard; whether a child of it can begin now.
    pub(crate) fn left(&mut self, id: &str, left: Left) -> bool {
        let Some(shard) = self.shards.get_mut(id) else {
            return false;
        };
        shard.state = match left {
            Left::Empty => State::Drained,
            Left::Ended => State::Done,
            Left::Elsewhere => State::Elsewhere,
            Left::Interrupted => State::Idle,
        };
        left == Left::Ended && shard.has_child
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

    /// Whether a shard has ended of which no child was ever listed.
    pub(crate) fn awaits_children(&self) -> bool {
        let mut shards = self.shards.values();
        shards.any(|shard| shard.state == State::Done && !shard.has_child)
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
        // A list that lacks the child again for a moment.
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
        // Each shard against each other takes minutes.
        let took = began.elapsed();
        assert!(took.as_secs() < 20, "{took:?}");
        println!("100,000 shards listed in {took:?}");
    }
}
