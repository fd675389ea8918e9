//! What a run logs about its progress: what it reads, and how far behind it is.

use std::time::Duration;

use murmur_state::Timestamp;
use murmur_state::outage::Roughly;

use crate::description::StreamDescription;
use crate::trigger::beginning::Beginning;
use crate::trigger::engine::Engine;
use crate::trigger::options::StartingPosition;

/// How often a run that is behind logs that. A run that has caught up logs when it is this far
/// behind again.
const RHYTHM: Duration = Duration::from_secs(60);

/// A run has caught up if it is no further behind than this plus the longest pause between reads.
const NEAR: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct ProgressLog {
    begun: bool,
    caught_up: bool,
    /// When it last logged that it is behind, in monotonic time.
    told_at: Option<Duration>,
}

impl ProgressLog {
    /// Logs once what is read, and from where. The run itself started at `began`.
    pub(crate) fn begin<S, H>(
        &mut self,
        engine: &Engine<S, H>,
        listed: &StreamDescription,
        beginning: &Beginning,
        began: Timestamp,
    ) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let from = match (beginning.captured_at, engine.options.starting_position) {
            _ if beginning.begun_at < began => "where reading stopped".to_owned(),
            (Some(captured_at), _) => format!("the handoff token captured at {captured_at}"),
            (None, StartingPosition::TrimHorizon) => "the oldest record (TRIM_HORIZON)".to_owned(),
            (None, StartingPosition::Latest) => "now (LATEST)".to_owned(),
        };
        tracing::info!(
            trigger = %engine.positions.name,
            stream = listed.info.stream_arn,
            shards = listed.shards.len(),
            from,
            "reads the stream"
        );
    }

    /// Logs how far behind the run is, when due, or that it has caught up. Called whenever the
    /// shards were listed. `all_begun` is whether all shards that this run can read are begun.
    pub(crate) fn tell<S, H>(&mut self, engine: &Engine<S, H>, all_begun: bool) {
        let (clock, trigger) = (&engine.options.clock, &engine.positions.name);
        let status = engine.monitor.status();
        let near = NEAR.saturating_add(engine.options.poll_interval);
        if all_begun && engine.monitor.has_caught_up(near) {
            if !self.caught_up {
                self.end(engine);
            }
            return;
        }
        let lags = status.shards.iter().filter_map(|shard| shard.lag);
        let Some(lag) = lags.max() else { return };
        let now = clock.monotonic();
        let far = if self.caught_up { RHYTHM } else { near };
        let told = self.told_at.filter(|at| now.saturating_sub(*at) < RHYTHM);
        if lag <= far || told.is_some() {
            return;
        }
        (self.told_at, self.caught_up) = (Some(now), false);
        let pending: usize = status.shards.iter().map(|shard| shard.pending).sum();
        tracing::info!(
            %trigger,
            behind = %Roughly(lag),
            shards = status.shards.len(),
            records = status.summary.records,
            pending,
            "is behind the end of the stream"
        );
    }

    /// Logs that everything that was there is done.
    pub(crate) fn end<S, H>(&mut self, engine: &Engine<S, H>) {
        self.caught_up = true;
        tracing::info!(
            trigger = %engine.positions.name,
            records = engine.monitor.summary().records,
            "has caught up with the end of the stream"
        );
    }
}
