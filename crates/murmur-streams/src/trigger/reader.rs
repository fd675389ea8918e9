//! Reads one shard: what to request next and when, and what an answer means.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::EventRecord;
use futures::FutureExt;
use futures::future::{self, Either};
use murmur_state::retry::Attempts;
use murmur_state::{Causes, Deadline, Timestamp};

use crate::error::StreamError;
use crate::source::{Cursor, MAX_READ, ReadBatch, Start, StreamSource};
use crate::trigger::ending::{Release, Until, Watch};
use crate::trigger::engine::Engine;
use crate::trigger::error::TriggerError;
use crate::trigger::gap::Gap;
use crate::trigger::room::Taken;

/// The pause after a read that left nothing behind, as a fraction of the longest pause. Each empty
/// read doubles it. 200 ms by default: a shard takes 5 reads a second.
const FIRST_PAUSE: u32 = 5;

/// So many consecutive empty answers prove that everything put before is read. DynamoDB sometimes
/// answers empty although records follow.
const SURELY_EMPTY: u32 = 10;

/// A failed read that is repeated later than this after it was due counts as a new one. Meanwhile
/// it waited for room or for its lanes, which is not a failure.
const LATE_AGAIN: Duration = Duration::from_secs(5);

/// A read that was tried.
pub(crate) struct Read<'e> {
    from: Cursor,
    answer: Result<ReadBatch, StreamError>,
    /// The wall time before the request.
    asked_at: Timestamp,
    room: Taken,
    attempts: Attempts<'e>,
}

/// Records that were read, at least one, and the room they take.
pub(crate) struct ReadRecords {
    pub(crate) records: Vec<EventRecord>,
    pub(crate) room: Taken,
}

/// How much of a shard was done when a read was answered.
#[derive(Clone, Copy)]
pub(crate) struct DoneBefore {
    /// Everything put before this time is done.
    pub(crate) through: Option<Timestamp>,
    /// Whether everything that was read is done.
    pub(crate) all: bool,
    /// Whether records were seen, and none is done.
    pub(crate) none: bool,
}

pub(crate) struct ShardReader<'e, S, H> {
    engine: &'e Engine<S, H>,
    until: Until,
    shard: Arc<str>,
    /// Where to read on, or `None` once the shard is read to its end.
    cursor: Option<Cursor>,
    /// Of the failed read that is to be repeated.
    attempts: Option<Attempts<'e>>,
    /// Whether the last read may have left records behind.
    more: bool,
    empty_reads: u32,
    /// When to read again, in monotonic time.
    next_read: Duration,
    /// When the last answered read was requested.
    read_at: Option<Timestamp>,
    /// The request time of the last read at which everything put by then was done.
    clear_at: Option<Timestamp>,
    /// When a gap was last reported. Records put before then are not another gap.
    told_at: Option<Timestamp>,
    reading: bool,
    /// Whether the read in progress waits for room.
    starved: bool,
}

impl<'e, S: StreamSource, H: Sync> ShardReader<'e, S, H> {
    pub(crate) fn new(
        engine: &'e Engine<S, H>,
        until: Until,
        shard: Arc<str>,
        cursor: Cursor,
    ) -> Self {
        Self {
            engine,
            until,
            shard,
            cursor: Some(cursor),
            attempts: None,
            more: true,
            empty_reads: 0,
            next_read: engine.options.clock.monotonic(),
            read_at: None,
            clear_at: None,
            told_at: None,
            reading: false,
            starved: false,
        }
    }

    /// Where to read on, or `None` once the shard is read to its end.
    pub(crate) fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// Whether the shard is read to its end.
    pub(crate) fn is_at_end(&self) -> bool {
        self.cursor.is_none()
    }

    /// Whether the read in progress waits for room.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved
    }

    /// Whether the last read may have left records behind.
    pub(crate) fn left_more(&self) -> bool {
        self.more
    }

    /// Whether everything that was there is read. A read that returned few records, or none, may
    /// still have left records behind.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.empty_reads >= self.engine.options.drain_empty_reads || self.is_at_end()
    }

    /// Whether that is certain, as far as empty answers can tell.
    pub(crate) fn has_surely_caught_up(&self) -> bool {
        let enough = self.engine.options.drain_empty_reads;
        let enough = match self.until {
            Until::Drained => enough,
            Until::ShutDown => enough.max(SURELY_EMPTY),
        };
        self.empty_reads >= enough || self.is_at_end()
    }

    /// When the last answered read was requested.
    pub(crate) fn read_at(&self) -> Option<Timestamp> {
        self.read_at
    }

    /// The request time of the last read at which everything put by then was done.
    pub(crate) fn clear_at(&self) -> Option<Timestamp> {
        self.clear_at
    }

    /// When to read next, in monotonic time. `None` while a read is in progress, and at the end.
    pub(crate) fn due_at(&self) -> Option<Duration> {
        (!self.reading && !self.is_at_end()).then_some(self.next_read)
    }

    fn late_at(&self) -> Duration {
        self.next_read.saturating_add(LATE_AGAIN)
    }

    /// Turns a failed read that is overdue into a new one.
    pub(crate) fn forget_old_failures(&mut self) {
        let (now, late_at) = (self.engine.options.clock.monotonic(), self.late_at());
        self.attempts.take_if(|_| now > late_at);
    }

    /// The next read, if it is due. It answers `None` if the run was stopped, or the shard is to be
    /// left.
    pub(crate) fn begin<'w>(
        &mut self,
        watch: &'e Watch<'w>,
        released: Release,
    ) -> Option<impl Future<Output = Option<Read<'e>>> + use<'e, 'w, S, H>> {
        let engine = self.engine;
        let clock = &engine.options.clock;
        self.due_at().filter(|due| *due <= clock.monotonic())?;
        let cursor = self.cursor.clone()?;
        let room = engine.room.try_take();
        (self.reading, self.starved) = (true, room.is_none());
        let (attempts, late_at) = (self.attempts.take(), self.late_at());
        let shard = Arc::clone(&self.shard);
        Some(async move {
            let room = match room {
                Some(room) => room,
                None => {
                    let turn = engine.unless_stopped(watch, engine.room.take().map(Ok));
                    match future::select(pin!(turn), released).await {
                        Either::Left((Ok::<_, StreamError>(Some(Some(room))), _)) => room,
                        _ => return None,
                    }
                }
            };
            let attempts = attempts
                .filter(|_| clock.monotonic() <= late_at)
                .unwrap_or_else(|| engine.retry.attempts(Deadline::NONE));
            let asked_at = clock.now();
            let read = engine.source.read(&shard, &cursor, MAX_READ);
            let answer = engine.unless_stopped(watch, read).await.transpose()?;
            Some(Read {
                from: cursor,
                answer,
                asked_at,
                room,
                attempts,
            })
        })
    }

    /// Takes over the answer to a read, and returns the records that it brought.
    pub(crate) fn took(
        &mut self,
        read: Option<Read<'e>>,
        done: DoneBefore,
    ) -> Result<Option<ReadRecords>, TriggerError> {
        (self.reading, self.starved) = (false, false);
        let Some(Read {
            from,
            answer,
            asked_at,
            room,
            mut attempts,
        }) = read
        else {
            return Ok(None);
        };
        let ReadBatch { records, next } = match answer {
            Ok(batch) => batch,
            Err(error) => match attempts.after(&error) {
                Some(wait) => {
                    tracing::debug!(shard = &*self.shard, error = %Causes(&error), "a read is repeated");
                    let now = self.engine.options.clock.monotonic();
                    self.next_read = now.saturating_add(wait);
                    // Records that were read before do not wait for a read that fails.
                    self.more = false;
                    self.attempts = Some(attempts);
                    return Ok(None);
                }
                None => return self.unreadable(&from, error, done).map(|()| None),
            },
        };
        attempts.progressed();
        self.judge(&from, done)?;
        let options = &self.engine.options;
        let now = options.clock.monotonic();
        let first_pause = options.poll_interval / FIRST_PAUSE;
        self.more = records.len() >= MAX_READ;
        self.cursor = next;
        self.read_at = Some(asked_at);
        if records.is_empty() {
            self.empty_reads = self.empty_reads.saturating_add(1);
            if done.all && self.cursor.is_some() && self.has_surely_caught_up() {
                self.clear_at = Some(asked_at);
            }
            let doubled = 2u32.saturating_pow(self.empty_reads - 1);
            let pause = first_pause.saturating_mul(doubled);
            self.next_read = now.saturating_add(pause.min(options.poll_interval));
            return Ok(None);
        }
        if !self.more {
            self.next_read = now.saturating_add(first_pause);
        }
        self.empty_reads = 0;
        Ok(Some(ReadRecords { records, room }))
    }

    /// Judges whether an answered read missed records because of where it started. Only the answer
    /// ends the doubt, because the process may have been suspended after the request.
    fn judge(&mut self, from: &Cursor, done: DoneBefore) -> Result<(), TriggerError> {
        match from {
            Cursor::Start(Start::TrimHorizon) => {
                let through = done.through.max(self.told_at);
                let gap = self.engine.trimmed_since(through);
                gap.map_or(Ok(()), |gap| self.gap(gap, done))
            }
            Cursor::Start(Start::Latest) => {
                if done
                    .through
                    .is_some_and(|asked_for| self.engine.is_late(asked_for))
                {
                    self.engine.missed_latest(&self.shard);
                }
                Ok(())
            }
            // The stream judges numbers, and judges a valid iterator by where it started.
            Cursor::Start(_) | Cursor::Iterator { .. } => Ok(()),
        }
    }

    /// Continues after a read that failed permanently, if that is allowed.
    fn unreadable(
        &mut self,
        from: &Cursor,
        error: StreamError,
        done: DoneBefore,
    ) -> Result<(), TriggerError> {
        match error {
            StreamError::Trimmed { .. } => {
                // A number may be too old although nothing after it is gone. Records that were read
                // and are not done are gone, or were put before some that are.
                let is_done = done.all && !done.none;
                if !is_done || self.engine.trimmed_since(done.through).is_some() {
                    self.gap(Gap::Trimmed, done)?;
                }
                self.cursor = Some(Start::TrimHorizon.into());
                Ok(())
            }
            StreamError::IteratorExpired { .. } => {
                let begun = match from {
                    Cursor::Start(begun) | Cursor::Iterator { renew: begun, .. } => begun,
                };
                if *begun == Start::Latest {
                    self.gap(Gap::LatestExpired, done)?;
                }
                // Judged when it is answered, like any beginning.
                self.cursor = Some(begun.clone().into());
                Ok(())
            }
            StreamError::UnknownShard { .. } => {
                self.engine.on_gap(&self.shard, Gap::ShardGone)?;
                self.cursor = None;
                Ok(())
            }
            error => Err(error.into()),
        }
    }

    /// Fails, or continues with the records there are. Records put until now are part of the
    /// reported gap.
    fn gap(&mut self, gap: Gap, done: DoneBefore) -> Result<(), TriggerError> {
        self.engine.on_gap(&self.shard, gap)?;
        self.told_at = Some(self.engine.options.clock.now());
        if done.all {
            self.clear_at = self.told_at;
        }
        Ok(())
    }
}
