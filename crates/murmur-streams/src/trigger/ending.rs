//! How long a run continues.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{self, BoxFuture, Shared};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    Drained,
    ShutDown,
}

/// Completes when a shard is to be left to another reader.
pub(crate) type Release = Shared<BoxFuture<'static, ()>>;

/// The state that lasts for one run.
pub(crate) struct Watch<'a> {
    pub(crate) until: Until,
    stop: Shared<BoxFuture<'a, ()>>,
    halt: Mutex<Option<oneshot::Sender<()>>>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(until: Until, shutdown: impl Future<Output = ()> + Send + 'a) -> Self {
        let (halt, halted) = oneshot::channel();
        let stop = async move {
            future::select(shutdown.boxed(), halted).await;
        };
        Self {
            until,
            stop: stop.boxed().shared(),
            halt: Mutex::new(Some(halt)),
        }
    }

    /// Stops the run from within. As with a shutdown, work in progress is finished.
    pub(crate) fn halt(&self) {
        *self.halt.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Completes when nothing more is to be started.
    pub(crate) fn stop(&self) -> Shared<BoxFuture<'a, ()>> {
        self.stop.clone()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop().now_or_never().is_some()
    }
}

/// Lets other tasks run, because source and handler may always be ready at once.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
