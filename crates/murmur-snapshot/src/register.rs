//! The records of the pipelines of one bootstrap: may it begin, and what is kept of it.

use std::sync::Arc;
use std::time::Duration;

use murmur_core::Pipeline;
use murmur_state::{
    Checkpoints, Deadline, OptionError, PipelineName, Repeats, Retry, Saved, StoreError, Timestamp,
};

use crate::error::BootstrapError;
use crate::run_record::{RunRecord, RunRecordError};

/// How long a stream keeps its records ("Change data capture for DynamoDB Streams", Amazon
/// DynamoDB Developer Guide): an older token may have a gap behind it.
const STREAM_LIFE: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct Register<'a> {
    source_name: &'a str,
    retry: &'a Retry,
    slots: Vec<Slot>,
}

/// One pipeline's record.
struct Slot {
    pipeline: PipelineName,
    repeats: Repeats,
    place: Arc<dyn Checkpoints>,
    known: Option<(RunRecord, u64)>,
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
            let own = place.or(pipeline.checkpoints()).ok_or_else(|| {
                let reason = format!(
                    "pipeline `{}` has no marker table to keep the run's record in; say where to keep it",
                    pipeline.name()
                );
                OptionError::new("checkpoints", reason)
            })?;
            slots.push(Slot {
                pipeline: pipeline.name().clone(),
                repeats: pipeline.repeats(),
                place: Arc::clone(own),
                known: None,
            });
        }
        // One order for everybody: of two that begin at once, one stops at the first record.
        slots.sort_by(|a, b| a.pipeline.cmp(&b.pipeline));
        let mut register = Self {
            source_name,
            retry,
            slots,
        };
        for n in 0..register.slots.len() {
            register.reload(n).await?;
        }
        Ok(register)
    }

    /// The names of the pipelines, sorted.
    pub(crate) fn pipelines(&self) -> Vec<String> {
        let names = self.slots.iter().map(|slot| slot.pipeline.to_string());
        names.collect()
    }

    /// The unfinished run to take up again; `None` if there never was one. An error if the run
    /// may not begin.
    pub(crate) async fn unfinished(
        &mut self,
        now: Timestamp,
    ) -> Result<Option<RunRecord>, BootstrapError> {
        let finished = self
            .known()
            .find(|(_, record)| record.finished_at.is_some());
        if let Some((slot, record)) = finished {
            let (pipeline, record) = (slot.pipeline.clone(), record.clone());
            // An end that was interrupted between two records is completed.
            self.finish(&record, false).await?;
            return Err(BootstrapError::AlreadyFinished {
                pipeline,
                source_name: self.source_name.to_owned(),
                record: Box::new(record),
            });
        }
        let Some(first) = self.known().next().map(|(_, record)| record.clone()) else {
            return Ok(None);
        };
        let ours = self.pipelines();
        for (slot, record) in self.known() {
            if record.pipelines != ours {
                return Err(BootstrapError::OtherPipelines {
                    pipeline: slot.pipeline.clone(),
                    source_name: self.source_name.to_owned(),
                    together: record.pipelines.clone(),
                });
            }
            if record.run != first.run {
                return Err(self.begun_elsewhere(slot));
            }
            let age = now.since(record.captured_at);
            if age >= STREAM_LIFE {
                return Err(BootstrapError::TooOld {
                    pipeline: slot.pipeline.clone(),
                    source_name: self.source_name.to_owned(),
                    hours: age.as_secs() / 3600,
                });
            }
        }
        if let Some(slot) = self
            .slots
            .iter()
            .find(|slot| slot.repeats == Repeats::Counted)
        {
            return Err(BootstrapError::WouldCountTwice {
                pipeline: slot.pipeline.clone(),
                source_name: self.source_name.to_owned(),
            });
        }
        Ok(Some(first))
    }

    /// Saves `record` for every pipeline that does not have it, over what was loaded.
    pub(crate) async fn save(&mut self, record: &RunRecord) -> Result<(), BootstrapError> {
        for n in 0..self.slots.len() {
            let slot = &self.slots[n];
            let has_it = |(known, _): &(RunRecord, u64)| known == record;
            if slot.known.as_ref().is_some_and(has_it) {
                continue;
            }
            match self.put(slot, record).await? {
                Saved::Version(version) => self.slots[n].known = Some((record.clone(), version)),
                Saved::Conflict => return Err(self.begun_elsewhere(&self.slots[n])),
            }
        }
        Ok(())
    }

    /// Saves the finished `record`; somebody else may have finished the same run meanwhile.
    /// With `all` every pipeline must be in this run; without, others are left alone.
    pub(crate) async fn finish(
        &mut self,
        record: &RunRecord,
        all: bool,
    ) -> Result<(), BootstrapError> {
        for n in 0..self.slots.len() {
            loop {
                let slot = &self.slots[n];
                match &slot.known {
                    Some((known, _)) if known.run == record.run => {
                        if known.finished_at.is_some() {
                            break;
                        }
                    }
                    _ if all => return Err(self.begun_elsewhere(slot)),
                    _ => break,
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
        tracing::warn!(source = self.source_name, %error, "a run's record is tried again");
    }

    fn begun_elsewhere(&self, slot: &Slot) -> BootstrapError {
        BootstrapError::BegunElsewhere {
            pipeline: slot.pipeline.clone(),
            source_name: self.source_name.to_owned(),
        }
    }
}
