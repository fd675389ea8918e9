//! What happens in a run, derived from its seed.

use std::time::Duration;

use fastrand::Rng;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How far off the clocks of processes may be, in seconds.
const SKEW: i64 = 45 * 60;

/// Whether readers are ever away for so long that records are trimmed, and what they do then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trims {
    Never,
    Fail,
    Continue,
}

/// What the writer does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Change,
    Split,
    RollOverShard,
    RollOver,
}

/// How a reader process runs, and how it ends at [`Life::end`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `run`, and dropped.
    Crash,
    /// `run`, and stopped.
    Stop,
    /// `drain` again and again, and dropped.
    Drain,
}

/// A while in which no call of a process succeeds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spell {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    pub(crate) why: NoAccess,
}

/// What is wrong with the credentials of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAccess {
    /// They cannot be had at the moment, which passes.
    Unsigned,
    /// The services refuse them.
    Refused,
}

/// One process that reads.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub(crate) number: u64,
    pub(crate) owner: String,
    pub(crate) skew: i64,
    pub(crate) way: Way,
    pub(crate) begin: Duration,
    pub(crate) end: Duration,
    /// From when to when nothing moves in the process.
    pub(crate) freezes: Vec<(Duration, Duration)>,
    /// How likely each kind of failure is.
    pub(crate) trouble: f64,
    pub(crate) spell: Option<Spell>,
    pub(crate) batch_size: usize,
    pub(crate) window: Duration,
    pub(crate) factor: usize,
    pub(crate) bisect: bool,
    pub(crate) attempts: Option<u32>,
    pub(crate) on_failure: bool,
    pub(crate) maximum_shards: usize,
    pub(crate) lease: Duration,
    pub(crate) poll: Duration,
    pub(crate) budget: Duration,
}

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) trims: Trims,
    pub(crate) shards: usize,
    pub(crate) items: u32,
    /// Whether reading begins with a handoff token.
    pub(crate) handoff: bool,
    /// Whether there are records the handler fails of always.
    pub(crate) poison: bool,
    /// Whether records that are given up are applied by whoever takes them.
    pub(crate) mended: bool,
    pub(crate) acts: Vec<(Duration, Act)>,
    pub(crate) lives: Vec<Life>,
    /// The healthy reader at the end, which begins once every lease has ended.
    pub(crate) healthy: Life,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let rng = &mut Rng::with_seed(seed);
        let trims = match rng.u8(..10) {
            0..=5 => Trims::Never,
            6 | 7 => Trims::Fail,
            _ => Trims::Continue,
        };
        let skew = match rng.u8(..3) {
            0 => 0,
            1 => rng.i64(0..=SKEW),
            _ => SKEW,
        };
        let poison = rng.u8(..4) == 0;
        let readers = [1, 2, 2, 3, 4][rng.usize(..5)];
        let mut plan = Self {
            seed,
            trims,
            shards: rng.usize(1..=3),
            items: rng.u32(2..=10),
            handoff: rng.u8(..4) == 0,
            poison,
            mended: rng.bool(),
            acts: Vec::new(),
            lives: Vec::new(),
            healthy: Life {
                poll: SECOND,
                attempts: poison.then_some(2),
                on_failure: poison,
                ..life(rng, 0, 0.0)
            },
        };
        let trouble = [0.0, 0.02, 0.1, 0.25][rng.usize(..4)];
        let mut at = Duration::ZERO;
        let episodes = rng.usize(1..=3);
        for episode in 0..episodes {
            let span = within(rng, 5 * SECOND, 40 * SECOND);
            plan.write(rng, at, span);
            for reader in 0..readers {
                plan.read(rng, reader, skew, trouble, at, span);
            }
            at += span;
            let pause = match rng.u8(..4) {
                0 => within(rng, SECOND, MINUTE),
                1 => within(rng, MINUTE, HOUR),
                // All pauses together are well within a day.
                _ if trims == Trims::Never => within(rng, HOUR, 5 * HOUR),
                // Records are as old as can be read, and to a clock that is ahead older.
                2 => within(rng, 23 * HOUR + 40 * MINUTE, 24 * HOUR),
                _ => within(rng, 24 * HOUR, 27 * HOUR),
            };
            if episode + 1 < episodes || rng.bool() {
                for _ in 0..rng.usize(..4) {
                    let act = act(rng);
                    plan.acts
                        .push((at + within(rng, Duration::ZERO, pause), act));
                }
                at += pause;
            }
        }
        plan.acts.sort_by_key(|(at, _)| *at);
        let ends = plan.lives.iter().map(|life| life.end).max();
        let over = ends.unwrap_or_default().max(at);
        plan.healthy.begin = over + 2 * SKEW.unsigned_abs() as u32 * SECOND + 3 * MINUTE;
        plan.healthy.end = plan.healthy.begin + 10 * MINUTE;
        plan.with_spells()
    }

    fn with_spells(mut self) -> Self {
        // Dice of their own, which leave all others as they fall.
        let rng = &mut Rng::with_seed(self.seed ^ 0x5350_454c);
        for life in &mut self.lives {
            if rng.u8(..6) > 0 {
                continue;
            }
            let from = within(rng, life.begin, life.end);
            life.spell = Some(Spell {
                from,
                until: from + within(rng, SECOND, 2 * life.lease),
                why: [NoAccess::Unsigned, NoAccess::Refused][rng.usize(..2)],
            });
        }
        self
    }

    fn write(&mut self, rng: &mut Rng, from: Duration, span: Duration) {
        for _ in 0..rng.usize(3..=25) {
            let at = from + within(rng, Duration::ZERO, span);
            self.acts.push((at, Act::Change));
        }
        for _ in 0..rng.usize(..3) {
            let at = from + within(rng, Duration::ZERO, span);
            self.acts.push((at, cut(rng)));
        }
    }

    /// The processes of one reader during a span, one after the other; the last may live on as a
    /// zombie.
    fn read(
        &mut self,
        rng: &mut Rng,
        reader: usize,
        skew: i64,
        trouble: f64,
        from: Duration,
        span: Duration,
    ) {
        let trims = self.trims;
        let mut at = from + within(rng, Duration::ZERO, 10 * SECOND);
        let until = from + span + within(rng, Duration::ZERO, 20 * SECOND);
        let mut owner = format!("reader-{reader}");
        while at < until {
            let number = self.lives.len() as u64 + 1;
            if rng.bool() {
                owner = format!("reader-{reader}-{number}");
            }
            let mut life = Life {
                owner: owner.clone(),
                // The extremes are where things break.
                skew: [skew, -skew, rng.i64(-skew..=skew)][rng.usize(..3)],
                begin: at,
                ..life(rng, number, trouble)
            };
            life.end = until.min(at + within(rng, 5 * SECOND, 90 * SECOND));
            at = life.end + within(rng, Duration::ZERO, 5 * SECOND);
            match rng.u8(..6) {
                0 | 1 => {
                    let freeze = life.begin + within(rng, SECOND, life.end - life.begin);
                    let thaw = freeze + life.lease.mul_f64(3.0 * rng.f64());
                    life.freezes.push((freeze, thaw));
                    life.end = life.end.max(thaw + within(rng, SECOND, 10 * SECOND));
                }
                2 => {
                    // Another takes its place, for a while or for hours; then it goes on.
                    let thaw = life.end
                        + match rng.u8(..3) {
                            0 => within(rng, SECOND, MINUTE),
                            1 => within(rng, MINUTE, HOUR),
                            _ if trims == Trims::Never => within(rng, HOUR, 5 * HOUR),
                            _ => within(rng, HOUR, 27 * HOUR),
                        };
                    life.freezes.push((life.end, thaw));
                    life.end = thaw + within(rng, SECOND, 20 * SECOND);
                }
                _ => {}
            }
            self.lives.push(life);
        }
    }
}

fn life(rng: &mut Rng, number: u64, trouble: f64) -> Life {
    Life {
        number,
        owner: "healthy".to_owned(),
        skew: 0,
        way: [Way::Crash, Way::Stop, Way::Drain][rng.usize(..3)],
        begin: Duration::ZERO,
        end: Duration::ZERO,
        freezes: Vec::new(),
        trouble,
        spell: None,
        batch_size: [1, 2, 3, 5, 10, 100][rng.usize(..6)],
        window: [Duration::ZERO, Duration::ZERO, 3 * SECOND][rng.usize(..3)],
        factor: match rng.bool() {
            true => 1,
            false => rng.usize(2..=10),
        },
        bisect: rng.bool(),
        attempts: rng.bool().then(|| rng.u32(..5)),
        on_failure: rng.bool(),
        maximum_shards: [1, 2, usize::MAX, usize::MAX][rng.usize(..4)],
        lease: [3 * SECOND, 10 * SECOND, 30 * SECOND, MINUTE][rng.usize(..4)],
        poll: within(rng, SECOND, 15 * SECOND),
        budget: [5 * SECOND, MINUTE][rng.usize(..2)],
    }
}

fn act(rng: &mut Rng) -> Act {
    match rng.u8(..4) {
        0 => cut(rng),
        _ => Act::Change,
    }
}

fn cut(rng: &mut Rng) -> Act {
    match rng.u8(..5) {
        0 | 1 => Act::Split,
        2 | 3 => Act::RollOverShard,
        _ => Act::RollOver,
    }
}

pub(crate) fn within(rng: &mut Rng, from: Duration, to: Duration) -> Duration {
    let spread = to.saturating_sub(from).as_millis() as u64;
    from + Duration::from_millis(rng.u64(..=spread))
}
