//! Ctrl-C and SIGTERM: the first signal drops the task and stops its processes within two seconds;
//! a second one ends the task at once.

use std::process::exit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

/// The longest time for stopping what the task started.
const LIMIT: Duration = Duration::from_millis(1_900);

/// Registers something that must be stopped, for as long as the value exists.
#[derive(Debug)]
pub(crate) struct Started(u64);

struct Open {
    id: u64,
    what: String,
    /// The process group that is killed if it does not end by itself.
    group: Option<u32>,
}

static OPEN: Mutex<Vec<Open>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

fn open() -> MutexGuard<'static, Vec<Open>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Started {
    /// Registers something called `what`, and its process group if it has one.
    pub(crate) fn note(what: impl Into<String>, group: Option<u32>) -> Self {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let what = what.into();
        open().push(Open { id, what, group });
        Self(id)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        open().retain(|open| open.id != self.0);
    }
}

/// Listens for signals from now on, in a separate thread that no work can block. The returned
/// future completes with the exit code when this process is told to end.
pub(crate) fn listen() -> impl Future<Output = u8> {
    let (tell, told) = oneshot::channel();
    let (ready, is_ready) = mpsc::channel();
    let listener = thread::Builder::new().name("signals".into());
    let spawned = listener.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        if let Ok(runtime) = runtime {
            runtime.block_on(obey(&ready, tell));
        }
    });
    // Without a listener the system ends the process itself.
    let listens = spawned.is_ok() && is_ready.recv().is_ok();
    async move {
        match told.await {
            Ok(code) if listens => code,
            _ => std::future::pending().await,
        }
    }
}

async fn obey(ready: &mpsc::Sender<()>, tell: oneshot::Sender<u8>) {
    let Some(mut signals) = Signals::listen() else {
        return;
    };
    // The thread that waits for this is still there.
    let _ = ready.send(());
    let code = signals.next().await;
    let waits_for = what_is_open();
    eprintln!("interrupted: stopping what was started{waits_for}; another signal ends it at once");
    // Without a receiver the task has already ended.
    let _ = tell.send(code);
    let ended_by = tokio::time::timeout(LIMIT, signals.next()).await;
    let left = what_is_open();
    if !left.is_empty() {
        eprintln!("ended at once; this may be left behind{left}");
    }
    kill_groups();
    exit(ended_by.unwrap_or(code).into());
}

fn what_is_open() -> String {
    let open = open();
    match open.is_empty() {
        true => String::new(),
        false => {
            let what: Vec<&str> = open.iter().map(|open| open.what.as_str()).collect();
            format!(": {}", what.join(", "))
        }
    }
}

fn kill_groups() {
    #[cfg(unix)]
    for group in open().iter().filter_map(|open| open.group) {
        use rustix::process::{Pid, Signal, kill_process_group};
        if let Some(group) = Pid::from_raw(group.cast_signed()) {
            // An error means that the group has no process left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

const BY_SIGINT: u8 = 128 + 2;

#[cfg(unix)]
struct Signals {
    interrupted: tokio::signal::unix::Signal,
    terminated: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> Option<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Some(Self {
            interrupted: signal(SignalKind::interrupt()).ok()?,
            terminated: signal(SignalKind::terminate()).ok()?,
        })
    }

    /// The exit code of the next signal.
    async fn next(&mut self) -> u8 {
        const BY_SIGTERM: u8 = 128 + 15;
        tokio::select! {
            _ = self.interrupted.recv() => BY_SIGINT,
            _ = self.terminated.recv() => BY_SIGTERM,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> Option<Self> {
        Some(Self)
    }

    async fn next(&mut self) -> u8 {
        // An error means that signals cannot be received, so none arrives.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        BY_SIGINT
    }
}
