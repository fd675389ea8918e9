//! Child processes. None of them outlives the task that started it.

use std::env;
use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use crate::interrupt::Started;
use crate::workspace;

/// How long a process may take to end after SIGTERM, before it is killed.
const GRACE: Duration = Duration::from_millis(1_500);

/// A process and its children. Dropping the group ends them.
///
/// The process has its own process group: ending `cargo` alone would leave its tests running.
pub(crate) struct Group(
    Child,
    #[allow(dead_code, reason = "it is there to be dropped")] Started,
);

impl Group {
    /// Starts `command` without input.
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        command.stdin(Stdio::null()).kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let spawned = command.spawn();
        let child = spawned.with_context(|| format!("cannot start {}", line(command)))?;
        let started = Started::note(line(command), child.id());
        Ok(Self(child, started))
    }

    /// Waits for the process itself to end. Cancel safe.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.0.wait().await?)
    }

    fn ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

#[cfg(unix)]
impl Drop for Group {
    fn drop(&mut self) {
        use rustix::process::{Pid, Signal, kill_process_group};

        if self.ended() {
            return;
        }
        let group = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let Some(group) = group else { return };
        // An error means that the group has no process left.
        let _ = kill_process_group(group, Signal::TERM);
        let told = Instant::now();
        while !self.ended() && told.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// `cargo` with `args`, in the workspace.
pub(crate) fn cargo(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(workspace::root());
    command
}

/// Runs `command` with its output on ours. Returns whether it succeeded. Cancel safe: the process
/// is stopped.
pub(crate) async fn succeeds(command: &mut Command) -> Result<bool> {
    Ok(Group::spawn(command)?.wait().await?.success())
}

/// Runs `command` with its output on ours. A failure of the command is an error. Cancel safe: the
/// process is stopped.
pub(crate) async fn run(command: &mut Command) -> Result<()> {
    if !succeeds(command).await? {
        bail!("failed: {}", line(command));
    }
    Ok(())
}

/// Returns the standard output of `command`, which must be short. A failure of the command is an
/// error that contains its output. Cancel safe: the process is stopped.
pub(crate) async fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stderr);
        bail!("failed: {}\n{}", line(command), printed.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Awaits `work`, and prints what is going on if it takes longer than two seconds.
pub(crate) async fn telling<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let began = Instant::now();
    let mut pause = Duration::from_secs(2);
    loop {
        match tokio::time::timeout(pause, &mut work).await {
            Ok(done) => return done,
            Err(_) => eprintln!("  … {what} ({} s)", began.elapsed().as_secs()),
        }
        pause = Duration::from_secs(10);
    }
}

/// The command as typed in a shell.
fn line(command: &Command) -> String {
    let command = command.as_std();
    let program = std::path::Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}
