//! A DynamoDB with Streams inside this process.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;

use dynoxide::Database;
use tokio::runtime;
use tokio::sync::oneshot;

/// An in-memory DynamoDB with Streams, served on a free port of 127.0.0.1.
///
/// It runs on a thread and a runtime of its own, so tests with runtimes of their own can come and
/// go. It stops when the last clone is dropped, and its tables are gone then.
///
/// What it does not show: one shard per stream, which never splits; no throttling and no
/// transaction conflicts; reads are always consistent; TTL acts only when
/// [`database`](Self::database)`().sweep_ttl()` is called.
#[derive(Clone)]
pub struct Embedded {
    server: Arc<Server>,
}

struct Server {
    address: SocketAddr,
    database: Database,
    /// Dropped with the last clone, which is what tells the thread to end.
    _stop: oneshot::Sender<()>,
}

impl Embedded {
    /// Starts a server with no tables. It answers as soon as this returns.
    ///
    /// # Errors
    ///
    /// When the port, the thread or the in-memory database cannot be had.
    pub fn start() -> io::Result<Self> {
        let database = Database::memory().map_err(io::Error::other)?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();

        let served = database.clone();
        thread::Builder::new()
            .name("embedded-dynamodb".into())
            .spawn(move || {
                // When this ends the runtime is dropped, and with it every open connection.
                runtime.block_on(async move {
                    match tokio::net::TcpListener::from_std(listener) {
                        Ok(listener) => tokio::select! {
                            () = dynoxide::server::serve_on(listener, served) => {}
                            _ = stopped => {}
                        },
                        Err(error) => panic!("the embedded DynamoDB cannot listen: {error}"),
                    }
                });
            })?;
        Ok(Self {
            server: Arc::new(Server {
                address,
                database,
                _stop: stop,
            }),
        })
    }

    /// The URL a client connects to, such as `http://127.0.0.1:40123`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// The database behind the server, for what the API has no call for, such as a TTL sweep.
    pub fn database(&self) -> &Database {
        &self.server.database
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("address", &self.server.address)
            .finish_non_exhaustive()
    }
}
