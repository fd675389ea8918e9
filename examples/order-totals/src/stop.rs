//! Ends a command within two seconds of Ctrl-C or SIGTERM.
#![allow(clippy::print_stderr, reason = "it is of command line tools")]

use std::io::{self, IsTerminal, stderr};
use std::pin::pin;
use std::process::{ExitCode, exit};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::watch;

use crate::cli::{CLEAR_LINE, FAILED, STOPPED};

/// How long work under way may take to finish after a signal.
const GRACE: Duration = Duration::from_millis(1_400);

/// How long the command may take to end after a signal. After that the process exits, even if a
/// thread is blocked.
const LIMIT: Duration = Duration::from_millis(1_900);

/// Runs a command. Does not wait for what its runtime leaves behind, such as a blocked name
/// look-up.
pub fn run(command: impl Future<Output = ExitCode>) -> ExitCode {
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(command);
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            eprintln!("error: the async runtime cannot start: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// Whether the process was told to stop. The first signal prints what the process waits for. A
/// second one ends the process at once, with the exit status 130 or 143.
#[derive(Debug, Clone)]
pub struct Stop {
    told: watch::Receiver<bool>,
    waits_for: Arc<Mutex<Option<&'static str>>>,
}

impl Stop {
    /// Listens from now on, in its own thread, so that busy threads do not delay it.
    ///
    /// # Errors
    ///
    /// If signal handlers cannot be installed.
    pub fn listen() -> io::Result<Self> {
        let (tell, told) = watch::channel(false);
        let waits_for = Arc::new(Mutex::new(None));
        let (ready, is_ready) = mpsc::channel();
        let what = Arc::clone(&waits_for);
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                let runtime = Builder::new_current_thread().enable_all().build();
                let listening = runtime.and_then(|runtime| {
                    let signals = runtime.block_on(async { Signals::listen() })?;
                    Ok((runtime, signals))
                });
                match listening {
                    Ok((runtime, signals)) => {
                        // The caller may be gone; then there is nothing to stop.
                        let _ = ready.send(Ok(()));
                        runtime.block_on(obey(signals, &tell, &what));
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            })?;
        is_ready.recv().map_err(io::Error::other)??;
        Ok(Self { told, waits_for })
    }

    /// Completes when the process is told to stop, or was.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait(&self) {
        let mut told = self.told.clone();
        // An error means that the listening thread is gone, so no signal will come.
        if told.wait_for(|told| *told).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The result of `work`; `None` if the process was told to stop first. `work` is dropped then,
    /// so it must be cancel safe.
    pub async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.wait() => None,
        }
    }

    /// The result of `work`, which ends itself when the process is told to stop, after it has
    /// finished `what`; `None` if that takes too long. `work` is dropped then.
    pub async fn finishing<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        *self
            .waits_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(what);
        let over = async {
            self.wait().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            done = work => Some(done),
            () = over => None,
        }
    }
}

/// Announces the first signal. Ends the process at the second, or when it does not end in time.
async fn obey(
    mut signals: Signals,
    tell: &watch::Sender<bool>,
    what: &Mutex<Option<&'static str>>,
) {
    signals.next().await;
    let what = *what.lock().unwrap_or_else(PoisonError::into_inner);
    let clear = if stderr().is_terminal() {
        CLEAR_LINE
    } else {
        ""
    };
    match what {
        Some(what) => {
            eprintln!("{clear}stopping: waiting for {what}; another signal ends it at once");
        }
        None => eprintln!("{clear}stopping"),
    }
    tell.send_replace(true);
    let again = pin!(signals.next());
    match tokio::time::timeout(LIMIT, again).await {
        Ok(code) => exit(code),
        Err(_) => {
            eprintln!("stopped before the end; run it again");
            exit(STOPPED.into());
        }
    }
}

/// The exit status of a process that a signal ends.
#[cfg(unix)]
const INTERRUPTED: i32 = 128 + 2;
#[cfg(unix)]
const TERMINATED: i32 = 128 + 15;

#[cfg(unix)]
struct Signals {
    interrupted: tokio::signal::unix::Signal,
    terminated: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupted: signal(SignalKind::interrupt())?,
            terminated: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal; returns the exit status that belongs to it.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupted.recv() => INTERRUPTED,
            _ = self.terminated.recv() => TERMINATED,
        }
    }
}

#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self(tokio::signal::windows::ctrl_c()?))
    }

    async fn next(&mut self) -> i32 {
        self.0.recv().await;
        130
    }
}
