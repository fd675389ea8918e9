//! The records of the pipelines of one bootstrap: they decide whether it may begin.

use std::collections::BTreeMap;
use std::sync::Arc;

use murmur_core::Pipeline;
use murmur_state::checkpoint::Saved;
use murmur_state::retry::Retry;
use murmur_state::store::SURE_LIFE;
use murmur_state::{Checkpoints, Deadline, PipelineName, Repeats, StoreError, Timestamp};

use super::error::BootstrapError;
use crate::run_record::{RunRecord, RunRecordError};

pub(crate) struct Register<'a> {
    source_name: &'a str,
    retry: &'a Retry,
    slots: Vec<Slot>,
}

/// One pipeline's record.
struct Slot {
    pipeline: PipelineName,
    fingerprint: String,
    repeats: Repeats,
    place: Arc<dyn Checkpoints>,
    known: Option<(RunRecord, u64)>,
}

/// Which of the runs that are found matter to this bootstrap.
pub(crate) struct Wanted<'a> {
    /// The run that a worker takes part in.
    pub(crate) run: Option<&'a str>,
    /// Whether to ignore other runs.
    pub(crate) restart: bool,
}

impl Wanted<'_> {
    fn sees(&self, record: &RunRecord) -> bool {
        !self.restart || self.run == Some(record.run.as_str())
    }
}

/// The terms under which an unfinished run may go on.
pub(crate) struct Terms<'a> {
    pub(crate) wanted: &'a Wanted<'a>,
    pub(crate) settings: &'a str,
    /// The time now; `None` if the run may be of any age.
    pub(crate) now: Option<Timestamp>,
}

impl<'a> Register<'a> {
    /// Loads the records, each from `place` or from its pipeline's own marker table.
    pub(crate) async fn load<T>(
        source_name: &'a str,
        retry: &'a Retry,
        pipelines: &[Pipeline<T>],
        place: Option<&Arc<dyn Checkpoints>>,
    ) -> Result<Self, BootstrapError> {
        let mut slots = Vec::with_capacity(pipelines.len());
        for pipeline in pipelines {
            let own = RunRecord::place(place, pipeline)?;
            slots.push(Slot {
                pipeline: pipeline.name().clone(),
                fingerprint: pipeline.fingerprint(),
                repeats: pipeline.repeats(),
                place: Arc::clone(own),
                known: None,
            });
        }
        // Every process uses one order: of two that begin at once, one stops at the first record.
        slots.sort_by(|a, b| a.pipeline.cmp(&b.pipeline));
        let mut register = Self {
            source_name,
            retry,
            slots,
        };
        register.reload_all().await?;
        Ok(register)
    }

    pub(crate) async fn reload_all(&mut self) -> Result<(), BootstrapError> {
        for n in 0..self.slots.len() {
            self.reload(n).await?;
        }
        Ok(())
    }

    /// The pipelines: name → fingerprint.
    pub(crate) fn pipelines(&self) -> BTreeMap<String, String> {
        let slots = self.slots.iter();
        slots
            .map(|slot| (slot.pipeline.to_string(), slot.fingerprint.clone()))
            .collect()
    }

    /// Where the run of `record` keeps its segments: its first pipeline, if this bootstrap has it,
    /// and that pipeline's checkpoints.
    pub(crate) fn first_place(
        &self,
        record: &RunRecord,
    ) -> Option<(PipelineName, Arc<dyn Checkpoints>)> {
        let first = record.pipelines.keys().next()?;
        let slot = self
            .slots
            .iter()
            .find(|slot| slot.pipeline.as_str() == first)?;
        Some((slot.pipeline.clone(), Arc::clone(&slot.place)))
    }

    /// The record of the finished run, if there is one, and when it was finished.
    pub(crate) fn finished(&self, wanted: &Wanted<'_>) -> Option<(RunRecord, Timestamp)> {
        let mut known = self.known().filter(|(_, record)| wanted.sees(record));
        known.find_map(|(_, record)| Some((record.clone(), record.finished_at?)))
    }

    /// An error if a pipeline was not in the finished run `record`: its state was not filled then.
    /// Workers choose the ids of runs, so an equal id alone does not make it the same run.
    pub(crate) fn refuse_unfinished(&self, record: &RunRecord) -> Result<(), BootstrapError> {
        let is_in = |slot: &&Slot| {
            let known = slot.known.as_ref();
            known.is_some_and(|(known, _)| {
                (&known.run, &known.pipelines) == (&record.run, &record.pipelines)
            })
        };
        let (finished, missing): (Vec<_>, Vec<_>) = self.slots.iter().partition(is_in);
        match finished.first() {
            Some(slot) if !missing.is_empty() => Err(BootstrapError::SomeFinished {
                pipeline: slot.pipeline.clone(),
                source_name: self.source_name.to_owned(),
                run: record.run.clone(),
                missing: missing
                    .iter()
                    .map(|slot| format!("`{}`", slot.pipeline))
                    .collect(),
            }),
            _ => Ok(()),
        }
    }

    /// An error if a pipeline of the run `record` is defined otherwise now, or its state elsewhere.
    pub(crate) fn refuse_other_definitions(
        &self,
        record: &RunRecord,
    ) -> Result<(), BootstrapError> {
        for slot in &self.slots {
            let theirs = record.pipelines.get(slot.pipeline.as_str());
            if let Some(theirs) = theirs.filter(|theirs| **theirs != slot.fingerprint) {
                return Err(BootstrapError::OtherDefinition {
                    pipeline: slot.pipeline.clone(),
                    source_name: self.source_name.to_owned(),
                    theirs: theirs.clone(),
                    ours: slot.fingerprint.clone(),
                });
            }
        }
        Ok(())
    }

    /// The unfinished run to continue; `None` if there is none. An error if it may not go on.
    pub(crate) fn unfinished(
        &self,
        terms: &Terms<'_>,
    ) -> Result<Option<RunRecord>, BootstrapError> {
        let wanted = terms.wanted;
        let known = || self.known().filter(|(_, record)| wanted.sees(record));
        let Some((_, first)) = known().next() else {
            return Ok(None);
        };
        let source_name = || self.source_name.to_owned();
        for (slot, record) in known() {
            let pipeline = slot.pipeline.clone();
            let others = |slot: &Slot| !record.pipelines.contains_key(slot.pipeline.as_str());
            if record.pipelines.len() != self.slots.len() || self.slots.iter().any(others) {
                return Err(BootstrapError::OtherPipelines {
                    pipeline,
                    source_name: source_name(),
                    together: record.pipelines.keys().cloned().collect(),
                });
            }
            if let Some(ours) = wanted.run.filter(|ours| *ours != record.run) {
                return Err(BootstrapError::OtherRun {
                    pipeline,
                    source_name: source_name(),
                    theirs: record.run.clone(),
                    ours: ours.to_owned(),
                });
            }
            if record.run != first.run {
                return Err(self.begun_elsewhere(&pipeline));
            }
            if record.settings != terms.settings {
                return Err(BootstrapError::OtherSettings {
                    pipeline,
                    theirs: record.settings.clone(),
                    ours: terms.settings.to_owned(),
                });
            }
            self.refuse_other_definitions(record)?;
            let age = terms.now.map(|now| now.since(record.captured_at));
            if let Some(age) = age.filter(|age| *age >= SURE_LIFE) {
                return Err(BootstrapError::TooOld {
                    pipeline,
                    source_name: source_name(),
                    hours: age.as_secs() / 3600,
                });
            }
        }
        let counts = |slot: &&Slot| slot.repeats == Repeats::Counted;
        if let Some(slot) = self.slots.iter().find(counts) {
            return Err(BootstrapError::WouldCountTwice {
                pipeline: slot.pipeline.clone(),
                source_name: source_name(),
            });
        }
        Ok(Some(first.clone()))
    }

    /// Saves `record` for every pipeline that does not have it, over the loaded version. Returns
    /// the first pipeline whose record another process saved meanwhile.
    pub(crate) async fn save(
        &mut self,
        record: &RunRecord,
    ) -> Result<Option<PipelineName>, BootstrapError> {
        for n in 0..self.slots.len() {
            let slot = &self.slots[n];
            let has_it = |(known, _): &(RunRecord, u64)| known == record;
            if slot.known.as_ref().is_some_and(has_it) {
                continue;
            }
            let pipeline = slot.pipeline.clone();
            loop {
                match self.put(&self.slots[n], record).await? {
                    Saved::Version(version) => {
                        self.slots[n].known = Some((record.clone(), version));
                        break;
                    }
                    Saved::Conflict if self.overtook(n, record).await? => {}
                    Saved::Conflict => return Ok(Some(pipeline)),
                }
            }
        }
        Ok(None)
    }

    /// Whether the record found at slot `n`, which another process saved meanwhile, is of a run
    /// that `record` has replaced: both runs begin with the first slot, which now holds this run.
    /// The other process is the one to stop.
    async fn overtook(&mut self, n: usize, record: &RunRecord) -> Result<bool, BootstrapError> {
        if n == 0 {
            return Ok(false);
        }
        self.reload(n).await?;
        let Some((found, _)) = &self.slots[n].known else {
            return Ok(false);
        };
        let first = |record: &RunRecord| record.pipelines.keys().next().cloned();
        let replaced = found.run != record.run && first(found) == first(record);
        self.reload(0).await?;
        let held = |(held, _): &(RunRecord, u64)| held.run == record.run;
        Ok(replaced && self.slots[0].known.as_ref().is_some_and(held))
    }

    /// Saves the finished `record` of a run of all these pipelines. Another process may have
    /// finished the same run meanwhile.
    pub(crate) async fn finish(&mut self, record: &RunRecord) -> Result<(), BootstrapError> {
        for n in 0..self.slots.len() {
            loop {
                let slot = &self.slots[n];
                match &slot.known {
                    Some((known, _)) if known.run == record.run => {
                        if known.finished_at.is_some() {
                            break;
                        }
                    }
                    _ => return Err(self.begun_elsewhere(&slot.pipeline)),
                }
                match self.put(slot, record).await? {
                    Saved::Version(version) => {
                        self.slots[n].known = Some((record.clone(), version));
                    }
                    Saved::Conflict => self.reload(n).await?,
                }
            }
        }
        Ok(())
    }

    fn known(&self) -> impl Iterator<Item = (&Slot, &RunRecord)> {
        let slots = self.slots.iter();
        slots.filter_map(|slot| slot.known.as_ref().map(|(record, _)| (slot, record)))
    }

    async fn reload(&mut self, n: usize) -> Result<(), BootstrapError> {
        let slot = &self.slots[n];
        let name = RunRecord::name(&slot.pipeline, self.source_name);
        let found = self
            .retry
            .run(
                Deadline::NONE,
                |error| self.again(error),
                || slot.place.load(&name),
            )
            .await;
        let known = found
            .map_err(RunRecordError::Store)
            .and_then(|found| match found {
                None => Ok(None),
                Some(found) => {
                    RunRecord::decode(&name, &found).map(|record| Some((record, found.version)))
                }
            })
            .map_err(|source| BootstrapError::Record {
                pipeline: slot.pipeline.clone(),
                source_name: self.source_name.to_owned(),
                source: Box::new(source),
            })?;
        self.slots[n].known = known;
        Ok(())
    }

    async fn put(&self, slot: &Slot, record: &RunRecord) -> Result<Saved, BootstrapError> {
        let name = RunRecord::name(&slot.pipeline, self.source_name);
        let (data, over) = (
            record.encode(),
            slot.known.as_ref().map(|(_, version)| *version),
        );
        let save = || slot.place.save(&name, &data, over);
        let saved = self
            .retry
            .run(Deadline::NONE, |error| self.again(error), save);
        saved
            .await
            .map_err(|source| BootstrapError::RecordNotSaved {
                pipeline: slot.pipeline.clone(),
                source_name: self.source_name.to_owned(),
                source: Box::new(source),
            })
    }

    fn again(&self, error: &StoreError) {
        tracing::debug!(source = self.source_name, %error, "a request for the run's record is retried");
    }

    pub(crate) fn begun_elsewhere(&self, pipeline: &PipelineName) -> BootstrapError {
        BootstrapError::BegunElsewhere {
            pipeline: pipeline.clone(),
            source_name: self.source_name.to_owned(),
        }
    }
}
