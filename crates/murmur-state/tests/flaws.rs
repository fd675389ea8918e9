//! The conformance suite notices every breach of the contracts that is tried here.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

mod total;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;

use futures::future::BoxFuture;
use murmur_state::conformance::{self, Subject};
use murmur_state::intercept::{Intercept, Intercepted};
use murmur_state::{
    Add, Binding, Bound, Checkpoint, Checkpoints, Claim, Deadline, Deduper, EventId, ExactlyOnce,
    ItemChange, ItemId, Key, Ledger, LedgerEntry, ListSegment, Listed, MAX_KEYS, MemoryDeduper,
    MemoryStore, Mend, Once, Outcome, Owner, Position, Random, Read, ReadExt, Removed, Replace,
    Saved, StateRow, Store, StoreError, Timestamp, Tokens,
};
use total::Total;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    None,
    // Flaws in reading.
    MissingIsZero,
    AnswersBackwards,
    OneAnswerPerDistinctKey,
    // Flaws in merging.
    FirstOfEachKeyOnly,
    IgnoresBuckets,
    ReadsThenWrites,
    // Flaws in exactly-once.
    ForgetsEvents,
    TakesEventsWhole,
    SharesMarkers,
    MixesModes,
    BelongsToAnybody,
    ChecksNoOwner,
    ChecksWhatWasNeverBound,
    ProvesForAnother,
    ForgetsCheckpoints,
    // Flaws in the ledger.
    NeverTakesBack,
    TakesBackFromRowsThatMayBeGone,
    ScanWins,
    OldRecordsWin,
    TakesBackWhatIsKept,
    KeepsEverything,
    TakesAnyNumberOfKeys,
    ListsARowTwice,
    TellsOfOtherItems,
    ListsNotAllItems,
    MendsWhateverIsKnown,
    NeverSettles,
    TakesNothingBack,
    CountsSettledAgain,
    GuessesWhatWasBefore,
}

struct Flawed {
    flaw: Flaw,
    inner: MemoryStore<Total>,
    seen: Mutex<HashSet<String>>,
}

impl Flawed {
    fn subject(flaw: Flaw) -> Subject<Total, Intercepted<Self>, fn(u64) -> i64> {
        let store = Self {
            flaw,
            inner: MemoryStore::new(Total),
            seen: Mutex::default(),
        };
        Subject::new(Intercepted(store), Total, |n| n as i64 + 1)
    }

    fn first_time(&self, name: String) -> bool {
        self.seen.lock().unwrap().insert(name)
    }
}

impl Intercept for Flawed {
    type Monoid = Total;
    type Inner = MemoryStore<Total>;

    fn inner(&self) -> &MemoryStore<Total> {
        &self.inner
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<i64>>, StoreError> {
        let mut values = self.inner.get_many(keys).await?;
        match self.flaw {
            Flaw::MissingIsZero => values.iter_mut().for_each(|v| *v = Some(v.unwrap_or(0))),
            Flaw::AnswersBackwards => values.reverse(),
            Flaw::OneAnswerPerDistinctKey => {
                let mut seen = HashSet::new();
                let mut keys = keys.iter();
                values.retain(|_| keys.next().is_some_and(|key| seen.insert(key)));
            }
            _ => {}
        }
        Ok(values)
    }

    async fn list(&self, after: Option<&str>) -> Result<Listed<StateRow<i64>>, StoreError> {
        let mut listed = self.inner.list(after).await?;
        if self.flaw == Flaw::ListsARowTwice {
            listed.entries.extend_from_within(..);
        }
        Ok(listed)
    }

    async fn merge(&self, adds: &[Add<i64>], deadline: Deadline) -> Vec<Outcome> {
        let mut adds = adds.to_vec();
        match self.flaw {
            Flaw::FirstOfEachKeyOnly => {
                let mut seen = HashSet::new();
                for add in &mut adds {
                    if !seen.insert(add.key.clone()) {
                        add.value = 0;
                    }
                }
            }
            Flaw::IgnoresBuckets => {
                for add in &mut adds {
                    add.key = Key::new(add.key.entity(), 0).unwrap();
                }
            }
            Flaw::ReadsThenWrites => {
                for add in &mut adds {
                    let before = self.inner.get(&add.key).await.unwrap().unwrap_or(0);
                    // As long as a request takes, so that the tasks overlap.
                    for _ in 0..200 {
                        tokio::task::yield_now().await;
                    }
                    let now = self.inner.get(&add.key).await.unwrap().unwrap_or(0);
                    // Overwrites the values that others wrote meanwhile.
                    add.value += before - now;
                }
            }
            Flaw::MixesModes => {
                return adds.iter().map(|_| Outcome::Applied).collect();
            }
            _ => {}
        }
        self.inner.merge(&adds, deadline).await
    }

    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        match self.flaw {
            Flaw::ForgetsCheckpoints => Arc::new(MemoryDeduper::new()),
            _ => self.inner.checkpoints(),
        }
    }

    async fn bind(&self, binding: &Binding, deadline: Deadline) -> Result<Bound, StoreError> {
        match self.inner.bind(binding, deadline).await {
            Err(StoreError::OtherOwner { .. }) if self.flaw == Flaw::BelongsToAnybody => {
                Ok(Bound::new(binding.clone()))
            }
            Ok(_) if self.flaw == Flaw::ProvesForAnother => Ok(conformance::bound("another")),
            bound => bound,
        }
    }

    async fn check_binding(
        &self,
        binding: &Binding,
        deadline: Deadline,
    ) -> Result<Bound, StoreError> {
        let checked = self.inner.check_binding(binding, deadline).await;
        match (self.flaw, checked) {
            (Flaw::BelongsToAnybody | Flaw::ChecksNoOwner, Err(StoreError::OtherOwner { .. }))
            | (Flaw::ChecksWhatWasNeverBound, Err(StoreError::Setup { .. })) => {
                Ok(Bound::new(binding.clone()))
            }
            (_, checked) => checked,
        }
    }

    async fn apply(&self, bound: &Bound, events: &[Once<i64>], deadline: Deadline) -> Vec<Outcome> {
        let shared = conformance::bound("shared");
        let mut outcomes = Vec::new();
        for event in events {
            let bound = match self.flaw {
                // Every delivery is a new event.
                Flaw::ForgetsEvents => &{
                    let mut n = 0;
                    while !self.first_time(format!("{}-{n}", event.id)) {
                        n += 1;
                    }
                    conformance::bound(&format!("p{n}"))
                },
                Flaw::SharesMarkers => &shared,
                _ => bound,
            };
            let name = format!("{}/{}", bound.pipeline(), event.id);
            let whole = matches!(self.flaw, Flaw::TakesEventsWhole | Flaw::SharesMarkers);
            if whole && !self.first_time(name) {
                outcomes.push(Outcome::Duplicate);
                continue;
            }
            let one = std::slice::from_ref(event);
            outcomes.extend(self.inner.apply(bound, one, deadline).await);
        }
        outcomes
    }

    async fn replace(
        &self,
        bound: &Bound,
        items: &[Replace<i64>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        let mut items = items.to_vec();
        for item in &mut items {
            let n = self.seen.lock().unwrap().len();
            let name = format!("{}-{:?}-{n}", item.item, item.at);
            self.first_time(name);
            if let Some(change) = &mut item.change {
                match self.flaw {
                    Flaw::NeverSettles => change.settles = false,
                    Flaw::TakesNothingBack => change.before.clear(),
                    Flaw::CountsSettledAgain => {
                        change.id = EventId::new(format!("{}-{n}", change.id)).unwrap();
                    }
                    _ => {}
                }
            }
            let later = || Position::Stream(format!("9{n:09}").try_into().unwrap());
            match (self.flaw, &item.at) {
                (Flaw::ScanWins, Position::Scan) => item.at = later(),
                (Flaw::OldRecordsWin, Position::Stream(_)) => item.at = later(),
                (Flaw::TakesBackFromRowsThatMayBeGone, _) => {
                    item.now.iter_mut().for_each(|add| add.ttl = None);
                }
                (Flaw::TakesBackWhatIsKept, _) => item.keep.clear(),
                (Flaw::KeepsEverything, _) => item.keep.clone_from(&item.now),
                (Flaw::TakesAnyNumberOfKeys, _) => item.now.truncate(MAX_KEYS),
                (Flaw::NeverTakesBack, _) => {
                    item.item =
                        murmur_state::ItemId::from_parts([item.item.as_str(), &n.to_string()]);
                }
                (Flaw::GuessesWhatWasBefore, Position::Stream(_)) if item.change.is_none() => {
                    item.change = Some(ItemChange {
                        id: EventId::new(format!("guessed-{n}")).unwrap(),
                        handed_over: Timestamp::from_secs(0),
                        before: Vec::new(),
                        settles: false,
                    });
                }
                _ => {}
            }
        }
        self.inner.replace(bound, &items, deadline).await
    }

    async fn known(
        &self,
        bound: &Bound,
        items: &[ItemId],
        deadline: Deadline,
    ) -> Result<Vec<Option<LedgerEntry<i64>>>, StoreError> {
        let known = self.inner.known(bound, items, deadline);
        let mut known = known.await?;
        if self.flaw == Flaw::TellsOfOtherItems {
            known.reverse();
        }
        Ok(known)
    }

    async fn list_known(
        &self,
        bound: &Bound,
        segment: ListSegment,
        after: Option<&str>,
    ) -> Result<Listed<LedgerEntry<i64>>, StoreError> {
        let listed = self.inner.list_known(bound, segment, after);
        let mut listed = listed.await?;
        if self.flaw == Flaw::ListsNotAllItems {
            listed.entries.pop();
        }
        Ok(listed)
    }

    async fn mend(&self, bound: &Bound, items: &[Mend<i64>], deadline: Deadline) -> Vec<Outcome> {
        let mut items = items.to_vec();
        for item in &mut items {
            if self.flaw == Flaw::MendsWhateverIsKnown {
                let one = std::slice::from_ref(&item.item);
                let known = self.inner.known(bound, one, deadline).await;
                item.over = known.unwrap().pop().flatten().map(|known| known.version);
            }
        }
        self.inner.mend(bound, &items, deadline).await
    }
}

/// Whether the suite panics.
async fn notices(suite: impl Future<Output = ()> + Send + 'static) -> bool {
    tokio::spawn(suite).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_a_flaw_passes() {
    let subject = Flawed::subject(Flaw::None);
    subject.store().await;
    subject.exactly_once().await;
    subject.ledger().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flaw_of_a_store_is_noticed() {
    for flaw in [
        Flaw::MissingIsZero,
        Flaw::AnswersBackwards,
        Flaw::OneAnswerPerDistinctKey,
        Flaw::FirstOfEachKeyOnly,
        Flaw::IgnoresBuckets,
        Flaw::ReadsThenWrites,
    ] {
        let subject = Flawed::subject(flaw);
        assert!(
            notices(async move { subject.store().await }).await,
            "{flaw:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flaw_of_exactly_once_is_noticed() {
    for flaw in [
        Flaw::ForgetsEvents,
        Flaw::TakesEventsWhole,
        Flaw::SharesMarkers,
        Flaw::MixesModes,
        Flaw::BelongsToAnybody,
        Flaw::ChecksNoOwner,
        Flaw::ChecksWhatWasNeverBound,
        Flaw::ProvesForAnother,
        Flaw::ForgetsCheckpoints,
    ] {
        let subject = Flawed::subject(flaw);
        let suite = async move { subject.exactly_once().await };
        assert!(notices(suite).await, "{flaw:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flaw_of_a_ledger_is_noticed() {
    for flaw in [
        Flaw::NeverTakesBack,
        Flaw::TakesBackFromRowsThatMayBeGone,
        Flaw::ScanWins,
        Flaw::OldRecordsWin,
        Flaw::TakesBackWhatIsKept,
        Flaw::KeepsEverything,
        Flaw::TakesAnyNumberOfKeys,
        Flaw::ListsARowTwice,
        Flaw::TellsOfOtherItems,
        Flaw::ListsNotAllItems,
        Flaw::MendsWhateverIsKnown,
        Flaw::NeverSettles,
        Flaw::TakesNothingBack,
        Flaw::CountsSettledAgain,
        Flaw::GuessesWhatWasBefore,
    ] {
        let subject = Flawed::subject(flaw);
        let suite = async move { subject.ledger().await };
        assert!(notices(suite).await, "{flaw:?}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum MarkerFlaw {
    EveryClaimIsFirst,
    OwnClaimIsDuplicate,
    AnybodyReleases,
    NobodyReleases,
    SavesOverAnything,
    ForgetsOwnSave,
    RemovesAnyVersion,
    RemovesNothing,
    RemovesOnceOnly,
    LooksThenRemoves,
}

struct FlawedMarkers(MarkerFlaw, MemoryDeduper);

impl Deduper for FlawedMarkers {
    async fn claim(&self, id: &str, owner: &Owner, by: Deadline) -> Result<Claim, StoreError> {
        match self.0 {
            MarkerFlaw::EveryClaimIsFirst => Ok(Claim::First),
            MarkerFlaw::OwnClaimIsDuplicate => {
                let other = Owner::new(&Tokens::new()).unwrap();
                self.1.claim(id, &other, by).await
            }
            MarkerFlaw::AnybodyReleases => {
                // One name for all owners: every caller owns the claim, but it is still made once.
                let all = Owner::new(&Tokens::repeatable(Random::seeded(0))).unwrap();
                let probe = Owner::new(&Tokens::new()).unwrap();
                match self.1.claim(id, &probe, by).await? {
                    Claim::Duplicate => self.1.claim(id, owner, by).await,
                    Claim::First => {
                        self.1.release(id, &probe, by).await?;
                        self.1.claim(id, &all, by).await
                    }
                }
            }
            _ => self.1.claim(id, owner, by).await,
        }
    }

    async fn release(&self, id: &str, owner: &Owner, by: Deadline) -> Result<(), StoreError> {
        match self.0 {
            MarkerFlaw::NobodyReleases => Ok(()),
            MarkerFlaw::AnybodyReleases => {
                let all = Owner::new(&Tokens::repeatable(Random::seeded(0))).unwrap();
                self.1.release(id, &all, by).await
            }
            _ => self.1.release(id, owner, by).await,
        }
    }
}

impl Checkpoints for FlawedMarkers {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        self.1.load(name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        Box::pin(async move {
            let known = self.1.load(name).await?;
            match self.0 {
                MarkerFlaw::SavesOverAnything => {
                    let version = known.map(|known| known.version);
                    self.1.save(name, data, version).await
                }
                MarkerFlaw::ForgetsOwnSave if known.map(|known| known.version) != over => {
                    Ok(Saved::Conflict)
                }
                _ => self.1.save(name, data, over).await,
            }
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        Box::pin(async move {
            let version = async || Ok(self.1.load(name).await?.map(|known| known.version));
            let known: Option<u64> = version().await?;
            match (self.0, known) {
                (MarkerFlaw::RemovesAnyVersion, Some(known)) => self.1.remove(name, known).await,
                (MarkerFlaw::RemovesNothing, Some(known)) if known == over => Ok(Removed::Gone),
                (MarkerFlaw::RemovesOnceOnly, None) => Ok(Removed::Conflict),
                (MarkerFlaw::LooksThenRemoves, Some(known)) if known == over => {
                    // As long as a request takes, so that the tasks overlap.
                    for _ in 0..200 {
                        tokio::task::yield_now().await;
                    }
                    match version().await? {
                        Some(now) => self.1.remove(name, now).await,
                        None => Ok(Removed::Gone),
                    }
                }
                _ => self.1.remove(name, over).await,
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flaw_of_a_deduper_is_noticed() {
    for flaw in [
        MarkerFlaw::EveryClaimIsFirst,
        MarkerFlaw::OwnClaimIsDuplicate,
        MarkerFlaw::AnybodyReleases,
        MarkerFlaw::NobodyReleases,
    ] {
        let markers = FlawedMarkers(flaw, MemoryDeduper::new());
        assert!(notices(conformance::deduper(markers)).await, "{flaw:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_flaw_of_checkpoints_is_noticed() {
    for flaw in [
        MarkerFlaw::SavesOverAnything,
        MarkerFlaw::ForgetsOwnSave,
        MarkerFlaw::RemovesAnyVersion,
        MarkerFlaw::RemovesNothing,
        MarkerFlaw::RemovesOnceOnly,
        MarkerFlaw::LooksThenRemoves,
    ] {
        let markers = FlawedMarkers(flaw, MemoryDeduper::new());
        assert!(notices(conformance::checkpoints(markers)).await, "{flaw:?}");
    }
}
